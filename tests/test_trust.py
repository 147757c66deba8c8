"""`sweeps/TRUST.md` says where the border of trust runs; every line of it names a test that exists and asserts."""

import ast
import re
from pathlib import Path

import pytest

from harness.data import format as formats
from harness.records.settings import RowsSpec

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "sweeps" / "TRUST.md").read_text()
LINES = [line for line in PAGE.splitlines() if line.startswith("- ")]
REFERENCE = re.compile(r"^- .+\. `(tests/[\w/]+\.py)::(test_\w+)`$")
ESCAPES = (
    "{{ ''.__class__ }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}", "{{ lipsum.__globals__ }}", "{{ x.__reduce__() }}",
    "{{ ''|attr('__class__') }}", "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
    "{{ namespace.__init__.__globals__ }}", "{{ joiner.__init__.__globals__ }}", "{{ x.format.__globals__ }}",
    "{{ '{0.__class__}'.format(x) }}", "{{ x.__class__.__init__ }}", "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
)  # fmt: skip


def test_every_line_names_a_test_of_its_own():
    found = [REFERENCE.match(line) for line in LINES]
    assert [line for line, one in zip(LINES, found, strict=True) if one is None] == []
    assert len(LINES) >= 35
    assert len({one.groups() for one in found}) == len(LINES)


@pytest.mark.parametrize("line", LINES)
def test_the_test_exists_and_asserts(line):
    file, name = REFERENCE.match(line).groups()
    [function] = [
        node for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]  # fmt: skip
    checks = [
        node for node in ast.walk(function)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises")
    ]  # fmt: skip
    assert checks
    skipped = [ast.unparse(one) for one in function.decorator_list if "skip" in ast.unparse(one)]
    assert skipped == []


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_reaches_nothing_of_pythons(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        [example] = formats.render([{"x": "text"}], RowsSpec(prompt=template, completion="y"))
        text = str(example)
    except ValueError:
        text = ""
    assert "class" not in text and "root:" not in text and "module" not in text
    assert not (tmp_path / "ran").exists()


def test_the_readme_leads_to_the_page():
    assert "(sweeps/TRUST.md)" in (ROOT / "README.md").read_text()
