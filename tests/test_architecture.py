"""The shape of the code, read from its source: who may import whom, what stays light, what knows no method."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A layer (a module or folder of harness/) -> the layers that it may import. Read downwards: nothing points back up.
MAY_IMPORT = {
    "__main__": {"assets", "cells", "config", "preemption", "sweep"},
    "sweep": {
        "assets", "cells", "choice", "claim", "composer", "config", "experiment", "isolate", "kernels", "ladder",
        "meeting", "plan", "preemption", "progress", "provenance", "question", "record", "redact", "run", "sources",
        "specs", "tracking",
    },
    "plan": {
        "compose", "execute", "experiment", "specs", "isolate", "measure", "methods", "models", "patterns", "sources",
        "random_weights", "train",
    },
    "adapter": {
        "card", "compose", "config", "experiment", "hub", "isolate", "models", "patterns", "pickles", "progress",
        "record", "sources", "specs", "train",
    },
    "evaluate.__main__": {
        "assets", "compose", "config", "evaluate", "experiment", "isolate", "pickles", "progress", "record", "run",
        "sources", "specs",
    },
    "data.__main__": {"compose", "datacheck", "isolate", "progress", "report"},
    "audit": {"assets", "data", "datacheck", "evaluate", "experiment", "models", "record", "sources", "specs"},
    "judge": {"progress", "record"},
    "compose": {"assets", "cells", "config", "experiment", "specs"},
    "config": {"assets", "checking", "experiment", "specs", "methods", "question", "record", "suites", "together"},
    "kernels": {"specs"},
    "together": {"event_files", "experiment", "kernels"},
    "tracking": {"event_files", "experiment", "specs", "record", "redact"},
    "ladder": {"experiment", "specs"},
    "run": {
        "card", "checkpoint", "claim", "experiment", "specs", "isolate", "ladder", "provenance", "record", "redact",
        "store", "told",
    },
    "told": {"claim", "isolate", "record"},
    "progress": {"record"},
    "preload": {"check", "execute", "isolate"},
    "check": {
        "audit", "data", "datacheck", "evaluate", "execute", "experiment", "kernels", "specs", "methods", "models",
        "ranks", "sources", "train",
    },
    "execute": {
        "card", "checkpoint", "data", "evaluate", "experiment", "kernels", "measure", "meeting", "methods", "models",
        "places", "preemption", "provenance", "ranks", "record", "scores", "specs", "store", "train", "usage",
    },
    "places": {"experiment", "measure", "ranks", "specs"},
    "usage": {"experiment", "measure", "provenance", "record"},
    "train": {
        "checkpoint", "experiment", "specs", "head", "lean", "measure", "methods", "preemption", "provenance", "ranks",
        "record", "stopping",
    },
    "ranks": {"isolate", "meeting", "preemption", "specs"},
    "meeting": {"record", "specs"},
    "scores": {"data", "evaluate", "experiment", "models", "record"},
    "checkpoint": {"specs"},
    "preemption": set(),
    "evaluate": {"assets", "data", "experiment", "specs", "head", "once", "record", "generation"},
    "generation": {"specs"},
    "measure": {"assets", "generation", "record", "specs"},
    "provenance": {"harness", "redact"},
    "redact": set(),
    "models": {"assets", "once", "random_weights"},
    "random_weights": {"assets", "once"},
    "sources": {"asked", "assets", "data", "experiment", "hardware", "hashes", "specs", "hub", "pickles"},
    "asked": {"assets", "data", "evaluate", "hashes", "identity", "specs"},
    "hashes": {"assets", "identity", "record"},
    "hardware": set(),
    "data": {"assets", "datacheck", "experiment", "specs", "hub", "once", "record"},
    "report": {"assets", "choice", "datacheck", "event_files", "record", "stats"},
    "experiment": {"identity", "methods", "specs"},
    "identity": {"specs"},
    "suites": {"assets", "specs"},
    "checking": {"methods"},
    "specs": set(),
    "datacheck": {"record"},
    "methods": {"assets", "optimizers", "pickles", "record", "specs"},
    "optimizers": set(),
    "card": {"record"},
    "store": {"record"},
    "patterns": set(),
    "pickles": set(),
    "isolate": {"preemption", "redact"},
    "choice": {"record"},
    "composer": {"assets"},
    "cells": set(),
    "claim": set(),
    "question": set(),
    "head": set(),
    "lean": set(),
    "hub": {"pickles"},
    "event_files": set(),
    "assets": {"once"},
    "once": set(),
    "stats": set(),
    "record": {"measured", "redact"},
    "measured": set(),
    "stopping": set(),
    "harness": set(),
}  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets"}
NOT_ON_A_LAPTOP = HEAVY | {"hydra", "omegaconf", "lm_eval", "pandas"}
KNOW_OMEGACONF = {
    "harness/config.py",
    "harness/composer.py",
    "harness/__main__.py",
    "hydra_plugins/cells.py",
    "hydra_plugins/local.py",
    "hydra_plugins/slurm.py",
}  # the last four for a type only


def layer_of(path: Path) -> str:
    """harness/train.py and harness/train/loop.py are both of the layer "train".

    The command of a folder that lower layers import stands above that folder: it is a layer of its own.
    """
    command = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if command in MAY_IMPORT and command.endswith(".__main__"):
        return command
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "harness" if first == "__init__" else first


def imports(path: Path, at_run_time: bool = False) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported when this file is) for each import; `at_run_time` leaves out those for types."""
    yield from _imports(ast.parse(path.read_text()), True, at_run_time)


