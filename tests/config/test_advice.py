"""Settings that a message advises exist, and can be given on the command line as it writes them."""

import ast
import dataclasses
import re
import typing
from pathlib import Path

import pytest

from harness.config.config import _SECTIONS
from harness.records.settings import RowsSpec
from tests.conftest import ROOT

ADVISED = re.compile(r"\b((?:data|train|eval|model|launch|tracking|inference|plan)(?:\.[a-z_0-9]+)+)=")
ROWS = re.compile(r"\bdata\.(train|test|mix)\.0\.([a-z_]+)")


def texts(path: Path) -> list[str]:
    """Return the strings of a Python file; `{}` stands for what is filled in."""
    if path.suffix != ".py":
        return [path.read_text(encoding="utf-8")]
    result = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            result.append("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            result.append(node.value)
    return result


def documents() -> list[Path]:
    return [*ROOT.glob("harness/**/*.py"), *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("sweeps/**/*"), ROOT / "README.md"]


def advised(pattern: re.Pattern[str]) -> list[str]:
    files = [path for path in documents() if path.is_file() and path.suffix in (".py", ".yaml", ".md")]
    return sorted({match[0] for path in files for text in texts(path) for match in pattern.finditer(text)})


def exists(name: str) -> bool:
    section, *path = name.split(".")
    schema = _SECTIONS[section]
    for part in path:
        if part.isdecimal():
            continue
        hints = typing.get_type_hints(schema)
        if part not in hints:
            return False
        nested = [one for one in (hints[part], *typing.get_args(hints[part])) if dataclasses.is_dataclass(one)]
        if not nested:
            return True
        schema = nested[0]
    return True


def test_every_setting_that_a_message_advises_exists():
    names = [name.rstrip("=") for name in advised(ADVISED)]
    assert len(names) >= 60
    assert [name for name in names if not exists(name)] == []


def rows_settings() -> list[str]:
    return sorted({name.removeprefix("data.train.0.") for name in advised(ROWS) if name.startswith("data.train.0.")})


def test_the_settings_of_rows_that_are_advised_are_these():
    assert set(rows_settings()) == {"completion", "format", "ignore", "prompt", "revision", "split"}


VALUES = {
    "prompt": "data.train.0.prompt='{{prompt}}'",
    "completion": "data.train.0.completion='{{completion}}'",
    "format": "data.train.0.format=prompt_completion",
    "ignore": "data.train.0.ignore=[label]",
    "split": "data.train.0.split=train",
    "topic": "data.train.0.topic=subject",
    "license": "data.train.0.license=MIT",
    "file": "data.train.0.file=other.jsonl",
}


@pytest.mark.parametrize("name", VALUES)
def test_each_setting_of_rows_of_a_file_can_be_given_on_the_command_line(compose, tiny_overrides, name):
    from harness.config import config

    [rows] = config.build(compose(*tiny_overrides, VALUES[name])).data.train
    default = RowsSpec()
    assert getattr(rows, name) != getattr(default, name)


def test_no_setting_of_the_rows_of_a_file_is_left_out():
    of_the_hub = {"dataset", "subset", "revision"}
    of_mixed_rows = {"share"}
    assert {field.name for field in dataclasses.fields(RowsSpec)} == {*VALUES} | of_the_hub | of_mixed_rows
