"""Checks of a sweep that need the libraries, made before anything starts and without loading weights.

They run in their own process, as runs do.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from lm_eval.models.utils import resolve_max_length

from harness.config import kernels
from harness.config.experiment import Experiment, Sizes, check_id
from harness.data import tokenized
from harness.evaluate import tasks, vllm
from harness.measure import hardware
from harness.methods.base import Method
from harness.methods.contexts import OnModel, OnRows, Packed, Served, TrainedWith
from harness.records import base, data_check
from harness.records.events import Emit, Message, Progress, RunSized
from harness.records.settings import ModelSpec
from harness.run.audit import audit
from harness.run.worker import quiet, setting, wanted_tokens
from harness.sources import models
from harness.train import batches, launcher
from harness.train.kernels import unknown
from harness.train.loop import compute_dtype

Verdict = Literal["wrong", "unsupported"]


class UnsupportedError(Exception):
    """Configuration that is valid and cannot be run on this machine or with this model."""


def check(experiments: list[Experiment], emit: Emit) -> list[tuple[int, Verdict, str]]:
    """Check targets, tasks and data files of experiments before anything starts, without loading weights.

    The bytes that each experiment will write are emitted as `RunSized`.

    Returns:
        (position in `experiments`, verdict, message) for each problem: wrong, or unsupported here.
    """
    return _problems(experiments, _checks, emit)


def check_tasks(experiments: list[Experiment], emit: Emit) -> list[tuple[int, Verdict, str]]:
    """Check the tasks only, for weights that exist already; return problems as `check` does."""
    return _problems(experiments, _task_checks, emit)


def _problems(
    experiments: list[Experiment], checks: Callable[[Experiment, Emit], list[tuple[Any, Callable[[], Any]]]], emit: Emit
) -> list[tuple[int, Verdict, str]]:
    quiet()
    problems: list[tuple[int, Verdict, str]] = []
    complaints: dict[Any, tuple[Verdict, str] | None] = {}
    results: dict[Any, Any] = {}
    for position, experiment in enumerate(experiments):
        emit(Progress(position, len(experiments)))
        for key, look in checks(experiment, emit):
            if key not in complaints:
                complaints[key], results[key] = _outcome(look)
            sizes = results[key]
            if isinstance(sizes, Sizes):
                emit(RunSized(position, sizes.weights, sizes.checkpoint))
            complaint = complaints[key]
            if complaint is not None:
                problems.append((position, *complaint))
    return problems


def _checks(experiment: Experiment, emit: Emit) -> list[tuple[Any, Callable[[], Any]]]:
    model, method, spec = experiment.model, experiment.method, experiment.eval
    dtype = compute_dtype(experiment.train.precision)

    def attach() -> Sizes:
        method.require(TrainedWith(experiment.train))
        if method.trains:
            kernels.check(experiment.train, experiment.launch)  # by now the precision is known
        if method.trains and not is_elsewhere:
            batches.limit(experiment.train)  # the shared memory that its processes need
        if experiment.train.packing and (reason := method.unsupported(Packed())):
            raise ValueError(f"train.packing=true with method={method.name}: {reason}; set it to false")
        skeleton = models.skeleton(model, dtype)
        _check_positions(skeleton, experiment.train.max_length)
        reason = method.unsupported(OnModel(skeleton))
        if not reason and method.trains:
            reason = unknown(skeleton, experiment.train.kernels)
        if reason:
            raise UnsupportedError(reason)
        expected = method.expected_trainable(skeleton)
        attached = method.attach(skeleton, setting(experiment, models.tokenizer(model), []))
        method.check_count(expected, sum(p.numel() for p in attached.parameters() if p.requires_grad))
        return _sizes(method, attached)

    def look_at_data() -> None:
        check_of_data = audit(experiment, emit)
        for line in data_check.lines(check_of_data):
            emit(Message(line))
        if check_of_data.refusals:
            raise ValueError(check_of_data.refusals[0])

    def look_at_rows() -> None:
        refused: tuple[str, ...] | None = None
        with suppress(ValueError):  # `look_at_data` has reported the problem already
            refused = audit(experiment, emit).refusals
        if refused is None or refused:
            return
        tokenizer = models.tokenizer(model)
        method.require(OnRows(tokenized(experiment.data, tokenizer, wanted_tokens(experiment)).train, tokenizer))

    is_elsewhere = hardware.RUNS_ON in os.environ  # the machine that makes the run checks itself
    at_any_rate = replace(method, lr=None)  # a sweep may have many learning rates, and no check depends on them

    def launch() -> None:
        if not method.trains or is_elsewhere:
            return
        if reason := launcher.unsupported(experiment.launch):
            raise UnsupportedError(reason)
        if hardware.device() == "cuda" and (lack := missing()):
            raise ValueError(lack)

    looks: list[tuple[Any, Callable[[], Any]]] = [
        (("launch", experiment.launch, method.trains), launch),
        (("weights", model), partial(models.check, model)),
        ((model, at_any_rate, replace(experiment.train, lr=None)), attach),
        (check_id(experiment), look_at_data),
        ((experiment.data, wanted_tokens(experiment), at_any_rate), look_at_rows),
    ]
    for name in spec.retention:
        if spec.tasks and name not in spec.tasks:  # else `_task_checks` reads it
            key = (name, "eval.retention", spec.include_path)
            looks.append((key, partial(tasks.check_name, *key)))
    return looks + (_task_checks(experiment, emit) if spec.test == "always" else [])


def _task_checks(experiment: Experiment, emit: Emit) -> list[tuple[Any, Callable[[], Any]]]:
    spec = experiment.eval
    where = (spec.source, spec.path, spec.include_path, spec.unsafe_code)

    merged, precision = spec.weights == "merged", spec.precision

    def backend() -> None:
        if spec.backend != "vllm":
            return
        reason = vllm.unsupported(hardware.device() == "cuda") or unserved(experiment.method, merged, precision)
        if reason:
            raise UnsupportedError(reason)

    def chat_template() -> None:
        if spec.chat_template and not models.tokenizer(experiment.model).chat_template:
            raise ValueError(
                f"eval.chat_template=true: the tokenizer of model={experiment.model.name} has no chat template; set it "
                "to false, or take an instruction-tuned model"
            )

    looks: list[tuple[Any, Callable[[], Any]]] = [
        (("weights", experiment.model), partial(models.check, experiment.model)),
        (("backend", spec.backend, replace(experiment.method, lr=None), merged, precision), backend),
        (("chat template", spec.chat_template, experiment.model), chat_template),
    ]
    for name in spec.task_limits:
        key = (name, "eval.task_limits", spec.include_path)
        looks.append((key, partial(tasks.check_name, *key)))
    context = None if spec.backend == "vllm" else partial(_context, experiment.model)
    for task in spec.tasks:
        wanted = (task, *where, spec.num_fewshot)
        looks.append(((*wanted, spec.backend, experiment.model), partial(tasks.check, *wanted, context)))
    return looks


def _context(model: ModelSpec) -> int:
    """Return the tokens that lm-eval takes a model's context to have."""
    return int(resolve_max_length(models.configuration(model), models.tokenizer(model)))


