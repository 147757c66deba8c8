"""Conversion of Hydra's configuration to an `Experiment`, or one clear error. The only file that knows OmegaConf."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from harness.config import checks, doors, permissions, sweep_file, task_sets
from harness.config.errors import check_finite, explained, lower, not_a_list, suggestion
from harness.config.experiment import Experiment
from harness.config.sweep_file import SweepFile
from harness.methods import NOT_OFFERED
from harness.methods.base import Method
from harness.records import base, seeds
from harness.records.record import RunRecord
from harness.records.settings import (
    DataSpec,
    EvalSpec,
    InferenceSpec,
    LaunchSpec,
    ModelSpec,
    PlanSpec,
    TrackingSpec,
    TrainSpec,
)
from harness.sources.packages import conf_dir

_SECTIONS = {
    "model": ModelSpec, "data": DataSpec, "train": TrainSpec, "eval": EvalSpec, "inference": InferenceSpec,
    "tracking": TrackingSpec, "plan": PlanSpec, "launch": LaunchSpec,
}  # fmt: skip
_PLAIN = (
    "seed", "lr_scale", "force", "rerun", "max_retries", "max_concurrent_trials", "keep", "runs_dir", "reports_dir",
    "price_per_device_hour",
)  # fmt: skip
_NOT_OF_A_RECORD = ("rerun", "max_retries", "max_concurrent_trials", "keep")  # settings of one command, not of the run
_NOT_IN_EVERY_RECORD = ("price_per_device_hour", "inference", "plan", "launch")  # earlier versions lack them

WRONG_INPUT = (HydraException, OmegaConfBaseException)  # errors of composing
_FOR_DEVELOPERS = (
    "full_key:",
    "object_type=",
    "To append to your config",
    "Config search path:",
    "provider=",
    "Set the env",
)


def register() -> None:
    """Register the resolvers that `conf/` uses."""
    guard()
    OmegaConf.register_new_resolver("times", _times, replace=True)
    table = OmegaConf.create({})
    OmegaConf.set_struct(table, False)
    ConfigStore.instance().store(name="open_table", node=table)  # a table with any keys: `- /open_table@options`


def guard() -> None:
    """Have Hydra's loader check every configuration before Hydra obeys it; see `doors`."""
    if getattr(ConfigLoaderImpl.load_configuration, "is_guarded", False):
        return
    load = ConfigLoaderImpl.load_configuration

    @functools.wraps(load)
    def guarded(self: Any, *arguments: Any, **settings: Any) -> DictConfig:
        config: DictConfig = load(self, *arguments, **settings)
        values: Any = OmegaConf.to_container(config.hydra, resolve=False)
        choice = (values.get("runtime") or {}).get("choices", {}).get("hydra/launcher")
        chosen = self.repository.load_config(f"hydra/launcher/{choice}")
        doors.check(values, OmegaConf.to_container(chosen.config, resolve=False) if chosen is not None else {})
        return config

    guarded.is_guarded = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = guarded


def build(config: DictConfig) -> Experiment:
    """Check a composed configuration and freeze it.

    Raises:
        ValueError: a key, type or value is wrong, or two do not fit together; names it and what is allowed.
    """
    _check_names(config)
    values = {name: _plain_value_of(config, name) for name in (*_SECTIONS, "method", "target", *_PLAIN)}
    values["seed"] = _seed(values["seed"])
    plain = {name: _checked_plain(name, values[name]) for name in _PLAIN}  # before values that depend on them
    method = _method(values["method"])
    sections: dict[str, Any] = {name: checked(schema, values[name], name) for name, schema in _SECTIONS.items()}
    sections["eval"] = task_sets.expanded(sections["eval"])
    experiment = Experiment(method=method, **sections, **plain)
    checks.check(experiment)
    return experiment


def from_record(run: RunRecord) -> Experiment:
    """Return the experiment of an earlier run from its record, without the permissions that the run had.

    Raises:
        ValueError: it was trained elsewhere, the method is gone, or the record keeps settings that this version does
            not know.
    """
    if run.origin is not None:
        place = (run.config.get("adapter") or {}).get("place")
        way = f"; `harness evaluate {place} --tasks ...` scores it" if place else ""
        raise ValueError(f"{run.method} was trained elsewhere ({run.origin}), and how is not known here{way}")
    return permissions.withheld(from_settings(run.method, run.config))


