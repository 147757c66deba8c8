"""Generated answers to held-out prompts, scored against the reference answers. The texts are recorded."""

from __future__ import annotations

import re
import string
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate

from harness.evaluate import generation, heldout
from harness.evaluate.heldout import Row
from harness.evaluate.seeding import seeded
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

    The evaluation's `sampling` sets the decoding. Prompts of similar length are batched together. Where samples are
    drawn, an evaluation that is made again draws the same.
    """
    prompts = [row["input_ids"][: row["completion_mask"].index(1)] for row in rows]
    with seeded():
        written = _written(writer, prompts, evaluation, progress)
    tokenizer = writer.tokenizer
    pairs = [heldout.texts(row, tokenizer, skip_special_tokens=True) for row in rows]
    texts = [writer.answer(output, repeated) for output, (repeated, _) in zip(written, pairs, strict=True)]
    references = [answer.strip() for _, answer in pairs]
    scores = compute(texts, references)
    hashes = [text_hash(str(prompt)) for prompt in prompts]
    columns: dict[str, list[Any]] = {
        "item_id": row_ids(hashes),
        "prompt_hash": hashes,
        "question": tokenizer.batch_decode(prompts),
        "answer": texts,
        "target": references,
        "parsed": [bool(text) for text in texts],
        "ended": [writer.ended(output) for output in written],
        "loops": [output.loops for output in written],
        **{f"metric/{name}": values for name, values in scores.items() if name not in _PER_SET},
    }
    return {name: _metric(values) for name, values in scores.items()}, columns


def _written(
    writer: Writer, prompts: Sequence[list[int]], evaluation: Evaluation, progress: Callable[[int], None]
) -> list[generation.Generated]:
    assert evaluation.sampling is not None and evaluation.batch_size is not None, "a generation says how"
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    written: dict[int, generation.Generated] = {}
    for start in range(0, len(order), evaluation.batch_size):
        batch = order[start : start + evaluation.batch_size]
        texts = generation.generate(
            writer.model, writer.tokenizer, [prompts[i] for i in batch], evaluation.sampling, evaluation.precision
        )
        written.update(zip(batch, texts, strict=True))
        progress(len(written))
    return [written[i] for i in range(len(prompts))]


def _metric(values: Sequence[float]) -> Metric:
    mean = mean_and_standard_error(values)
    return Metric(value=mean.value, stderr=mean.standard_error, higher_is_better=True)


Scores = dict[str, list[float]]


class _Local(evaluate.Metric):  # type: ignore[misc]
    """Base of metrics that compare texts with reference texts, in memory."""

    citation = ""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, experiment_id=uuid.uuid4().hex)

    def _info(self) -> Any:
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(
            description=str(self.__doc__), citation=self.citation, inputs_description="texts", features=features
        )


class Rouge(_Local):
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures with Porter stemming, 0 to 1, by rouge_score."""

    citation = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Scores:
        from rouge_score.rouge_scorer import RougeScorer

        names = ("rouge1", "rouge2", "rougeL")
        scorer = RougeScorer(names, use_stemmer=True)
        scores = [scorer.score(target=r, prediction=p) for p, r in zip(predictions, references, strict=True)]
        return {name: [float(score[name].fmeasure) for score in scores] for name in names}


class Sacre(_Local):
    """chrF per item, and BLEU and chrF of the whole set, 0 to 100, by sacrebleu."""

    citation = "Post 2018 (arXiv 1804.08771); Popovic 2015 (chrF); Papineni et al. 2002 (BLEU)"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Scores:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        chrf, answers, targets = CHRF(), list(predictions), list(references)
        return {
            "sentence_chrf": [chrf.sentence_score(p, [r]).score for p, r in zip(answers, targets, strict=True)],
            "chrf": [chrf.corpus_score(answers, [targets]).score],
            "bleu": [BLEU().corpus_score(answers, [targets]).score],
        }


class Overlap(_Local):
    """Exact match and token F1 of normalized answers, 0 or 1 and 0 to 1."""

    citation = "Rajpurkar et al. 2016 (arXiv 1606.05250), whose normalization it uses"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> Scores:
        pairs = [(normalized(p), normalized(r)) for p, r in zip(predictions, references, strict=True)]
        return {"exact_match": [float(p == r) for p, r in pairs], "token_f1": [token_f1(p, r) for p, r in pairs]}


def normalized(text: str) -> str:
    """Return the text in lower case, without punctuation and articles, with single spaces."""
    plain = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def token_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words; 1 if both texts are empty."""
    answer, target = prediction.split(), reference.split()
    if not answer or not target:
        return float(answer == target)
    common = (Counter(answer) & Counter(target)).total()
    return 2 * common / (len(answer) + len(target))


def compute(predictions: Sequence[str], references: Sequence[str]) -> Scores:
    """Return every metric of every module by its name: one number per item, or one for the whole set."""
    scores: Scores = {}
    for module in (Rouge(), Sacre(), Overlap()):
        scores.update(module.compute(predictions=list(predictions), references=list(references)))
    return scores
