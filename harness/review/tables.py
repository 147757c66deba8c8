"""A table of results as CSV or LaTeX, as rows for the referee."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.report.analysis.facts import effective_scale
from harness.review.row import Row, Score, Submission, method_of_name

# What a column holds, by the words of its heading
_NAMES = ("method", "model", "name", "approach", "run", "variant")
_ITEMS = ("n", "items", "num_items", "n_items", "samples")
_SEEDS = ("seed", "seeds", "runs", "n_seeds", "num_seeds", "#seeds")
_RATES = ("lr", "learning_rate", "rate")
_RANKS = ("r", "rank", "lora_r")
_ALPHAS = ("alpha", "lora_alpha")
_TUNED = ("tuned", "chosen_on", "selected_on")
_SETTINGS = (
    "epochs", "steps", "max_steps", "batch", "batch_size", "global_batch_size", "weight_decay", "warmup", "scheduler",
    "optimizer", "precision", "dtype", "max_length", "base", "base_model", "data", "dataset", "prompt", "template",
    "shots", "num_fewshot",
)  # fmt: skip
_NOT_SCORES = (
    "params", "parameters", "trainable", "memory", "gib", "time", "hours", "tokens", "speed", "flops", "loss",
    "perplexity", "ppl",
)  # fmt: skip
_ON_VALIDATION = ("yes", "true", "1", "validation", "valid", "val", "dev")
_ERRORS = re.compile(r"^(.+?)[ _](?:std|sd|se|sem|stderr|err|\+-|\u00b1)$")
_LONGEST_FIELD = 2**31 - 1  # characters of a cell; csv's own limit is shorter than an answer
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_CELL = re.compile(
    rf"^(?P<value>{_NUMBER})\s*(?P<percent>%)?"
    rf"(?:\s*(?:\u00b1|\+/-|\+-)\s*(?P<error>{_NUMBER}))?"
    rf"(?:\s*[\(\[]\s*(?P<low>{_NUMBER})\s*(?:to|,|;|-{{1,2}}|\u2013)\s*(?P<high>{_NUMBER})\s*[\)\]])?\s*%?$"
)


def read_table(path: Path, items: Mapping[str, int]) -> Submission:
    """Return the rows of a CSV or LaTeX table.

    Args:
        path: `*.csv`, `*.tsv` or `*.tex`.
        items: number of items of a column, where the table does not say; "" stands for every column.

    Raises:
        ValueError: there is no table in it, or none of its columns holds scores.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error
    lines = _latex(content) if path.suffix == ".tex" else _csv(content, "\t" if path.suffix == ".tsv" else ",")
    if len(lines) < 2:
        raise ValueError(f"{path}: no table with a heading and rows")
    heading, *body = lines
    rows = [_row(heading, line, items) for line in body if len(line) == len(heading)]
    if left := len(body) - len(rows):
        raise ValueError(f"{path}: {left} of {len(body)} rows have another number of cells than the heading")
    if not any(row.scores for row in rows):
        raise ValueError(f"{path}: no column of it holds scores; its heading is {', '.join(heading)}")
    return Submission(kind="table", rows=_in_one_unit(rows))


def _csv(content: str, separator: str) -> list[list[str]]:
    csv.field_size_limit(_LONGEST_FIELD)
    return [
        [cell.strip() for cell in line] for line in csv.reader(content.splitlines(), delimiter=separator) if any(line)
    ]


def _latex(content: str) -> list[list[str]]:
    """Return the cells of the first tabular, with `*` before those in bold."""
    result = re.search(r"\\begin\{tabular[x*]?\}(?:\{[^}]*\})*(.*?)\\end\{tabular", content, re.DOTALL)
    text = re.sub(r"(?<!\\)%.*", "", result[1]) if result else ""
    text = re.sub(r"\\(?:top|mid|bottom)rule|\\(?:hline|cmidrule(?:\([^)]*\))?\{[^}]*\})|\\addlinespace(?:\[[^]]*\])?", "", text)  # fmt: skip # noqa: E501
    lines = [re.split(r"(?<!\\)&", line) for line in re.split(r"\\\\(?:\[[^]]*\])?", text) if line.strip()]
    return [[_plain(cell) for cell in line] for line in lines]


