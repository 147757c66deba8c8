"""Atomic creation of an output folder, and the comparison of two models on fixed prompts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import files

if TYPE_CHECKING:
    import torch

PROMPTS = (
    "The capital of France is",
    "Question: Which gas do plants take in?\nAnswer:",
    "def add(a, b):\n    return",
    "In 1969, 12 people counted 3,408 stars; 7 x 8 =",
)


def check_free(out: Path) -> None:
    """Refuse to overwrite an existing file or a folder that is not empty.

    Raises:
        ValueError: there is one at `out`.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ValueError(f"{out}: is there already and not empty; nothing is overwritten, give another folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` if the block ends without an error."""
    temporary = files.temporary_folder(out.parent, f".{out.name}-")
    try:
        yield temporary
        files.open_as_folder(temporary)
        check_free(out)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def logits(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    """Return float32 logits of shape (tokens, vocabulary) for each fixed prompt."""
    import torch

    found = []
    with torch.inference_mode():
        for prompt in PROMPTS:
            ids_1T = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
            found.append(model(input_ids=ids_1T).logits[0].float().cpu())
    return found


def compare(before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, Any]:
    """Return the largest difference of two lists of logits, the largest logit, and how many top tokens differ."""
    pairs = list(zip(before, after, strict=True))
    return {
        "largest_difference": max(float((a - b).abs().max()) for a, b in pairs),
        "largest_logit": max(float(a.abs().max()) for a, _ in pairs),
        "positions": sum(len(a) for a, _ in pairs),
        "positions_with_another_first_token": sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in pairs),
    }
