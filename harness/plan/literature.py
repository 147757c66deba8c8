"""Page of published memory figures beside the predictions of this program. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_GB = 10**9
_FACTORY = "[LLaMA-Factory](https://github.com/hiyouga/LLaMA-Factory#hardware-requirement) (its estimate)"
_GALORE = "[GaLore](https://arxiv.org/abs/2403.03507), section 1 (its calculation)"
_QLORA = "[QLoRA](https://arxiv.org/abs/2305.14314), section 1"
SHARED = (
    "train.micro_batch_size=1", "train.global_batch_size=1", "train.max_length=2048", "train.precision=bf16",
    "train.gradient_checkpointing=true", "target=all_linear",
)  # fmt: skip
_PARTS = ("weights", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Published:
    """Published figure as printed, in gigabytes, and the settings of the closest run."""

    what: str
    figure: str
    source: str
    settings: tuple[str, ...]
    why: str  # why the two differ


PURE = "method=full method.precision=bf16"
ROWS = (
    Published(
        "Full, 7B, everything in 16 bits", "60", _FACTORY, (*PURE.split(), "model=llama-7b"),
        "8 bytes a parameter are weights, gradients and two moments; theirs rounds up and leaves room for activations",
    ),
    Published(
        "Full, 7B, everything in 16 bits", "58", _GALORE, (*PURE.split(), "model=llama-7b"),
        "14 + 42 + 2 there (weights; gradients and moments; activations of one row of 2,048 tokens): the first two are "
        "ours, rounded up; our peak is in the optimizer's step, when the activations are gone",
    ),
    Published(
        "Full, 65B, 16-bit weights", "more than 780", _QLORA, (*PURE.split(), "model=llama-65b"),
        "780 over 65 is 12 bytes a parameter, as with moments in float32; ours is 8, with everything in 16 bits",
    ),
    Published(
        "LoRA, 7B", "16", _FACTORY, ("method=lora", "model=llama-7b"),
        "2 bytes a parameter of the base are most of both",
    ),
    Published(
        "LoRA, 70B", "160", _FACTORY, ("method=lora", "model=llama-2-70b"),
        "the base is 2 bytes a parameter; theirs is a round number above that",
    ),
    Published(
        "QLoRA, 4 bits, 7B", "6", _FACTORY, ("method=qlora", "model=llama-7b"),
        "embeddings and output head stay in 16 bits; ours has 2,048 tokens a row, whose activations shorter rows would "
        "not need",
    ),
    Published(
        "QLoRA, 4 bits, 65B", "less than 48", _QLORA, ("method=qlora", "model=llama-65b"),
        "within theirs",
    ),
    Published(
        "QLoRA, 4 bits, 70B", "48", _FACTORY, ("method=qlora", "model=llama-2-70b"),
        "theirs leaves more room above the 4-bit base",
    ),
)  # fmt: skip


def cells() -> list[tuple[str, ...]]:
    """Return the settings to plan, without repeats, in the order of the rows."""
    return list(dict.fromkeys((*row.settings, *SHARED) for row in ROWS))


def page(plans: dict[tuple[str, ...], dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    header = ("What", "Published", "Predicted peak", *(name.capitalize() for name in _PARTS), "Source", "Difference")
    lines = [_line(row, plans[(*row.settings, *SHARED)]) for row in ROWS]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))
    return (
        "# Published memory beside the prediction\n\n"
        "Made by `python -m harness.plan literature`. Every prediction is of one step with "
        f"`{' '.join(SHARED)}`, and of what tensors take: a CUDA context (about half a gigabyte) and the gaps of the "
        "allocator are not in it. Sizes are in GB, 10^9 bytes; the parts are those at the peak, activations with "
        "temporaries.\n\n"
        f"{table}\n"
    )


def _line(row: Published, plan: dict[str, Any]) -> tuple[str, ...]:
    peak, *parts = (f"{plan[f'{part}_bytes'] / _GB:.1f}" for part in ("peak", *_PARTS))
    return row.what, row.figure, f"**{peak}**", *parts, row.source, row.why