def _plain(cell: str) -> str:
    is_bold = bool(re.search(r"\\(?:textbf|mathbf|bf|bfseries)\b", cell))
    text = cell.replace(r"\pm", "\u00b1").replace(r"\%", "%").replace("~", " ").replace("$", "").replace("--", "-")
    text = re.sub(r"\\(?:uparrow|downarrow)", "", text)
    while (shorter := re.sub(r"\\[a-zA-Z]+\*?\{([^{}]*)\}", r"\1", text)) != text:
        text = shorter
    text = re.sub(r"\\[a-zA-Z]+|[{}]", "", text).strip()
    return f"*{text}" if is_bold and re.match(r"[-+\d]", text) else text


def _row(heading: Sequence[str], line: Sequence[str], items: Mapping[str, int]) -> Row:
    keys = [re.sub(r"[\s-]+", "_", _bare_title(title).lower()).strip("_") for title in heading]
    cells = dict(zip(keys, line, strict=True))
    own = next((cells[key] for key in _NAMES if key in cells), line[0])
    scores: dict[str, Score] = {}
    count = _whole(_first(cells, _ITEMS))
    taken = {*_NAMES, *_ITEMS, *_SEEDS, *_RATES, *_RANKS, *_ALPHAS, *_TUNED, *_SETTINGS, keys[0]}
    for key, title, cell in zip(keys, heading, line, strict=True):
        if key in taken or any(word in key for word in _NOT_SCORES) or _ERRORS.match(key):
            continue
        number = _items_of(title) or items.get(_bare_title(title)) or count or items.get("")
        error = next((cells[other] for other in keys if (m := _ERRORS.match(other)) and m[1] == key), None)
        if score := _score(cell, number, error):
            scores[_bare_title(title)] = score
    rank, alpha = _number(_first(cells, _RANKS)), _number(_first(cells, _ALPHAS))
    method = method_of_name(own)
    settings = {"r": rank, "lora_alpha": alpha, "use_rslora": "rslora" in own.lower()}
    tuned = _first(cells, _TUNED)
    return Row(
        name=own.lstrip("*"),
        method=method,
        settings={key: cells[key] for key in _SETTINGS if key in cells},
        rate=_number(_first(cells, _RATES)),
        scale=effective_scale(settings),
        seeds=_whole(_first(cells, _SEEDS)),
        scores=scores,
        is_base=method in ("base", "base model", "untouched", "zero shot"),
        rate_was_tuned=None if tuned is None else tuned.lower() in _ON_VALIDATION,
    )


def _score(cell: str, items: int | None, error: str | None) -> Score | None:
    result = _CELL.match(cell.lstrip("*").strip())
    if result is None:
        return None
    value = float(result["value"])
    digits = len(result["value"].partition(".")[2])
    ends = (float(result["low"]), float(result["high"])) if result["low"] and result["high"] else None
    given = result["error"] or error
    return Score(
        value=value,
        items=items,
        decimals=digits,
        error=float(given) if given and re.fullmatch(_NUMBER, given.strip()) else None,
        interval=ends,
        bold=cell.startswith("*"),
        printed_in_percent=bool(result["percent"]) or abs(value) > 1,
    )


def _in_one_unit(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows with shares of 1. A column with a score above 1 is in percent, as far as its numbers are."""
    percent = {task for row in rows for task, score in row.scores.items() if score.printed_in_percent}
    made = []
    for row in rows:
        scores = {
            task: _as_share(replace(score, printed_in_percent=task in percent) if score.value == 0 else score)
            for task, score in row.scores.items()
        }
        made.append(replace(row, scores=scores))
    return tuple(made)


def _as_share(score: Score) -> Score:
    if not score.printed_in_percent:
        return score
    ends = (score.interval[0] / 100, score.interval[1] / 100) if score.interval else None
    return Score(
        value=score.value / 100,
        items=score.items,
        decimals=(score.decimals or 0) + 2,
        error=None if score.error is None else score.error / 100,
        interval=ends,
        bold=score.bold,
        printed_in_percent=True,
    )


def _first(cells: Mapping[str, str], keys: Sequence[str]) -> str | None:
    return next((cells[key] for key in keys if cells.get(key)), None)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text.replace(",", "").lstrip("*"))
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None or value != int(value) or value < 1 else int(value)


def _items_of(title: str) -> int | None:
    result = re.search(r"n\s*=\s*([\d,]+)", title)
    return int(result[1].replace(",", "")) if result else None


def _bare_title(title: str) -> str:
    return re.sub(r"\s*[\(\[].*?[\)\]]|\s*[\u2191\u2193%]", "", title.lstrip("*")).strip() or title
