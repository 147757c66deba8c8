"""Needs of lm-eval tasks beside their rows, provided or refused before the tasks are set up."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval.tasks

from harness.records import base
from harness.sources import packages

_PUNKT = ("llama-index-core", "llama_index/core/_static/nltk_cache")  # a package that carries NLTK's own files


@contextmanager
def met(name: str, folders: Sequence[Path]) -> Iterator[None]:
    """Provide what lm-eval needs to set up the task `name`, whose files lie in `folders`, within this context.

    Raises:
        ValueError: a library, a metric's script or other data that the task downloads is not available.
    """
    _sentences(name, folders)
    _forget_modules()
    try:
        with _local_modules():
            yield
    except (OSError, ImportError, RuntimeError) as error:  # RuntimeError: a data set that is a program
        reason = base.first_line(error).rstrip(". ")
        raise ValueError(
            f"eval.tasks={name}: lm-eval cannot set it up here: {type(error).__name__}: {reason}. Install what is "
            "missing; what the task fetches by itself must be in reach, or have been fetched here once (under HF_HOME)"
        ) from error


def _forget_modules() -> None:
    """Have the modules that task files name imported anew, so that each load of a task finds them as the first one did.

    Some hold a random generator or other state that a load moves on (GPQA's examples, RULER): of several models that
    one process evaluates, each would be asked another order of choices.
    """
    core = Path(lm_eval.tasks.__file__).parent
    for key, module in list(sys.modules.items()):
        facts = getattr(module, "__dict__", {})  # its own: torch.ops has an attribute of any name
        file = facts.get("__file__")
        if "__mtime__" in facts or (file and core in Path(file).parent.parents):  # the mark of lm-eval's loader
            del sys.modules[key]
            package, _, name = key.rpartition(".")
            above = getattr(sys.modules.get(package), "__dict__", {})
            above.pop(name, None)  # `from package import name` would find the module there


@contextmanager
def _local_modules() -> Iterator[None]:
    """Replace the metric `code_eval` by our module within this context: `evaluate` would download a script for it."""
    import evaluate

    theirs = evaluate.load

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        if path != "code_eval":
            return theirs(path, *arguments, **options)
        from harness.evaluate.code_eval import CodeEval

        return CodeEval(keep_in_memory=True, experiment_id=uuid.uuid4().hex)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = theirs


def allow(name: str, unsafe: Iterable[str], unsafe_code: bool) -> None:
    """Allow the tasks `unsafe` to run code that the model writes, if `unsafe_code` permits it.

    Raises:
        ValueError: there are such tasks, and it is not permitted.
    """
    running = ", ".join(sorted(unsafe))
    if not running:
        return
    if not unsafe_code:
        raise ValueError(
            f"eval.tasks={name}: {running} runs the code that the model writes, on this machine and under "
            "your account. If that is what you want, in a container, say eval.unsafe_code=true"
        )
    os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric's own question, which has been answered


def _sentences(name: str, folders: Sequence[Path]) -> None:
    """Provide NLTK's data from a package to tasks that split sentences (IFEval), which would download it."""
    files = (file for folder in folders for file in folder.rglob("*.py"))
    if not any("punkt_tab" in file.read_text(encoding="utf-8", errors="replace") for file in files):
        return
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        package, path = _PUNKT
        try:
            nltk.data.path.append(str(packages.folder(package) / path))
        except ValueError as error:
            raise ValueError(f"eval.tasks={name} needs NLTK's punkt_tab to tell sentences apart: {error}") from error