def unserved(method: Method, merged: bool, precision: str) -> str:
    """Return the reason why eval.backend=vllm cannot serve the weights of a method; "" if it can."""
    reason = "" if merged else method.unsupported(Served())
    if not reason and method.trains and not merged and precision == "fp32":
        reason = "vLLM computes adapters in 16 bits (eval.precision=bf16), and eval.precision is fp32"
    if not reason:
        return ""
    ways = ", or eval.weights=merged" if method.merges else ""
    return f"eval.backend=vllm with method={method.name}: {reason}; use eval.backend=shared_prefix{ways}"


def _check_positions(skeleton: Any, max_length: int) -> None:
    """Refuse rows that are longer than a model's table of positions, as GPT-2 and OPT have one.

    Raises:
        ValueError: names the length and what the model takes.
    """
    words = skeleton.get_input_embeddings()
    tables = [module for module in skeleton.modules() if isinstance(module, torch.nn.Embedding) and module is not words]
    context = getattr(skeleton.config, "max_position_embeddings", None)
    if tables and context is not None and max_length > context:
        raise ValueError(
            f"train.max_length={max_length}: this {skeleton.config.model_type} model has a table of {context} "
            f"positions, beyond which a row ends the run; use train.max_length={context} or less"
        )


def _sizes(method: Method, attached: Any) -> Sizes:
    if not method.trains:
        return Sizes(0, 0)
    trained = [parameter for parameter in attached.parameters() if parameter.requires_grad]
    held = sum(
        parameter.numel() * parameter.element_size() + method.optimizer_bytes(parameter) for parameter in trained
    )
    saved = sum(tensor.numel() * tensor.element_size() for tensor in method.saved(attached).values())
    return Sizes(saved, held)


def _outcome(look: Callable[[], Any]) -> tuple[tuple[Verdict, str] | None, Any]:
    """Return (verdict and message, None) if the look raises an error, otherwise (None, its result)."""
    try:
        return None, look()
    except UnsupportedError as error:
        return ("unsupported", str(error)), None
    except ValueError as error:
        return ("wrong", " ".join(str(error).split())), None
    except Exception as error:  # a library that fails on a value: the log says where, and nothing is started
        traceback.print_exc()
        return ("wrong", f"{type(error).__name__}: {base.first_line(error)}"), None


_COMPILERS = ("gcc", "clang")  # in Triton's order (triton/runtime/build.py); CC goes before them


def missing() -> str:
    """Return the error if Triton cannot compile the launcher of its kernels; "" if it can or need not.

    The output head's loss is a Triton kernel on a GPU, so that every run that trains needs it. Versions of Triton that
    come with a compiled launcher do not call `compile_module_from_src`.
    """
    source = _driver_source()
    if source is None or "compile_module_from_src" not in source:
        return ""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None or shutil.which(compiler) is None:
        given = f"CC={os.environ['CC']} is no program" if "CC" in os.environ else "neither gcc nor clang is on the PATH"
        return _lacking(f"a C compiler, and {given}")
    header = Path(sysconfig.get_paths(_scheme())["include"], "Python.h")
    return "" if header.is_file() else _lacking(f"{header}, which is not there")


def _lacking(what: str) -> str:
    return (
        f"training on a GPU compiles Triton's launcher, which needs {what}: install them (apt install gcc python3-dev, "
        "conda install gcc), or set CC"
    )


def _driver_source() -> str | None:
    """Return the source of Triton's driver for NVIDIA cards; None without Triton. It is not imported."""
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "backends" / "nvidia" / "driver.py"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _scheme() -> str:
    """Return the sysconfig scheme that Triton uses to find the header; Debian's own names a folder without it."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme
