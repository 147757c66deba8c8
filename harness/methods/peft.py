"""Any adapter type that PEFT has and that has no file of its own here, by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.contexts import Context, Packed, Sharded, TrainedWith
from harness.methods.lora import check_rank
from harness.methods.peft_adapter import Adapted, hold_in_float32, on_meta
from harness.methods.prompt_learning import BESIDE_A_ROW, check_context

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


# The types of PEFT 0.21 for causal language models that cannot be trained here, and why.
CANNOT = {
    "ADALORA": "its schedule takes part in every step: use method=adalora",
    "SHADOW": "it hands carriers through the model in place of tensors, which transformers 5.23 cannot reshape",
    "TRAINABLE_TOKENS": "on a model with tied embeddings it adapts the head too, which TRL 1.16 refuses",
    "MULTITASK_PROMPT_TUNING": "it needs the number of the task beside each row",
    "POLY": "it needs the number of the task beside each row",
    "XLORA": "it mixes trained LoRA adapters, which would have to be given",
}


IN_EVERY_LAYER = ("CARTRIDGE", "PREFIX_TUNING")  # virtual tokens that are keys and values
VIRTUAL = ("CPT", "PROMPT_TUNING", "P_TUNING", *IN_EVERY_LAYER)
# types that change no weight of the base: what they add depends on the inputs, or on the task
UNMERGED = ("ADAPTION_PROMPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA", *VIRTUAL)
_BY_INPUTS = ("alora_invocation_tokens", "arrow_config")  # settings with which LoRA's update depends on the inputs


@dataclass(frozen=True, kw_only=True)
class Peft(Adapted):
    """`peft_type=LOHA options.r=8` is PEFT's LoHaConfig(r=8): the options are the fields of that type's configuration.

    Types that adapt modules get `target`'s, unless the options name their own. There is no formula that holds for all
    types: the expected count is taken from the type on a model without weights. Cost and source: see PEFT's page on it.
    """

    peft_type: str
    target: targets.Target
    options: dict[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        targets.check(self.target)

    @property
    def merges(self) -> bool:
        """Return whether the type changes weights of the base, by the same update for all inputs."""
        return self.peft_type not in UNMERGED and not any(self.options.get(name) for name in _BY_INPUTS)

    def unsupported(self, context: Context) -> str:
        """Refuse sharding, since types differ in the weights that they read, and what virtual tokens refuse."""
        match context:
            case Sharded():
                return "what a type of PEFT's reads of the weights, and when, is not known here"
            case Packed() if self.peft_type in VIRTUAL:
                return BESIDE_A_ROW
            case TrainedWith(spec) if spec.gradient_checkpointing and self.peft_type in IN_EVERY_LAYER:
                return (
                    f"train.gradient_checkpointing=true with method.peft_type={self.peft_type}: what is computed again "
                    "would lack its keys and values: set it to false"
                )
        return super().unsupported(context)

    def peft_config(self, model: PreTrainedModel, setting: Setting | None = None) -> PeftConfig:
        """Return the type's configuration.

        Raises:
            ValueError: no such type, no such option, or a combination that PEFT refuses.
        """
        if self.peft_type in CANNOT:
            raise ValueError(f"method.peft_type={self.peft_type} cannot be trained here: {CANNOT[self.peft_type]}")
        schema = _schema(self.peft_type)
        allowed = {f.name for f in dataclasses.fields(schema)} - {"peft_type", "task_type", "auto_mapping"}
        unknown = sorted(set(self.options) - allowed)
        if unknown:
            raise ValueError(
                f"method.options.{unknown[0]}: {self.peft_type} has no such option; it has {', '.join(sorted(allowed))}"
            )
        options = {"task_type": "CAUSAL_LM", **self.options}
        if "target_modules" in allowed and "target_modules" not in self.options and self.peft_type != "ADAPTION_PROMPT":
            options["target_modules"] = list(targets.resolve(model, self.target))
        if isinstance(init := options.get("init_lora_weights"), str) and "target_modules" in options:
            names = tuple(options["target_modules"])
            modules = {name: m for name, m in model.named_modules() if name.endswith(names) and targets.is_linear(m)}
            check_rank(int(options.get("r", schema.r)), init, modules)
        try:
            return schema(**options)
        except TypeError as error:
            raise ValueError(f"method.peft_type={self.peft_type} method.options={self.options}: {error}") from error

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap the model, or return it as it is if it has no weights and the type needs them."""
        try:
            adapted = self._wrapped(model)
        except NotImplementedError:
            if not on_meta(model):
                raise
            return model
        if self.peft_type in VIRTUAL:
            check_context(model.config, setting.max_length, adapted.active_peft_config.num_virtual_tokens)
        return adapted

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return the number of parameters that the type trains on this architecture.

        It is counted on a model without weights, or with random ones if the type needs them.

        Raises:
            ValueError: PEFT cannot attach the type to this architecture.
        """
        import torch
        from transformers import AutoModelForCausalLM

        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    other = AutoModelForCausalLM.from_config(model.config).requires_grad_(False)
                return sum(p.numel() for p in self._wrapped(other).parameters() if p.requires_grad)
            except NotImplementedError:
                continue
        raise ValueError(f"method.peft_type={self.peft_type} cannot be attached to a {model.config.model_type} model")

    def _wrapped(self, model: PreTrainedModel) -> Any:
        from peft import get_peft_model

        config = self.peft_config(model)
        try:
            adapted = get_peft_model(model, config)
        except (TypeError, AssertionError, AttributeError) as error:  # PEFT's ways to say that an option is missing
            raise ValueError(
                f"method.peft_type={self.peft_type} method.options={self.options}: PEFT cannot attach it ({error}); "
                "an option may be missing"
            ) from error
        hold_in_float32(p for p in adapted.parameters() if p.requires_grad)
        return adapted


def _schema(peft_type: str) -> type[PeftConfig]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    schemas = {str(getattr(key, "value", key)): schema for key, schema in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if peft_type not in schemas:
        raise ValueError(f"method.peft_type={peft_type}: the installed PEFT has {', '.join(sorted(schemas))}")
    schema: type[PeftConfig] = schemas[peft_type]
    return schema
