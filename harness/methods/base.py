"""The contract that every fine-tuning method keeps, and the method that does nothing.

Imports neither torch nor peft, so that a configuration is checked, and a wrong one refused, without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from harness.methods.contexts import Context, Served
from harness.sources import pickles

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.records.settings import TrainSpec

LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Facts about the run that a method may use.

    A configuration is checked on a model without weights (on the meta device) and with no rows.
    """

    total_steps: int
    compute_dtype: torch.dtype
    tokenizer: PreTrainedTokenizerBase
    seed: int
    max_length: int  # tokens of the longest row
    rows: Sequence[Mapping[str, list[int]]]  # training rows: input_ids and completion_mask, of one length
    model_content: str | None  # identifies the base's weights
    original: Callable[[], PreTrainedModel]  # loads the base once more, plain and in float32
    own_tokenizer: bool = True  # False in a plan, where another tokenizer stands for the model's


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A fine-tuning method. Its fields are the schema of `conf/method/<name>.yaml`, its docstring is its card.

    A method must define `attach` and `expected_trainable`, may change how it trains, and may refuse a context that it
    cannot work in. Everything else has a default: AdamW over the parameters that require gradients, PEFT's files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    trains: ClassVar[bool] = True
    differs_at_start: ClassVar[str] = ""  # why the logits at step 0 are not the base model's; "": they are
    # whether its adapters, without dropout, return the same bits if inputs stay in the dtype of autocast
    leaves_inputs: ClassVar[bool] = False
    imports_first: ClassVar[tuple[str, ...]] = ()  # modules that must be imported before torch's other libraries
    mergeable: ClassVar[bool] = True  # whether the update can be folded into the base's weights

    # fields added later, with the value that repeats what was done before: a recipe leaves a field at that value out
    added: ClassVar[Mapping[str, Any]] = {}

    lr: LearningRate | None  # published center of the method's learning rate; `lr_scale` sweeps vary around it
    # lowest and highest rate worth searching: a fact about the method, and no part of a run's identity
    lr_range: tuple[LearningRate, LearningRate] | None = None
    # the name in tables and titles, with settings in braces, as in "LoRA (r={r})"; null: `name`
    display: str | None = None
    cite: tuple[str, ...] = ()  # keys of conf/references.bib

    @property
    def origin(self) -> str | None:
        """Return what the weights are if they were trained elsewhere, so that how is unknown; None: they train here."""
        return None

    @property
    def merges(self) -> bool:
        """Return whether the update can be folded into the base's weights."""
        return self.mergeable

    def known_settings(self) -> dict[str, Any]:
        """Return the settings that are known of weights from elsewhere."""
        return {}

    @property
    def name(self) -> str:
        """Return the name of the method's file, so that nothing else has to be kept in step."""
        return type(self).__module__.rpartition(".")[2]

    # Must: what a method is.

    @abstractmethod
    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Return the model to train, in which exactly the parameters that train require gradients.

        Raises:
            ValueError: the target matches no module of the model.
        """

    @abstractmethod
    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return the number of trained parameters in closed form, from the shapes of the base model.

        `model` is the base before `attach`; it may be on the meta device.
        """

    # May change how it trains, and how its result is kept.

    def settled(self, device: str, precision: str) -> Method:
        """Return the method with the fields filled in that depend on the device and the run's resolved precision."""
        return self

    def planned(self) -> Method:
        """Return the method whose step a plan takes: itself, or one like it whose optimizer needs no device."""
        return self

    def training(self, spec: TrainSpec) -> TrainSpec:
        """Return the training settings without those that the method cannot use; they become null in its recipe."""
        return spec

    def quantized(self) -> Method | None:
        """Return the method that trains the same beside a base in 4 bits; None if there is none."""
        return None

    def load_options(self, compute_dtype: torch.dtype) -> dict[str, Any]:
        """Return keyword arguments of `from_pretrained`: a frozen base is held in the dtype it is computed in."""
        return {"dtype": compute_dtype}

    def read(self, name: str, **options: Any) -> PreTrainedModel:
        """Load the base from a folder or a Hub id; `options` are `from_pretrained`'s."""
        from transformers import AutoModelForCausalLM

        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, **options)
        return model

    def param_groups(self, model: Any, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return parameter groups for the optimizer: vectors (biases, norms, magnitudes) are not decayed."""
        trained = [(p, self.is_decayed(name, p)) for name, p in model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for p, decayed in trained if decayed], "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p, decayed in trained if not decayed], "lr": lr, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def is_decayed(self, name: str, parameter: torch.Tensor) -> bool:
        """Return whether weight decay applies to a trained parameter: to matrices, and not to vectors."""
        return bool(parameter.dim() > 1)

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over what `param_groups` returned."""
        import torch

        return torch.optim.AdamW(groups, fused=True)

    def optimizer_bytes(self, parameter: torch.Tensor) -> int:
        """Return the most bytes that the optimizer holds for a trained parameter.

        AdamW holds two moments in the parameter's dtype.
        """
        return 2 * int(parameter.nbytes)

    def resident_optimizer_bytes(self, parameter: torch.Tensor) -> int:
        """Return those of `optimizer_bytes` that must lie on the device: the driver may move others to the host."""
        return self.optimizer_bytes(parameter)

    def penalty(self, model: Any) -> torch.Tensor | None:
        """Return a term that is minimized beside the loss, once per optimizer step; None if there is none.

        The reported loss leaves it out.
        """
        return None

    def after_step(self, model: Any, step: int) -> None:
        """Act after each optimizer step, counted from 1, while the gradients are still there."""

    def state(self, model: Any) -> dict[str, Any]:
        """Return the state that training changes beside trained parameters and optimizer.

        It may hold numbers, text and tensors, nested.
        """
        return {}

    def load_state(self, model: Any, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""

    def fixed_weights(self, model: Any) -> AbstractContextManager[None]:
        """Return a context in which no weight changes, so that what weights alone determine is computed once.

        Scores are the same to the bit with it and without.
        """
        return nullcontext()

    def save(self, model: Any, folder: Path) -> None:
        """Write what is needed, beside the base model, to use the result."""
        model.save_pretrained(folder)

    def saved(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the tensors that `save` writes; `model` may be on the meta device."""
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Attach to a fresh base model what `save` wrote."""
        from peft import PeftModel

        pickles.refuse(folder, str(folder))
        return PeftModel.from_pretrained(model, str(folder))

    def merge(self, model: Any) -> Any:
        """Fold the update into the base's weights and return a plain model.

        Raises:
            ValueError: the method cannot be merged.
        """
        if not self.merges:
            raise ValueError(f"method={self.name} cannot be merged into the base model: serve it attached")
        return model.merge_and_unload()

    # May refuse.

    def unsupported(self, context: Context) -> str:
        """Return why the method does not work in this context, and what to do instead; "" if it does.

        A subclass matches the contexts that it refuses, and leaves the others to `super().unsupported(context)`.
        """
        return "it saves no LoRA adapter" if isinstance(context, Served) else ""

    # Not overridden.

    def require(self, context: Context) -> None:
        """Refuse a context that the method does not work in.

        Raises:
            ValueError: says why, and what to do instead.
        """
        if reason := self.unsupported(context):
            raise ValueError(reason)

    def check_count(self, expected: int, trained: int) -> None:
        """Refuse a model of which something else trains than the method's formula says.

        0 trained parameters stand for a model without weights, to which some types cannot be attached.

        Raises:
            ValueError: the numbers differ.
        """
        if self.trains and trained and trained != expected:
            raise ValueError(
                f"method={self.name}: {trained:,} parameters would train, and its formula gives {expected:,}: the "
                "installed libraries attach it otherwise to this model, so that name and settings would not say what "
                "is trained; take another target or rank"
            )


@dataclass(frozen=True, kw_only=True)
class Base(Method):
    """The untouched base model: what every method is compared with. Trains nothing."""

    trains: ClassVar[bool] = False

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Return the model as it is."""
        return model

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return 0: nothing is trained."""
        return 0

    def save(self, model: Any, folder: Path) -> None:
        """Write nothing: the base model is the result."""

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Return the base model, which is the result."""
        return model

    def merge(self, model: Any) -> Any:
        """Return the model, which is plain already."""
        return model

    def unsupported(self, context: Context) -> str:
        """Return "": the base as published works in every context."""
        return ""