def _imports(node: ast.AST, at_top: bool, at_run_time: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports hide the layer"
            yield from ((f"{child.module}.{alias.name}", at_top) for alias in child.names)
        elif at_run_time and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_top and not inside, at_run_time)


def top(module: str) -> str:
    return module.partition(".")[0]


def own_layers(path: Path) -> set[str]:
    parts = [module.split(".") for module, _ in imports(path, at_run_time=True) if top(module) == "harness"]
    return {part[1] if len(part) > 1 else "harness" for part in parts} - {layer_of(path)}


def method_names() -> list[str]:
    return sorted(file.stem for file in (ROOT / "conf" / "method").glob("*.yaml"))


def test_every_module_has_a_layer_and_every_layer_a_module():
    assert {layer_of(path) for path in SOURCES} == set(MAY_IMPORT)
    assert len(SOURCES) >= 50


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_a_layer_imports_only_what_it_may(layer):
    found = {other for path in SOURCES if layer_of(path) == layer for other in own_layers(path)}
    assert found <= MAY_IMPORT[layer], "an import that is right belongs into MAY_IMPORT"


def test_nothing_points_back_up():
    """The table has no cycle: each layer can be reached only from those above it."""
    left = dict(MAY_IMPORT)
    while left:
        lowest = {layer for layer, below in left.items() if not below & set(left)}
        assert lowest, f"a cycle among {sorted(left)}"
        left = {layer: below for layer, below in left.items() if layer not in lowest}


@pytest.mark.parametrize("layer", ["record", "measured", "stats", "report"])
def test_a_report_needs_no_heavy_library(layer):
    files = [path for path in SOURCES if layer_of(path) == layer]
    assert files
    found = {
        (path.name, module)
        for path in files
        for module, at_top in imports(path, at_run_time=True)
        if top(module) in NOT_ON_A_LAPTOP and (at_top or (path.name, module) != ("frames.py", "pandas"))
    }
    assert not found


def test_methods_import_heavy_libraries_only_inside_their_hooks():
    files = [path for path in SOURCES if layer_of(path) == "methods"]
    assert len(files) >= 6
    found = {
        (path.name, module)
        for path in files
        for module, at_top in imports(path, at_run_time=True)
        if at_top and top(module) in HEAVY
    }
    assert not found


def test_only_the_configuration_knows_omegaconf():
    files = [*SOURCES, *sorted((ROOT / "hydra_plugins").glob("*.py"))]
    know = [path for path in files if any(top(module) == "omegaconf" for module, _ in imports(path))]
    assert {path.relative_to(ROOT).as_posix() for path in know} == KNOW_OMEGACONF


def test_loop_clock_and_scorer_name_no_method():
    names = set(method_names())
    assert len(names) >= 5
    files = [path for path in SOURCES if layer_of(path) in ("train", "measure", "evaluate")]
    assert len(files) >= 8
    found = {
        (path.name, node.value)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert not found
    modules = {m for path in files for m, _ in imports(path) if m.startswith("harness.methods.")}
    assert {m.split(".")[2] for m in modules} <= {"base"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_is_short_plain_and_finished(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    assert len(text.splitlines()) < 300
    assert not re.search(r"\braise NotImplementedError\b|\bTODO\b|\bFIXME\b|\bXXX\b", text)
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert text.strip() == "" or ast.get_docstring(ast.parse(text)), "a module says in its first line what it promises"
