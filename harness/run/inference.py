"""Cost of inference with a run's result: the base, the update attached to it, and the update merged into it.

All three are measured in one process, one after another, on the same prompts and each with freshly loaded weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.config.experiment import Experiment
from harness.evaluate import generation
from harness.measure.memory import Phases
from harness.measure.operations import tensors_in
from harness.records import record
from harness.records.record import FurtherAdapters, InferenceRecord, Served, Speed
from harness.records.settings import InferenceSpec, SamplingSpec
from harness.run import device_map, provenance
from harness.train import failure

PHASE = "inference"
_SECOND, _SWITCHES = "second", 6
Written = list[tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Use:
    """Settings of the measurement and factories of its models.

    `base` loads the base afresh. `attached` attaches the update to it; None if nothing was trained. `merged` merges the
    update into it; None if the method cannot. `fixed_weights` is the method's. `prompts` are token ids of held-out
    rows. `folder` holds the saved weights.
    """

    spec: InferenceSpec
    precision: str
    tokenizer: Any
    prompts: Sequence[Sequence[int]]
    phases: Phases
    base: Callable[[], Any]
    attached: Callable[[], Any] | None
    fixed_weights: Callable[[Any], contextlib.AbstractContextManager[None]]
    merged: Callable[[], Any] | None
    folder: Path


def measure(use: Use) -> dict[str, Any]:
    """Return the measured fields of an `InferenceRecord`."""
    result = _Measured(further=None, alone="nothing was trained")
    for name, make in {"plain": use.base, "attached": use.attached, "merged": use.merged}.items():
        if make is None:
            continue
        try:
            result.add(name, make, use)
        except (RuntimeError, MemoryError) as error:
            if failure.cause(error) not in failure.MEMORY:
                raise
            result.unmeasured[name] = f"out of memory: {' '.join(str(error).split())[:200]}"
        gc.collect()  # after the handler: the error keeps the tensors of its frames alive
        device_map.clear()
    written = result.written
    both = "attached" in written and "merged" in written
    equal = sum(a == b for a, b in zip(written["attached"], written["merged"], strict=True)) if both else None
    return {
        "served": result.served,
        "unmeasured": result.unmeasured,
        "equal_outputs": equal,
        "further": result.further,
        "alone_reason": result.unmeasured.get("attached", result.alone),
    }


@dataclass
class _Measured:
    """Measurements so far."""

    further: FurtherAdapters | None
    alone: str
    served: dict[str, Served] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)  # by the model's name: why

    def add(self, name: str, make: Callable[[], Any], use: Use) -> None:
        """Load, measure and free one model."""
        with use.phases(PHASE):
            model = make().eval()
        with use.fixed_weights(model) if name == "attached" else contextlib.nullcontext():
            self.served[name], self.written[name] = _served(model, use)
        if name == "attached":
            with use.phases(PHASE):
                self.further, self.alone = _further(model, use.folder)


def _served(model: Any, use: Use) -> tuple[Served, Written]:
    """Return the cost of inference with one model, and its continuations of the first prompts as token ids."""
    spec = use.spec
    with use.phases(PHASE):
        speeds = tuple(_speed(model, use, rows) for rows in spec.batch_sizes)
        sampling = SamplingSpec(max_new_tokens=spec.new_tokens)
        prompts = use.prompts[: spec.num_outputs]
        answers = generation.generate(model, use.tokenizer, prompts, sampling, use.precision) if prompts else []
    latest = use.phases.latest
    assert latest is not None, "a phase has just ended"
    result = Served(
        weight_bytes=_held_bytes(model),
        peak_memory_bytes=latest.peak_memory_bytes,
        speeds=speeds,
        num_outputs=len(answers),
        empty_outputs=sum(answer.empty for answer in answers),
        looping_outputs=sum(answer.loops for answer in answers),
    )
    return result, [answer.token_ids for answer in answers]


def _speed(model: Any, use: Use, rows: int) -> Speed:
    """Return the medians of the repetitions, after one warm-up, which allocates memory and selects kernels."""
    spec = use.spec
    device = model.get_input_embeddings().weight.device
    ids_BT = torch.tensor(_equally_long(use.prompts, rows, spec.prompt_tokens), device=device)

    def seconds(tokens: int) -> float:
        start = _now(device)
        settings = generation.options(use.tokenizer, SamplingSpec(), exactly=tokens)
        generation.continued(model, ids_BT, torch.ones_like(ids_BT), settings, use.precision)
        return _now(device) - start

    seconds(spec.new_tokens)
    first = statistics.median(seconds(1) for _ in range(spec.num_repeats))
    whole = statistics.median(seconds(spec.new_tokens) for _ in range(spec.num_repeats))
    return Speed(
        batch_size=rows,
        prompt_tokens=spec.prompt_tokens,
        new_tokens=spec.new_tokens,
        time_to_first_token_seconds=first,
        tokens_per_second=rows * spec.new_tokens / whole,
    )


def _equally_long(prompts: Sequence[Sequence[int]], rows: int, tokens: int) -> list[list[int]]:
    """Return `rows` real prompts in turn, each repeated if it is short and cut to its last `tokens` tokens."""
    assert prompts, "a run has validation rows"
    cut = []
    for i in range(rows):
        prompt = list(prompts[i % len(prompts)])
        cut.append((prompt * -(-tokens // len(prompt)))[-tokens:])
    return cut


def _further(model: Any, folder: Path) -> tuple[FurtherAdapters | None, str]:
    """Load the adapter a second time under another name; return its bytes and the time of a switch, or why not."""
    from peft import PeftModel

    if not isinstance(model, PeftModel) or not (folder / "adapter_config.json").is_file():
        return None, "the result is no PEFT adapter"
    before = _held_bytes(model)
    try:
        model.load_adapter(str(folder), adapter_name=_SECOND)
        seconds = [_switch_seconds(model, name) for name in (_SECOND, "default") * (_SWITCHES // 2)]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:  # PEFT's ways to say that it cannot
        return None, f"PEFT keeps no second one: {' '.join(str(error).split())[:200]}"
    held = _held_bytes(model) - before
    return FurtherAdapters(num_adapters=2, bytes_per_adapter=held, switch_seconds=statistics.median(seconds)), ""


def _switch_seconds(model: Any, name: str) -> float:
    device = model.get_input_embeddings().weight.device
    start = _now(device)
    model.set_adapter(name)
    return _now(device) - start


def _held_bytes(model: Any) -> int:
    """Return the bytes of all tensors of a model. A storage that tensors share counts once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors_in(model)}
    return sum(storages.values())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def settings_of(spec: InferenceSpec) -> dict[str, Any]:
    """Return the settings in the form of a record: lists in place of tuples."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(spec).items()}


class Making(NamedTuple):
    """Tokenizer, rows, phases and model factories of the process that runs an experiment."""

    tokenizer: Any
    rows: Sequence[dict[str, list[int]]]  # held out for validation
    phases: Phases
    base: Callable[[], Any]  # loads the base
    merged: Callable[[], Any]  # loads the base and merges the update into it


def keep(experiment: Experiment, weights_from: str | None, made: Making) -> None:
    """Measure the cost of inference and write its record."""
    method, weights = experiment.method, experiment.weights_folder
    merges = method.trains and method.merges
    use = Use(
        spec=experiment.inference,
        precision=experiment.train.precision,
        tokenizer=made.tokenizer,
        prompts=_prompts(made.rows),
        phases=made.phases,
        base=made.base,
        attached=(lambda: _attached(experiment, made.base())) if method.trains else None,
        fixed_weights=method.fixed_weights,
        merged=made.merged if merges else None,
        folder=weights,
    )
    measured = InferenceRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        weights_from=weights_from,
        settings=settings_of(experiment.inference),
        precision=experiment.train.precision,
        unmerged_reason="" if merges else _unmerged(experiment),
        provenance={**provenance.facts(), **provenance.device()},
        **measure(use),
    )
    record.write(measured, experiment.folder / "inference.json")


def _attached(experiment: Experiment, base: Any) -> Any:
    """Return the base with the update attached, and adapters in the dtype that autocast computes in.

    Autocast converts weights without gradients in each pass, that is for each token. The cost of these conversions
    would count as part of the method. Methods that read the dtype from their inputs keep their adapters as they are.
    """
    model = experiment.method.restore(base, experiment.weights_folder)
    if experiment.train.precision == "bf16" and experiment.method.leaves_inputs:
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer.weight.dtype == torch.float32:
                layer.to(torch.bfloat16)
    return model


def _unmerged(experiment: Experiment) -> str:
    if not experiment.method.trains:
        return "nothing was trained"
    return f"method={experiment.method.name} cannot be merged into the base model"


def _prompts(rows: Sequence[dict[str, list[int]]]) -> list[list[int]]:
    """Return the tokens of each row before its answer; the whole row if the answer starts at its first token."""
    starts = [row["completion_mask"].index(1) for row in rows]
    return [row["input_ids"][: start or None] for row, start in zip(rows, starts, strict=True)]
