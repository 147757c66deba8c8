"""Names for people: methods, models, data sets, tasks, metrics, settings and provenance, as reports print them.

A record carries the `display` and `cite` of its method, model and data set. What it lacks (older records, tasks,
metrics, settings) is read from `conf/`, as plain YAML. Anything else is shown by its identifier.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.records.record import RunRecord
from harness.report.display import several, short
from harness.sources.packages import conf_dir

BASE = "base"
UNKNOWN = "not recorded"  # a model or data set, of weights that were trained elsewhere
_GGUF = re.compile(r"\.(I?Q\d\w*|TQ\d\w*)\.gguf$", re.IGNORECASE)  # a quantized file, by llama.cpp's naming
_ORIGIN = ("source", "package", "hub_id", "revision", "content")
_READ_FROM = {"hub": ("source", "hub_id", "revision", "content"), "path": ("source", "content")}  # else all


@dataclass(frozen=True)
class Name:
    """The name of something, a short one for the heading of a narrow column, and the works to cite for it."""

    display: str
    short: str
    cite: tuple[str, ...] = ()  # keys of conf/references.bib
    percent: bool = False  # of a metric: a share of 1, shown in percent


def method(identifier: str, record: RunRecord | None = None) -> Name:
    """Return the name of a method: LoRA, (IA)3 with a superscript, Full fine-tuning."""
    name = _name("method", identifier, record and record.config.get("method"))
    settings = dict(record.recipe.get("method") or {}) if record else {}  # which a display name has in braces
    of_setting = re.sub(r"\{(\w+)\}", lambda match: str(settings.get(match.group(1), "")), name.display)
    filled = " ".join(of_setting.split())  # without the settings that are unknown
    return replace(name, display=filled, short=filled)


def inside(display: str) -> str:
    """Return a name as it stands within a sentence: full fine-tuning, but LoRA and Spectrum."""
    first, _, others = display.partition(" ")
    is_common = first[:1].isupper() and first[1:].islower() and others[:1].islower()
    return first.lower() + display[len(first) :] if is_common else display


def model(record: RunRecord) -> Name:
    """Return the name of a run's base model. One of another Hub id than its file was written for is named by that."""
    given = (record.recipe.get("model") or {}).get("name")
    config = record.config.get("model") or {}
    shapes, hub_id = config.get("architecture") or {}, config.get("hub_id")
    if config.get("source") == "hub" and shapes.get("of") not in (None, hub_id) and given in _of_group("model"):
        return _plain(str(hub_id).rpartition("/")[2])
    return _name("model", str(given or config.get("name") or UNKNOWN), config)


