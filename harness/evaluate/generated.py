"""Generated answers to held-out prompts, scored against the reference answers. The texts are recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.evaluate import generation, heldout, local_metrics
from harness.evaluate.heldout import Row
from harness.records.evaluation import Evaluation
from harness.records.items import row_ids, text_hash
from harness.records.record import Metric
from harness.stats import mean_and_standard_error

_PER_SET = ("chrf", "bleu")


@dataclass(frozen=True)
class Writer:
    """A model and its tokenizer. `closing` ends an answer where a chat template ends it with plain text."""

    model: Any
    tokenizer: Any
    closing: str = ""

    def answer(self, written: generation.Generated, repeated: str) -> str:
        """Return the text up to `closing`, without the end of the prompt that shares a token with the answer."""
        text = written.text.partition(self.closing)[0] if self.closing else written.text
        return text.removeprefix(repeated).strip()

    def ended(self, written: generation.Generated) -> bool:
        """Return True if the answer ended by itself: with an end-of-sequence token or with `closing`."""
        return written.ended or bool(self.closing and self.closing in written.text)


def score(
    writer: Writer, rows: Sequence[Row], evaluation: Evaluation, progress: Callable[[int], None]
) -> tuple[dict[str, Metric], dict[str, list[Any]]]:
    """Return the metrics, and one outcome per row with question, answer and target as texts.

    The evaluation's `sampling` sets the decoding. Prompts of similar length are batched together.
    """
    prompts = [row["input_ids"][: row["completion_mask"].index(1)] for row in rows]
    written, tokenizer = _written(writer, prompts, evaluation, progress), writer.tokenizer
    pairs = [heldout.texts(row, tokenizer, skip_special_tokens=True) for row in rows]
    texts = [writer.answer(one, repeated) for one, (repeated, _) in zip(written, pairs, strict=True)]
    references = [answer.strip() for _, answer in pairs]
    found = local_metrics.compute(texts, references)
    hashes = [text_hash(str(prompt)) for prompt in prompts]
    columns: dict[str, list[Any]] = {
        "item_id": row_ids(hashes),
        "prompt_hash": hashes,
        "question": tokenizer.batch_decode(prompts),
        "answer": texts,
        "target": references,
        "parsed": [bool(text) for text in texts],
        "ended": [writer.ended(one) for one in written],
        "loops": [one.loops for one in written],
        **{f"metric/{name}": values for name, values in found.items() if name not in _PER_SET},
    }
    return {name: _metric(values) for name, values in found.items()}, columns


def _written(
    writer: Writer, prompts: Sequence[list[int]], evaluation: Evaluation, progress: Callable[[int], None]
) -> list[generation.Generated]:
    assert evaluation.sampling is not None and evaluation.batch_size is not None, "a generation says how"
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    found: dict[int, generation.Generated] = {}
    for start in range(0, len(order), evaluation.batch_size):
        batch = order[start : start + evaluation.batch_size]
        texts = generation.generate(
            writer.model, writer.tokenizer, [prompts[i] for i in batch], evaluation.sampling, evaluation.precision
        )
        found.update(zip(batch, texts, strict=True))
        progress(len(found))
    return [found[i] for i in range(len(prompts))]


def _metric(values: Sequence[float]) -> Metric:
    mean = mean_and_standard_error(values)
    return Metric(value=mean.value, stderr=mean.standard_error, higher_is_better=True)
