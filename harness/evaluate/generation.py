"""Text generation with explicit settings, and detection of degenerate text."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from harness.records.settings import SamplingSpec

LONGEST_UNIT = 32  # tokens of the longest repeated unit that is searched for
FEWEST_COPIES, FEWEST_TOKENS = 4, 16  # of a repetition loop


@dataclass(frozen=True)
class Generated:
    """The continuation of a prompt by a model, without padding and the end-of-sequence token."""

    token_ids: tuple[int, ...]
    ended: bool  # by an end-of-sequence token, not by the limit
    text: str

    @property
    def empty(self) -> bool:
        """True if the text is empty or only white space."""
        return not self.text.strip()

    @property
    def loops(self) -> bool:
        """True if the tokens contain a repetition loop."""
        return loops(self.token_ids)


def loops(tokens: Sequence[Hashable]) -> bool:
    """Return True if a unit of at most 32 tokens occurs at least four times in a row, over at least 16 tokens."""
    for size in range(1, min(LONGEST_UNIT, len(tokens) // FEWEST_COPIES) + 1):
        needed = max(FEWEST_TOKENS, FEWEST_COPIES * size) - size  # tokens that equal the one a unit before
        run = 0
        for before, token in zip(tokens, tokens[size:], strict=False):
            run = run + 1 if token == before else 0
            if run >= needed:
                return True
    return False


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], sampling: SamplingSpec, precision: str
) -> list[Generated]:
    """Continue a batch of prompts, in the order given.

    Samples are drawn from torch's global random state: where sampling is to be repeated, it is seeded around this.

    Args:
        model: a causal language model, or an adapter around one, in evaluation mode.
        tokenizer: its tokenizer, with a padding and an end-of-sequence token.
        prompts: token ids; they are padded on the left, as generation needs.
        sampling: every setting of decoding; of the model's own defaults, only the tokens that end an answer count.
        precision: of the forward passes, as `computing` takes it.
    """
    device = model.get_input_embeddings().weight.device
    ends = _ends(model, tokenizer)
    tokens: dict[int, list[int]] = {}
    for batch in _batches(model, prompts):
        ids_BT, mask_BT = _padded([prompts[i] for i in batch], tokenizer.pad_token_id, device)
        settings = {**options(tokenizer, sampling), "eos_token_id": ends}
        result_BT = continued(model, ids_BT, mask_BT, settings, precision)
        tokens.update(zip(batch, result_BT[:, ids_BT.shape[1] :].tolist(), strict=True))
    return [_read(tokens[i], tokenizer, ends) for i in range(len(prompts))]


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, and those that the model was tuned to end a turn with."""
    own = getattr(getattr(_inner(model), "generation_config", None), "eos_token_id", None)
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def options(tokenizer: Any, sampling: SamplingSpec, exactly: int | None = None) -> dict[str, Any]:
    """Return the arguments of `model.generate`. With `exactly`, that many tokens are written even past an end token."""
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    return {
        "do_sample": sampling.temperature > 0,
        "num_beams": 1,
        "repetition_penalty": sampling.repetition_penalty,
        "max_new_tokens": exactly or sampling.max_new_tokens,
        "min_new_tokens": exactly,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "use_cache": True,
        **drawn,
    }


def continued(
    model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, options: dict[str, Any], precision: str
) -> torch.Tensor:
    """Return prompts with their continuations as token ids; shapes (batch, tokens)."""
    import torch
    from transformers import GenerationConfig

    from harness.evaluate.precision import computing

    with torch.no_grad(), computing(model, precision), _without_defaults(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Position ids are not supported")  # `_batches` sees to it
        result: torch.Tensor = model.generate(
            input_ids=ids_BT, attention_mask=mask_BT, generation_config=GenerationConfig(**options)
        )
    return result


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """Take away the settings that a model brings, as no_repeat_ngram_size, which fill in for those not given."""
    from transformers import GenerationConfig

    inner = _inner(model)
    own, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own


def _batches(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the positions in `prompts` that may be batched together: all of them, or those of equal length.

    PEFT's prompt learning passes no positions on, so that left padding would move the tokens behind it.
    """
    config = getattr(model, "active_peft_config", None)
    if not getattr(config, "is_prompt_learning", False):
        return [list(range(len(prompts)))]
    lengths = dict.fromkeys(map(len, prompts))
    return [[i for i, prompt in enumerate(prompts) if len(prompt) == length] for length in lengths]


def _padded(prompts: Sequence[Sequence[int]], padding: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(map(len, prompts))
    ids = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _read(written: list[int], tokenizer: Any, ends: Sequence[int]) -> Generated:
    answer = list(takewhile(lambda token: token not in ends, written))
    ended = len(answer) < len(written)
    return Generated(tuple(answer), ended, tokenizer.decode(answer, skip_special_tokens=True))