def origin(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recorded model that say where its weights are from.

    A record keeps all that was composed. A model of the user's own folder has still the package and the Hub id of the
    file in `conf/model` in whose place it stands.
    """
    read = _READ_FROM.get(str(model.get("source")), _ORIGIN)
    return {key: model[key] for key in read if model.get(key) is not None}


def data(record: RunRecord) -> Name:
    """Return the name of a run's training data; a file of the user's own is named by its file name."""
    config = record.config.get("data") or {}
    name = _name("data", str((record.recipe.get("data") or config).get("name") or UNKNOWN), config)
    own = config.get("file")
    return _plain(Path(own).name) if own and name.display == "file" else name


def identified(group: str, identifier: str) -> Name:
    """Return the name of a method, a model or a data set by the identifier of its file alone."""
    return _name(group, identifier, None)


def quantized(record: RunRecord) -> str | None:
    """Return the format that the base's weights were quantized to before they were loaded; None if they were not."""
    config = record.config.get("model") or {}
    by_name = _GGUF.search(str(config.get("file") or "")) if config.get("source") == "package" else None
    stated = config.get("quantized") or (by_name and f"{by_name.group(1).upper()} GGUF")
    return str(stated) if stated else None


def task(identifier: str) -> Name:
    """Return the name of a task: ARC-Easy; of a variant: MMLU (anatomy); of held-out rows: ARC (validation)."""
    table = _table()["tasks"]
    if identifier in table:
        return table[identifier]
    of, _, part = identifier.rpartition("/")
    if of:  # <data>/validation, <data>/test, <data>/generated/test
        parts = "generated answers" if of.endswith("/generated") else part
        display = f"{_name('data', of.removesuffix('/generated'), None).display} ({parts})"
        return replace(_plain(display), short=parts.capitalize())
    longest = max((name for name in table if identifier.startswith(f"{name}_")), key=len, default="")
    if not longest:
        return _plain(identifier)
    variant = identifier.removeprefix(f"{longest}_").replace("_", " ")
    return replace(_plain(f"{table[longest].display} ({variant})"), cite=table[longest].cite)


def metric(identifier: str) -> Name:
    """Return the name of a metric: accuracy, in a heading Acc. (norm.). lm-eval's filter `none` is left out."""
    name, _, selection = identifier.removesuffix(",none").partition(",")
    table = _table()["metrics"]
    if not selection or f"{name},{selection}" in table:
        return table.get(f"{name},{selection}" if selection else name, _plain(identifier.removesuffix(",none")))
    base = table.get(name, _plain(name))  # a filter with a name of the task's own
    return replace(base, display=f"{base.display} ({selection})", short=f"{base.short} ({selection})")


def setting(key: str) -> Name:
    """Return the name of a setting by its key in a recipe, as in `method.r`: Rank r, in a label r."""
    own = key.partition(".")[2] or key
    return _table()["settings"].get(key, replace(_plain(own), short=key.rpartition(".")[2]))


def variant(key: str, value: Any) -> Name | None:
    """Return the field's name for a value of a setting: PiSSA, of `method.init_lora_weights`; None if it has none.

    A name is empty where the value is that of the plain method.
    """
    return _variants().get(key, {}).get(short(value))


def labeled(key: str, value: Any) -> str:
    """Return a setting as it stands in a label: r=8, PiSSA; empty for the plain method. `r` means `method.r`."""
    within = key if key in _table()["settings"] or "." in key else f"method.{key}"
    own = variant(within, value)
    return f"{setting(within).short}={short(value)[:40]}" if own is None else own.display


def overridden(word: str) -> str:
    """Return an override as it stands in a label: steps=9, of `train.max_steps=9`; other words as they are."""
    key, equals, value = word.lstrip("+~").partition("=")
    return labeled(key, value) if equals else word


def provenance(key: str) -> Name:
    """Return the name of a fact of a run's provenance: main memory, of memory_bytes."""
    return _table()["provenance"].get(key, _plain(key.replace("_", " ")))


def fact(key: str) -> str:
    """Return the name of a setting or of a fact of provenance, by its key: Learning rate, of train.lr; main memory."""
    return (provenance if key in _table()["provenance"] else setting)(key).display


def value(given: Any) -> str:
    """Return the value of a setting as a table writes it: 5e-4, yes, all linear; a list with commas."""
    if isinstance(given, bool):
        return "yes" if given else "no"
    values = _table()["values"]
    return values[given].display if isinstance(given, str) and given in values else short(given)


def title(records: Sequence[RunRecord]) -> str:
    """Return the title of a comparison: LoRA, QLoRA and DoRA on ARC-Easy with SmolLM2-135M-Instruct."""
    trained = [record for record in records if record.method != BASE]
    methods = list(dict.fromkeys(method(record.method, record).display for record in trained))
    sets = known(data(record).display for record in trained)
    models = known(model(record).display for record in records)
    who = several(methods, 6) or method(BASE).display
    on = f" on {several(sets, 3)}" if sets else ""
    return f"{who}{on}" + (f" with {several(models, 3)}" if models else "")


def known(displays: Iterable[str]) -> list[str]:
    """Return the names in their order, each once, without those that are not recorded."""
    return [display for display in dict.fromkeys(displays) if display != UNKNOWN]


def _name(group: str, identifier: str, config: Any) -> Name:
    """Return the name that a record states, else that of the group's file; else the identifier.

    A stated name that belongs to another identifier is not used: whoever changes `model.name` alone means that one.
    """
    names = _of_group(group)
    stated = config.get("display") if isinstance(config, Mapping) else None
    if stated and not any(name.display == stated for key, name in names.items() if key != identifier):
        return replace(_plain(str(stated)), cite=tuple(config.get("cite") or ()))
    return names.get(identifier, _plain(identifier))


def _plain(display: str) -> Name:
    return Name(display, display)


@cache
def _of_group(group: str) -> dict[str, Name]:
    """Return the names of a group's options by their identifier: a method's file name, a model's or data set's name."""
    names = {}
    for file in sorted((conf_dir() / group).glob("*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        identifier = str(values.get("name", file.stem))
        names[identifier] = _entry({"display": values.get("display") or identifier, "cite": values.get("cite") or ()})
    return names


@cache
def _read() -> dict[str, dict[Any, Any]]:
    values: dict[str, dict[Any, Any]] = yaml.safe_load((conf_dir() / "names.yaml").read_text(encoding="utf-8"))
    return values


@cache
def _table() -> dict[str, dict[str, Name]]:
    parts = {part: entries for part, entries in _read().items() if part != "variants"}
    return {part: {key: _entry(entry) for key, entry in entries.items()} for part, entries in parts.items()}


@cache
def _variants() -> dict[str, dict[str, Name]]:
    return {
        key: {short(value): _entry(entry) for value, entry in entries.items()}
        for key, entries in _read()["variants"].items()
    }


def _entry(values: Mapping[str, Any]) -> Name:
    display = str(values["display"])
    short = str(values.get("short", display))
    return Name(display, short, tuple(values.get("cite", ())), bool(values.get("percent")))
