"""Doors of Hydra through which a configuration file could run code, checked before Hydra obeys the configuration.

A question file, or any other YAML that Hydra reads, holds settings and is no program. Hydra itself would import
classes, call logging factories and set environment variables that such a file names. Here only this command line may
ask for that, and only for what Hydra's plugins and Python's logging offer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from harness.config.sweep_file import setting_of

_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")  # installed beside Hydra, as this project's are
_LOGGING = ("logging.", "colorlog.")
_OWN_METHOD = re.compile(r"harness\.methods\.[a-z_][a-z0-9_]*\.[A-Za-z_]\w*")


def check(hydra: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Check the part of a composed configuration that is Hydra's own.

    Args:
        hydra: its plain values.
        chosen: the plain values of `hydra/launcher` in the file that was chosen, whose shell lines are trusted.

    Raises:
        ValueError: a file asks for something that only this command line may ask for; names it.
    """
    given = {setting_of(word) for word in (hydra.get("overrides") or {}).get("hydra") or ()}
    for part in ("sweeper", "launcher"):
        target = (hydra.get(part) or {}).get("_target_")
        if target is not None and not str(target).startswith(_PLUGINS):
            raise ValueError(f"hydra.{part}._target_={target}: must be a plugin of Hydra, in {' or '.join(_PLUGINS)}")
    for setting, named in _asked_for(hydra, chosen):
        if not any(
            entry == setting or entry.startswith(f"{setting}.") or setting.startswith(f"{entry}.") for entry in given
        ):
            raise ValueError(
                f"{setting}={named}: a file asks for it, and it may run code; to trust it, give it on the command line"
            )
    for part in ("hydra_logging", "job_logging"):
        for name in _classes(hydra.get(part)):
            if not name.startswith(_LOGGING):
                raise ValueError(f"hydra.{part}: {name} is no class of Python's logging; only {' and '.join(_LOGGING)}")


def _asked_for(hydra: Mapping[str, Any], chosen: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, callback in (hydra.get("callbacks") or {}).items():
        yield f"hydra.callbacks.{name}", (callback or {}).get("_target_") if isinstance(callback, Mapping) else callback
    for name, value in ((hydra.get("job") or {}).get("env_set") or {}).items():
        yield f"hydra.job.env_set.{name}", value
    for name in ("setup", "options"):
        value = (hydra.get("launcher") or {}).get(name)
        if value and value != chosen.get(name):
            yield f"hydra.launcher.{name}", value


def _classes(values: Any) -> Iterator[str]:
    """Yield every class, factory and object that a logging configuration names."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in ("class", "()") and value is not None:
                yield str(value)
            elif isinstance(value, str) and value.startswith(("ext://", "cfg://")):
                if not value.startswith("ext://sys.std"):
                    yield value
            else:
                yield from _classes(value)
    elif isinstance(values, Sequence) and not isinstance(values, str):
        for value in values:
            yield from _classes(value)


def check_method(target: str) -> None:
    """Check that a method's `_target_` is a class of harness/methods, or of a file that defines a method.

    Nothing is imported, since importing a module runs it.

    Raises:
        ValueError: it is neither; says what is expected.
    """
    if _OWN_METHOD.fullmatch(target):
        return
    module, _, name = target.rpartition(".")
    path = _file_of(module) if module else None
    if path is None or not _defines_method(path, name):
        raise ValueError(
            f"method._target_={target}: not a Method; that is a class in harness/methods, or in a file of your own "
            "that imports its base from harness.methods; see harness/methods/base.py"
        )


def _file_of(module: str) -> Path | None:
    """Return the source file of a module without importing its packages; None if there is none."""
    places: Sequence[str] | None = None
    spec = None
    for index in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:index])
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _defines_method(path: Path, name: str) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("harness.methods")
        for alias in node.names
    }
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    bases = {ast.unparse(base).partition(".")[0] for base in classes[name].bases} if name in classes else set()
    return bool(bases & (imported | (classes.keys() - {name})))