def from_settings(method_name: str, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment of recorded settings as they stand, with its permissions: to describe a run, never to load.

    Raises:
        ValueError: the method is gone, or they are settings that this version does not know.
    """
    name = f"harness.methods.{method_name}"
    if not method_name.isidentifier():
        raise ValueError(f"method={method_name}: not a method's name")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"method={method_name}: there is no {name} any more, which made this run ({error})") from error
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == name and _is_concrete(c)]
    if len(classes) != 1:
        raise ValueError(f"{name}: {len(classes)} methods are defined there; one is expected")
    try:
        method = checked(classes[0], values["method"], "method")
        there = [key for key in (*_SECTIONS, *_PLAIN) if key in values or key not in _NOT_IN_EVERY_RECORD]
        sections: dict[str, Any] = {
            key: checked(schema, values[key], key) for key, schema in _SECTIONS.items() if key in there
        }
        keys = [key for key in _PLAIN if key in there and key not in _NOT_OF_A_RECORD]
        return Experiment(method=method, **sections, **{key: values[key] for key in keys})
    except (KeyError, ValueError) as error:
        raise ValueError(f"the run's settings are those of another version of this program: {error}") from error


def _is_concrete(schema: type) -> bool:
    return issubclass(schema, Method) and not inspect.isabstract(schema)


def sweep_of(config: DictConfig) -> SweepFile | None:
    """Return the question that the `sweep` group holds; None when no sweep was requested.

    Raises:
        ValueError: the file has an error; says which.
    """
    sweep = config.get("sweep")
    if sweep is None:
        return None
    return sweep_file.read(OmegaConf.to_container(sweep, resolve=False) if OmegaConf.is_config(sweep) else sweep)


def readable(error: Exception) -> str:
    """Return the message of an error of ours, of Hydra or of OmegaConf, without what only a developer needs."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return str(error)
    unknown = re.search(
        r"Could not find '([^']+)/([^'/]*)'\s+Available options in '[^']+':((?:\s+\S+$)+)", str(error), re.MULTILINE
    )
    if unknown is not None:
        group, name, options = unknown.groups()
        if group == "method" and name in NOT_OFFERED:
            return f"method={name} is not offered: {NOT_OFFERED[name]}"
        return f"{group}={name}: there is no such {group}. Available: {', '.join(options.split())}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: not of the form setting=value. A value with brackets, commas or other signs is quoted "
            "twice, for the shell and for Hydra: 'target=\"re:.*(q|v)_proj\"'"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(_FOR_DEVELOPERS)]
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and base.first_line(cause) not in useful:
        useful.append(base.first_line(cause))
    return " ".join(useful)


def explain(error: Exception, overrides: tuple[str, ...], compose: Callable[[tuple[str, ...]], Any]) -> str:
    """Return the `readable` message, or for a name that does not exist the names that do."""
    is_of_a_name = re.search("Could not override|Config group override", str(error))
    for word in overrides if is_of_a_name else ():
        group, _, name = word.lstrip("+").partition("=")
        options = _options(group)
        if options and name not in options and (name == "null" or not re.fullmatch(r"[A-Za-z][\w.-]*", name)):
            return f"{word}: {group} is a group, one of {', '.join(options)}"
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match is None:
        return _of_list(error, overrides, compose) or readable(error)
    key = match.group(1)
    if key.startswith("hydra.launcher."):
        return _of_launcher(key.removeprefix("hydra.launcher."), overrides)
    others = tuple(word for word in overrides if word.partition("=")[0].lstrip("+~") != key)
    section, _, name = key.rpartition(".")
    try:
        config = compose(others)
        node = OmegaConf.select(config, section) if section else config
        allowed = sorted(str(k) for k in node if k not in ("_target_", "hydra"))
        elsewhere = [f"{part}.{name}" for part, table in config.items() if _has(table, name)]
    except (AttributeError, TypeError, HydraException, OmegaConfBaseException):
        return readable(error)
    of = f"{section} ({config.method._target_.rpartition('.')[2].lower()})" if section == "method" else section
    hint = suggestion(key, allowed, elsewhere)
    return f"{key}: no such setting.{hint} {of or 'The configuration'} has {', '.join(allowed)}"


def _of_list(error: Exception, overrides: tuple[str, ...], compose: Callable[[tuple[str, ...]], Any]) -> str:
    """Return the message for a setting of an entry that its list does not have; "" for another error."""
    if not re.search("list index out of range|invalid literal for int|ListConfig indices", str(error)):
        return ""
    keys = {word: word.partition("=")[0].lstrip("+~") for word in overrides}
    for word, key in keys.items():
        above = key.rpartition(".")[0]
        try:
            config = compose(tuple(other for other in overrides if keys[other] != key)) if above else None
        except (ValueError, HydraException, OmegaConfBaseException):
            continue
        while config is not None and above:
            entries = OmegaConf.select(config, above)
            if isinstance(entries, ListConfig):
                there = " to ".join(f"{above}.{at}" for at in sorted({0, len(entries) - 1})) if entries else "none"
                whole = f"give it whole: {above}=[{{...}}]"
                return f"{word}: no such entry of the list {above}, which has {there} here; {whole}"
            above = above.rpartition(".")[0]
    return ""


