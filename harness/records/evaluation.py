"""One evaluation of a trained model, and its identity. Needs neither torch nor Hydra."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from harness.records.base import Strict
from harness.records.identity import digest
from harness.records.settings import Backend, Role, SamplingSpec

# Graded outcomes beside an accuracy -> whether a higher value is better
GRADED = {"p_right": True, "p_right_norm": True, "brier": False, "brier_norm": False}


@dataclass(frozen=True, kw_only=True)
class Evaluation(Strict):
    """One evaluation of a trained model: a task, its rows, the prompt format and the precision.

    `kind`: an official task, the answer loss on held-out rows, text after their prompts, or the loss on general text.
    """

    kind: Literal["lm_eval", "heldout", "generation", "text"]
    task: str  # the lm-eval task, or "<data name>/validation" and "<data name>/test"
    role: Role
    rows: str  # identity of the rows: the data set's content, or the source of an official task
    limit: int | None
    num_fewshot: int | None
    chat_template: bool
    precision: str
    batch_size: int | None  # rows per batch, where batches are of rows
    batch_tokens: int | None = None  # tokens per batch, where batches are of tokens
    backend: Backend = "shared_prefix"
    definition: str | None = None  # identity of the task or its rows where lm-eval and `rows` give none
    sampling: SamplingSpec | None = None  # how text is generated, where the harness does it
    weights: str = "attached"  # or "merged", or "converted-r16": the update as LoRA of that rank
    # of training, where it differs: frozen weights are held in it, those of the untouched model as well
    train_precision: str | None = None

    @property
    def eval_id(self) -> str:
        """Return eight hex digits over the fields, followed by the kind of weights unless they are the attached ones.

        The role is not part of it: it only decides how a report reads the score.
        """
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("role", "weights")}
        if self.train_precision is None:  # evaluations from before the field have no such key
            del fields["train_precision"]
        questions = digest(fields)
        return questions if self.weights == "attached" else f"{questions}-{self.weights}"

    @property
    def is_served(self) -> bool:
        """Return whether a server that loads the weights itself answers, instead of the model that the run holds."""
        return self.kind == "lm_eval" and self.backend == "vllm"

    @property
    def phase(self) -> str:
        """Return the phase of a run that makes this evaluation."""
        if self.kind == "generation":
            return "generate"
        return "validate" if self.role == "validation" else "evaluate"
