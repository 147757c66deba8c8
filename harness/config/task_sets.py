"""Names for several tasks at once, from `conf/task_sets.yaml`. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import yaml

from harness.records import base
from harness.records.base import Strict
from harness.records.settings import EvalSpec
from harness.sources.packages import conf_dir


@dataclass(frozen=True, kw_only=True)
class Suite(Strict):
    """Tasks under one name; `rows` is the source that has the rows of all of them."""

    tasks: tuple[str, ...]
    rows: str
    retention: tuple[str, ...] = ()
    unsafe: bool = False


@cache
def suites() -> dict[str, Suite]:
    """Return every set by its name."""
    data = yaml.safe_load((conf_dir() / "task_sets.yaml").read_text(encoding="utf-8"))
    return base.parsed(dict[str, Suite], data)


def expanded(spec: EvalSpec) -> EvalSpec:
    """Return the same settings with the tasks of each set in place of its name.

    Raises:
        ValueError: a set's tasks run code that the model writes, which was not allowed.
    """
    sets = suites()
    for name in spec.tasks:
        if name in sets and sets[name].unsafe and not spec.unsafe_code:
            raise ValueError(
                f"eval.tasks={name}: {', '.join(sets[name].tasks)} run the code that the model writes, on this "
                "machine and under your account. If that is what you want, in a container, say eval.unsafe_code=true"
            )
    retained = [task for name in spec.tasks if name in sets for task in sets[name].retention]
    return dataclasses.replace(
        spec,
        tasks=_tasks(spec.tasks),
        retention=tuple(dict.fromkeys((*_tasks(spec.retention), *retained))),
    )


def _tasks(names: Iterable[str]) -> tuple[str, ...]:
    sets = suites()
    expansions = ((sets[name].tasks if name in sets else (name,)) for name in names)
    return tuple(dict.fromkeys(task for tasks in expansions for task in tasks))
