"""Permissions: settings under which code of a model's folder, of a task file or of a shell is run.

The person at the keyboard gives them, each time. Records keep them as facts of a run, and no command takes them from a
record: another person may have written it. A command that would need such a setting names it and ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.config.experiment import Experiment
from harness.config.sweep_file import setting_of

# setting -> its value without the permission
WITHHELD: Mapping[str, Any] = {
    "model.trust_remote_code": False,  # Python files in the folder of a model
    "eval.include_path": None,  # task files, which may name Python functions
    "eval.unsafe_code": False,  # code that a model has written
}
# Settings of Hydra that may stand in a record and be repeated: resources of a job, which hold no command and no path.
# Every other one may run something (setup, options of sbatch, callbacks, logging classes) or say where files are read.
_REPEATED = (
    "partition", "account", "qos", "constraint", "gpus", "cpus", "memory_gib", "time_minutes", "array_parallelism",
    "cells_per_job", "signal_seconds", "max_requeues", "offline", "wait", "n_jobs",
)  # fmt: skip
_NOTHING = ("", "null", "false", "[]", "{}")


def withheld(experiment: Experiment) -> Experiment:
    """Return the experiment with every permission set to its refusal."""
    for setting, value in WITHHELD.items():
        section, _, name = setting.partition(".")
        changed = dataclasses.replace(getattr(experiment, section), **{name: value})
        experiment = dataclasses.replace(experiment, **{section: changed})
    return experiment


def insist(config: Mapping[str, Any], words: Iterable[str], sections: Sequence[str], whose: str, option: str) -> None:
    """Refuse to use a recorded run that had a permission which this command line neither gives nor denies.

    Args:
        config: the run's recorded settings.
        words: settings of this command line.
        sections: the parts of the settings that the command uses.
        whose: the run, for the message.
        option: what stands before a setting of this command; "" for nothing.

    Raises:
        ValueError: there is such a permission; names it.
    """
    given = {setting_of(word) for word in words}
    for setting, nothing in WITHHELD.items():
        section, _, name = setting.partition(".")
        value = (config.get(section) or {}).get(name, nothing)
        if section in sections and value != nothing and setting not in given:
            text = str(value).lower() if isinstance(value, bool) else value
            refused = "null" if nothing is None else str(nothing).lower()
            raise ValueError(
                f"{whose}: this run was made with {setting}={text}, which lets code run that came with it, and a "
                f"record does not give that permission: add {option}{setting}={text} if you trust it, else "
                f"{option}{setting}={refused}"
            )


def granted(spec: Any, section: str, words: Iterable[str], composed: Any) -> Any:
    """Return a section of settings with the permissions that the words give, as `composed` from them."""
    names = {name for setting in map(setting_of, words) for of, _, name in [setting.partition(".")] if of == section}
    given = {name: getattr(composed, name) for name in names if f"{section}.{name}" in WITHHELD}
    return dataclasses.replace(spec, **given)


def of_words(words: Sequence[str]) -> Iterator[str]:
    """Yield the recorded words that a command may not repeat unless they are given again."""
    for word in words:
        setting, _, value = word.lstrip("+~").partition("=")
        if value.strip().strip("'\"").lower() in _NOTHING and not word.startswith("~"):
            continue
        section = setting.partition(".")[0]
        is_of_hydra = section == "hydra" or setting.startswith("hydra/")
        repeated = setting in ("hydra/launcher", *(f"hydra.launcher.{option}" for option in _REPEATED))
        if setting in WITHHELD or "_target_" in setting or (is_of_hydra and not repeated):
            yield word


def refuse_repeated(name: str, recorded: Sequence[str], given: Iterable[str]) -> None:
    """Refuse to repeat words of a sweep's record that may run code, unless their settings are given again.

    Raises:
        ValueError: there are such words; names them.
    """
    settings = {setting_of(word) for word in given}
    missing = [word for word in of_words(recorded) if setting_of(word) not in settings]
    if missing:
        raise ValueError(
            f"sweep {name}: its record asks for {' '.join(missing)}, which may run code, and a record does not give "
            "that permission: give it once more behind the sweep's name, or another value"
        )
