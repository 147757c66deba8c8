"""From rows to prompts and completions: jinja templates with the semantics of `lm_eval.utils.apply_template` 0.4.13."""

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.specs import RowsSpec

if TYPE_CHECKING:
    from jinja2 import Environment, Template


@dataclass(frozen=True)
class Example:
    """What the model is shown and what it is to answer; together they are the whole text."""

    prompt: str
    completion: str


def place(spec: RowsSpec) -> str:
    """How rows are called in a message: the file, or data set, subset and split."""
    return spec.file or " ".join(part for part in (spec.dataset, spec.subset, spec.split) if part)


def render(rows: list[dict[str, Any]], spec: RowsSpec) -> list[Example]:
    """One example per row, in order.

    Raises:
        ValueError: a template is wrong, a row lacks a column that it names or holds null there, or a completion is
            empty; names the row (from 1: the line of a file), the template and the columns that exist.
    """
    prompt, completion = _compile(spec.prompt), _compile(spec.completion)
    examples = []
    for number, row in enumerate(rows, start=1):
        where = f"{place(spec)}:{number}"
        example = Example(_fill(prompt, spec.prompt, row, where), _fill(completion, spec.completion, row, where))
        if not example.completion.strip():
            raise ValueError(f"{where}: the completion {spec.completion!r} is empty; fill it or leave the row out")
        examples.append(example)
    return examples


@cache
def _environment() -> "Environment":
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    # lm-eval's settings; a null is an error here, where lm-eval would print the word None
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_not_null)
    environment.filters["regex_replace"] = _regex_replace
    return environment


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("a value is null")
    return value


def _compile(template: str) -> "Template":
    from jinja2 import TemplateSyntaxError

    try:
        return _environment().from_string(template)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"template {template!r} is not valid jinja: {error.message}; write a column as {{{{name}}}}"
        ) from error


def _fill(template: "Template", text: str, row: dict[str, Any], where: str) -> str:
    from jinja2 import TemplateError

    try:
        return str(template.render(**row))
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(
            f"{where}: template {text!r}: {error}; the row's columns are {', '.join(sorted(row))}. "
            "Correct the template in the data config, or the row"
        ) from error