def _has(table: Any, name: str) -> bool:
    return isinstance(table, DictConfig) and name in table


def _of_launcher(name: str, overrides: tuple[str, ...]) -> str:
    """Return the message for a setting that the chosen launcher lacks, or for a launcher that was not chosen."""
    chosen = next((w.partition("=")[2] for w in reversed(overrides) if w.startswith("hydra/launcher=")), "basic")
    settings = {
        file.stem: sorted(yaml.safe_load(file.read_text(encoding="utf-8")).keys() - {"_target_", "defaults"})
        for file in sorted((conf_dir() / "hydra" / "launcher").glob("*.yaml"))
    }
    key, launcher = f"hydra.launcher.{name}", f"hydra/launcher={chosen}"
    if not settings.get(chosen):
        having = [f"hydra/launcher={other}" for other, names in settings.items() if name.partition(".")[0] in names]
        way = f"; {' or '.join(having)} has it, and has to be asked for" if having else ""
        return f"{key}: no such setting, since runs are made one after another ({launcher}){way}"
    more = "; any other option of sbatch is hydra.launcher.options.<name>" if "options" in settings[chosen] else ""
    allowed = settings[chosen]
    return f"{key}: no such setting.{suggestion(key, allowed)} {launcher} has {', '.join(allowed)}{more}"


def _options(group: str) -> list[str]:
    """Return the options of a group of `conf/`; [] for a name that is no group."""
    is_group = group in (*_SECTIONS, "method")
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")) if is_group else []


def _plain_value(value: Any) -> Any:
    is_config = OmegaConf.is_config(value)
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if is_config else value


def _plain_value_of(config: DictConfig, name: str) -> Any:
    try:
        return _plain_value(config[name])
    except OmegaConfBaseException as error:  # a ${...} that cannot be resolved
        raise ValueError(f"{error.full_key or name}: {base.first_line(error)}") from error


def _check_names(config: DictConfig) -> None:
    """Refuse unknown settings, and a configuration that lacks a known one."""
    names = [*_SECTIONS, "method", "target", *_PLAIN]
    for name in config:
        if name not in (*names, "sweep", "hydra"):
            hint = suggestion(str(name), names)
            raise ValueError(f"{name}: no such setting.{hint} The configuration has {', '.join(sorted(names))}")
    for name in names:
        if name not in config:
            raise ValueError(f"{name}: missing; give it a value")


def _method(values: Any) -> Method:
    """Find the class that a method's YAML names and fill it."""
    if not isinstance(values, dict):
        raise ValueError(f"method={values}: method is a group, one of {', '.join(_options('method'))}")
    target = str(values.get("_target_"))
    doors.check_method(target)
    module, _, name = target.rpartition(".")
    try:
        schema = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"method._target_={target}: no such class ({error})") from error
    if not (isinstance(schema, type) and _is_concrete(schema)):
        raise ValueError(f"method._target_={target}: not a Method; see harness/methods/base.py")
    method: Method = checked(schema, values, "method")
    return method


def checked(schema: type, values: Any, section: str) -> Any:
    """Validate as strict JSON: lists become tuples, and neither "8" nor true is an integer.

    Raises:
        ValueError: names the setting that is wrong, and what is allowed.
    """
    values = _plain_value(values)
    if not isinstance(values, dict):
        options = ", ".join(_options(section))
        what = f"a group, one of {options}" if options else f"a table; set {section}.<name>=..."
        raise ValueError(f"{section}={'null' if values is None else values}: {section} is {what}")
    if section not in _SECTIONS:  # the class of a method or a launcher is looked up before its settings are checked
        values = {key: value for key, value in values.items() if key != "_target_"}
    check_finite(values, section)
    try:
        return base.parsed(schema, values)
    except ValidationError as error:
        allowed = [field.name for field in fields(schema) if field.init]
        raise ValueError(explained(error, values, section, allowed)) from error


def _checked_plain(name: str, value: Any) -> Any:
    annotation: Any = next(field.type for field in fields(Experiment) if field.name == name)
    try:
        return base.parsed(annotation, value)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "tuple_type":
            raise ValueError(not_a_list(name, value)) from error
        raise ValueError(f"{name}={json.dumps(value)}: {lower(first['msg'])}") from error


def _seed(value: Any) -> Any:
    """Return the seed as one number, also where streams of random numbers have seeds of their own."""
    try:
        return seeds.parsed(value)
    except ValueError as error:
        raise ValueError(f"seed.{error}") from error


def _times(a: Any, b: Any) -> float | None:
    """Return the product; None where a factor is missing or not a number, which that factor's own check reports."""
    numbers = [float(value) for value in (a, b) if isinstance(value, int | float)]
    return math.prod(numbers) if len(numbers) == 2 else None
