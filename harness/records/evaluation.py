"""One look at a trained model, and what identifies it. Needs neither torch nor Hydra."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from harness.records.identity import digest
from harness.records.specs import Backend, Role, SamplingSpec, Strict, Weights

# Graded outcomes beside an accuracy -> whether a higher value is better
GRADED = {"p_right": True, "p_right_norm": True, "brier": False, "brier_norm": False}


@dataclass(frozen=True, kw_only=True)
class Evaluation(Strict):
    """One look at a trained model: a task, its rows, the prompt format and the precision.

    `kind`: an official task, the answer loss on held-out rows, text after their prompts, or the loss on general text.
    """

    kind: Literal["lm_eval", "heldout", "generation", "text"]
    task: str  # the lm-eval task, or "<data name>/validation" and "<data name>/test"
    role: Role
    rows: str  # what identifies the rows: the data set's content, or the source of an official task
    limit: int | None
    num_fewshot: int | None
    chat_template: bool
    precision: str
    batch_size: int | None  # rows per batch, where batches are of rows
    batch_tokens: int | None = None  # tokens per batch, where batches are of tokens
    backend: Backend = "shared_prefix"
    definition: str | None = None  # what identifies the task or its rows where lm-eval and `rows` do not
    sampling: SamplingSpec | None = None  # how text is generated, where the harness does it
    weights: Weights = "attached"
    # that of training, where it is another: frozen weights, those of the untouched model too, are held in it
    train_precision: str | None = None

    @property
    def eval_id(self) -> str:
        """Eight hex digits over what is asked, then which weights answer where they are not the attached ones.

        The role is no part of it, it only says how a report reads the score.
        """
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("role", "weights")}
        if self.train_precision is None:  # which evaluations from before the field have no word of
            del fields["train_precision"]
        asked = digest(fields)
        return asked if self.weights == "attached" else f"{asked}-{self.weights}"

    @property
    def is_served(self) -> bool:
        """Whether a server answers that loads the weights itself, and not the model that the run holds."""
        return self.kind == "lm_eval" and self.backend == "vllm"

    @property
    def phase(self) -> str:
        """What a run does when it makes this."""
        if self.kind == "generation":
            return "generate"
        return "validate" if self.role == "validation" else "evaluate"
