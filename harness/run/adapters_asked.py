"""Adapters from elsewhere as `harness evaluate` is given them: their places, bases and rows of one comparison."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from harness.config.experiment import Experiment, digest, evaluations
from harness.config.overrides import verbatim
from harness.records import record
from harness.records.record import Cell, SweepRecord
from harness.run import foreign, model_asked, provenance
from harness.run.foreign import Adapter
from harness.sources import hub

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_REVISION = re.compile(r"[\w./+-]+")
_UNTOUCHED = "base"  # the method of an untouched model, in records and reports


def located(word: str) -> Adapter | None:
    """Return the adapter that a word of the command line stands for: `[NAME=]FOLDER` or `[NAME=]OWNER/NAME[@REVISION]`.

    None: it is no adapter.

    Raises:
        ValueError: it is one, and cannot be read or is not what it says it is.
    """
    name, equals, place = word.partition("=")
    given, place = (name, place) if equals else (None, word)
    if foreign.is_adapter(Path(place)):
        return foreign.read(Path(place), place, given)
    if Path(place).exists() or not _HUB.fullmatch(place) or (equals and not _HUB.fullmatch(place)):
        return None
    repository, _, revision = place.partition("@")
    commit = hub.commit(repository, revision or None, "model")
    folder = hub.adapter_folder(repository, commit)
    if folder is None:
        return None
    return foreign.read(folder, f"{repository}@{commit}", given or repository.rpartition("/")[2])


def base_words(adapter: Adapter, given: str | None) -> list[str]:
    """Return the settings of an adapter's base: of the given one, else of the one that its configuration names.

    Args:
        adapter: the adapter.
        given: the base named on the command line; None: the adapter's own word counts.

    Raises:
        ValueError: it names none, the one that it names is not here, or the revision is no name of one.
    """
    name, revision = adapter.base
    if given is not None:
        return model_asked.words(given)
    if not isinstance(name, str):
        raise ValueError(f"{adapter.place}: its configuration names no base model; give it: --base MODEL")
    try:
        words = model_asked.words(name)
    except (ValueError, OSError) as error:  # a name that the system takes for no path
        raise ValueError(f"{adapter.place}: its base model {name[:200]} is not here; give it: --base MODEL") from error
    if revision is None:
        return words
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        raise ValueError(
            f"{adapter.place}: its configuration names the revision {str(revision)[:200]!r} of {name}, which is no "
            "branch, tag or commit; give the base: --base MODEL"
        )
    others = [word for word in words if not word.startswith("model.revision=")]
    return [*others, f"model.revision={verbatim(revision)}"]


def experiment_of(adapter: Adapter, base: Experiment) -> Experiment:
    """Return an adapter as an experiment like its base's: scored, and never trained."""
    seed = adapter.seed if adapter.seed is not None else 0
    return dataclasses.replace(base, method=foreign.method_of(adapter), seed=seed)


def write_comparison(experiments: Sequence[Experiment], runs_dir: Path) -> str:
    """Write the sweep that asks for these runs and their task scores, and return its name."""
    cells = [
        Cell(
            overrides=(f"method={entry.method.name}", f"seed={entry.run_seed}"),
            method=entry.method.name,
            recipe_id=entry.recipe_id,
            seed=entry.run_seed,
            eval_ids=tuple(look.eval_id for look in evaluations(entry) if look.kind == "lm_eval"),
        )
        for entry in experiments
    ]
    name = f"adapters-{digest(json.dumps([[cell.recipe_id, cell.seed, cell.eval_ids] for cell in cells]))}"
    sweep = SweepRecord(
        schema=record.SCHEMA,
        name=name,
        question=None,
        command=provenance.command(),
        cells=tuple(dict.fromkeys(cells)),
        varies=("method",),
    )
    record.write(sweep, runs_dir / "sweeps" / name / "sweep.json")
    return name


def check_names(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that would be one run, for which this process would wait while it holds it.

    Raises:
        ValueError: two have the same name and seed, where an unknown seed is 0, or one has the name of the untouched
            model; names their places.
    """
    if base := next((adapter for adapter in adapters if adapter.identifier == _UNTOUCHED), None):
        raise ValueError(
            f"{base.place}: the row named {_UNTOUCHED} is the untouched model: NAME={base.place} names this"
        )
    first: dict[tuple[str, int], Adapter] = {}
    for adapter in adapters:
        key = (adapter.identifier, adapter.seed or 0)
        if key in first:
            seeds = {first[key].seed, adapter.seed}
            which = adapter.name if seeds == {None} else f"{adapter.name} with seed {adapter.seed or 0}"
            both = f"{first[key].place} and {adapter.place} are both {which}"
            raise ValueError(f"{both}: give one a name, NAME={adapter.place}")
        first[key] = adapter


def named(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Return the adapters with names that tell them apart: of equal folder names, the parts in which paths differ."""
    names = [(adapter.identifier, adapter.seed or 0) for adapter in adapters]
    if len(set(names)) == len(names) or any(adapter.is_named for adapter in adapters):
        return [*adapters]
    parts = [adapter.folder.resolve().parts for adapter in adapters]
    while len({p[-1] for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[:-1] for p in parts]
    return [foreign.read(adapter.folder, adapter.place, own[-1]) for adapter, own in zip(adapters, parts, strict=True)]
