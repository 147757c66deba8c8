"""VeRA: vectors that scale random matrices shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Rank, Setting
from harness.methods.peft_adapter import Adapted

if TYPE_CHECKING:
    from peft import VeraConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Vera(Adapted):
    """W x + diag(b) B diag(d) A x, with A and B random, frozen and shared; d starts at `d_initial`, b at zero.

    Layers of different shapes share the matrices of the largest one and use a corner of them. Trains r + d_out
    parameters per adapted matrix; the random matrices are drawn from the run's seed and saved beside them, which makes
    the file larger than what was trained. Kopiczko et al. 2024, arXiv 2310.11454, equation 2.
    """

    leaves_inputs: ClassVar[bool] = True

    target: targets.Target
    r: Rank
    vera_dropout: Annotated[float, Field(ge=0, lt=1)]
    d_initial: Annotated[float, Field(gt=0)]

    def __post_init__(self) -> None:
        targets.check(self.target)

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> VeraConfig:
        """The targeted modules, the random matrices drawn from the seed."""
        from peft import VeraConfig

        return VeraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            vera_dropout=self.vera_dropout,
            d_initial=self.d_initial,
            projection_prng_key=setting.seed,
            save_projection=True,
            target_modules=list(targets.resolve(model, self.target)),
        )

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """R + d_out, summed over the adapted matrices."""
        return sum(self.r + d_out for _, d_out in targets.shapes_of(model, self.target).values())
