"""What an evaluation task takes beside its rows: had, or refused in one line, before a model is loaded."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.sources import assets

_PUNKT = ("llama-index-core", "llama_index/core/_static/nltk_cache")  # a package that carries NLTK's own files


@contextmanager
def met(name: str, folders: Sequence[Path]) -> Iterator[None]:
    """Set up the task `name`, whose files lie in `folders`; what lm-eval lacks for it is a ValueError.

    Raises:
        ValueError: a library, a metric's script or other data that the task fetches cannot be had.
    """
    _sentences(name, folders)
    try:
        with _local_modules():
            yield
    except (OSError, ImportError, RuntimeError) as error:  # RuntimeError: a data set that is a program
        reason = next(iter(str(error).splitlines()), "").rstrip(". ")
        raise ValueError(
            f"eval.tasks={name}: lm-eval cannot set it up here: {type(error).__name__}: {reason}. Install what is "
            "missing; what the task fetches by itself must be in reach, or have been fetched here once (under HF_HOME)"
        ) from error


@contextmanager
def _local_modules() -> Iterator[None]:
    """Give tasks that run code `code_eval` from here: `evaluate` would fetch a script for it."""
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
    """Let tasks run what the model writes where that was said, and nowhere else.

    Raises:
        ValueError: one of the tasks does, and it was not said.
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
    """Give tasks that tell sentences apart (IFEval) NLTK's data from a package: they would look on the internet."""
    files = (file for folder in folders for file in folder.rglob("*.py"))
    if not any("punkt_tab" in file.read_text(encoding="utf-8", errors="replace") for file in files):
        return
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        package, path = _PUNKT
        try:
            nltk.data.path.append(str(assets.folder(package) / path))
        except ValueError as error:
            raise ValueError(f"eval.tasks={name} needs NLTK's punkt_tab to tell sentences apart: {error}") from error
