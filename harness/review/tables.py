"""A table of results as CSV or LaTeX, as rows for the referee."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from harness.report.analysis.facts import effective_scale
from harness.review.row import Row, Score, Submission, method_of_name

# What a column holds, by the words of its heading
_NAMES = ("method", "model", "name", "approach", "run", "variant")
_MODELS = ("base_model", "base", "model", "backbone")  # whose rows are compared with each other
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
# in parts of a title: shares that are no number of right answers over the items, and scores that are no shares
_NOT_COUNTED = ("rouge", "bleu", "meteor", "bertscore", "chrf", "comet", "f1", "win", "pass@")
_NO_SHARES = ("mt_bench", "mtbench", "elo", "rating")
_MOST_COLUMNS = 100
_ON_VALIDATION = ("yes", "true", "1", "validation", "valid", "val", "dev")
_ERRORS = re.compile(r"^(.+?)[ _](?:std|sd|se|sem|stderr|err|\+-|\u00b1)$")
_LONGEST_FIELD = 2**31 - 1  # characters of a cell; csv's own limit is shorter than an answer
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_CELL = re.compile(
    rf"^(?P<value>{_NUMBER})\s*(?P<percent>%)?"
    rf"(?:\s*(?:\u00b1|\+/-|\+-)\s*(?P<error>{_NUMBER}))?"
    rf"(?:\s*[\(\[]\s*(?P<low>{_NUMBER})\s*(?:to|,|;|-{{1,2}}|\u2013)\s*(?P<high>{_NUMBER})\s*[\)\]])?\s*%?$"
)


def read_tables(path: Path, items: Mapping[str, int]) -> list[tuple[str, Submission]]:
    """Return the name and the rows of each part of a CSV or LaTeX table: one for each base model, or for all.

    Args:
        path: `*.csv`, `*.tsv` or `*.tex`.
        items: number of items of a column, where the table does not say; "" stands for every column.

    Raises:
        ValueError: there is no table in it, or none of its columns holds scores.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error
    lines = _latex(content) if path.suffix == ".tex" else _csv(content, "\t" if path.suffix == ".tsv" else ",")
    heading, body = _headed(lines)
    if not body:
        raise ValueError(f"{path}: no table with a heading and rows")
    parts = _parts(heading, body)
    if left := sum(len(line) != len(heading) for _, part in parts for line in part):
        raise ValueError(f"{path}: {left} of {len(body)} rows have another number of cells than the heading")
    tables = [(name, [_row(heading, line, items) for line in part]) for name, part in parts]
    if not any(row.scores for _, rows in tables for row in rows):
        raise ValueError(f"{path}: no column of it holds scores; its heading is {', '.join(heading)}")
    return [
        (f"{path} ({name})" if name else str(path), Submission(kind="table", rows=_in_one_unit(rows)))
        for name, rows in tables
    ]


def _headed(lines: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the other lines.

    A heading may have several lines, all above the first number: the lowest counts, with those above it where two
    columns would have one title.
    """
    width = max(map(len, lines), default=0)
    above = list(takewhile(lambda line: not any(map(_is_number, line)), lines))
    head = [line for line in above if len(line) == width and len({*filter(None, line)}) > 1]
    if not head:
        return [], []
    stacks = [[line[place] for line in head if line[place]] for place in range(width)]
    lowest = [stack[-1] if stack else "" for stack in stacks]
    titles = [
        " ".join(stack) if lowest.count(own) > 1 and stack else own for stack, own in zip(stacks, lowest, strict=True)
    ]
    return titles, list(lines[max(place for place, line in enumerate(above) if line is head[-1]) + 1 :])


def _is_number(cell: str) -> bool:
    return bool(_CELL.match(cell.lstrip("*").strip()))


def _parts(heading: Sequence[str], body: Sequence[list[str]]) -> list[tuple[str, list[list[str]]]]:
    """Return the lines of each base model: below a line that names it alone, or with it in a column beside the method.

    Models of which some have a single line are not compared within themselves, so that they stay one part.
    """
    keys = [_key(title) for title in heading]
    column = next((keys.index(key) for key in _MODELS if key in keys), None)
    has_methods = any(key in keys for key in _NAMES if key not in _MODELS)
    parts: dict[str, list[list[str]]] = {}
    name = ""
    for line in body:
        filled = {*filter(None, line)}
        if len(filled) == 1 and not any(map(_is_number, filled)) and len(line) in (1, len(heading)):
            [name] = filled
            continue
        if column is not None and has_methods and len(line) == len(heading):
            name = line[column] or name
        parts.setdefault(name, []).append(line)
    if len(parts) < 2 or min(map(len, parts.values())) < 2:
        return [("", [line for part in parts.values() for line in part])]
    return list(parts.items())


def _csv(content: str, separator: str) -> list[list[str]]:
    csv.field_size_limit(_LONGEST_FIELD)
    return [
        [" ".join(cell.split()) for cell in line]
        for line in csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        if any(line)
    ]


def _latex(content: str) -> list[list[str]]:
    """Return the cells of the first tabular, with `*` before those in bold."""
    start = re.search(r"\\begin\{(tabular[x*]?|longtable)\}", content)
    if start is None:
        return []
    text = _behind_arguments(content[start.end() :]).partition(rf"\end{{{start[1]}}}")[0]
    text = re.sub(r"(?<!\\)%.*", "", text)
    text = re.sub(r"\\(?:top|mid|bottom)rule|\\(?:hline|cmidrule(?:\([^)]*\))?\{[^}]*\}|cline\{[^}]*\})|\\addlinespace(?:\[[^]]*\])?|\\rowcolor\{[^}]*\}", "", text)  # fmt: skip # noqa: E501
    text = re.sub(r"\\multirow(?:\[[^]]*\])?\{[^}]*\}\{[^}]*\}", "", text)
    lines = [re.split(r"(?<!\\)&", line) for line in re.split(r"\\\\(?:\[[^]]*\])?", text) if line.strip()]
    return [[_plain(part) for cell in line for part in _spanned(cell)] for line in lines]


def _behind_arguments(text: str) -> str:
    """Return the text behind the arguments of an environment, whose braces may be nested: {@{}lcc@{}}."""
    text = text.lstrip()
    while text[:1] in ("{", "["):
        depth = 0
        for place, letter in enumerate(text):
            depth += (letter in "{[") - (letter in "}]")
            if depth == 0:
                text = text[place + 1 :].lstrip()
                break
        else:
            return ""
    return text


def _spanned(cell: str) -> list[str]:
    """Return a cell that spans several columns as one of the same content for each."""
    result = re.match(r"\s*\\multicolumn\{(\d+)\}\{[^}]*\}(.*)", cell, re.DOTALL)
    return [result[2]] * min(int(result[1]), _MOST_COLUMNS) if result else [cell]


def _plain(cell: str) -> str:
    is_bold = bool(re.search(r"\\(?:textbf|mathbf|bf|bfseries)\b", cell))
    text = (
        re.sub(r"_\{?\s*\\pm", r" \\pm", cell)
        .replace(r"\pm", "\u00b1")
        .replace(r"\%", "%")
        .replace("~", " ")
        .replace("$", "")
        .replace("--", "-")
    )
    text = re.sub(r"\\(?:uparrow|downarrow)", "", text)
    while (shorter := re.sub(r"\\[a-zA-Z]+\*?\{([^{}]*)\}", r"\1", text)) != text:
        text = shorter
    text = re.sub(r"\\[a-zA-Z]+|[{}]", "", text).strip()
    return f"*{text}" if is_bold and re.match(r"[-+\d]", text) else text


def _key(title: str) -> str:
    return re.sub(r"[\s-]+", "_", _bare_title(title).lower()).strip("_")


def _row(heading: Sequence[str], line: Sequence[str], items: Mapping[str, int]) -> Row:
    keys = [_key(title) for title in heading]
    cells = dict(zip(keys, line, strict=True))
    named = next((key for key in _NAMES if key in cells), keys[0])
    own = cells[named]
    scores: dict[str, Score] = {}
    count = _whole(_first(cells, _ITEMS))
    taken = {*_NAMES, *_MODELS, *_ITEMS, *_SEEDS, *_RATES, *_RANKS, *_ALPHAS, *_TUNED, *_SETTINGS, keys[0]}
    for key, title, cell in zip(keys, heading, line, strict=True):
        if key in taken or any(word in key for word in _NOT_SCORES) or _ERRORS.match(key):
            continue
        number = _items_of(title) or items.get(_bare_title(title)) or count or items.get("")
        error = next((cells[other] for other in keys if (m := _ERRORS.match(other)) and m[1] == key), None)
        number = None if any(word in key for word in (*_NOT_COUNTED, *_NO_SHARES)) else number
        if score := _score(cell, number, error):
            is_share = not any(word in key for word in _NO_SHARES)
            scores[_bare_title(title)] = score if is_share else replace(score, share=False, printed_in_percent=False)
    rank, alpha = _number(_first(cells, _RANKS)), _number(_first(cells, _ALPHAS))
    method = method_of_name(own)
    settings = {"r": rank, "lora_alpha": alpha, "use_rslora": "rslora" in own.lower()}
    tuned = _first(cells, _TUNED)
    return Row(
        name=own.lstrip("*"),
        method=method,
        settings={key: cells[key] for key in (*_SETTINGS, *_MODELS) if key in cells and key != named},
        rate=_number(_first(cells, _RATES)),
        scale=effective_scale(settings),
        seeds=_whole(_first(cells, _SEEDS)),
        scores=scores,
        is_base=method in ("base", "base model", "untouched", "zero shot"),
        rate_was_tuned=None if tuned is None else tuned.lower() in _ON_VALIDATION,
        chosen_on=tuned or "",
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
    percent = {task for row in rows for task, score in row.scores.items() if score.printed_in_percent and score.share}
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
        value = math.nan if text is None else float(text.replace(",", "").lstrip("*"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None or value != int(value) or value < 1 else int(value)


def _items_of(title: str) -> int | None:
    result = re.search(r"n\s*=\s*([\d,]+)", title)
    return int(result[1].replace(",", "")) if result else None


def _bare_title(title: str) -> str:
    return re.sub(r"\s*[\(\[].*?[\)\]]|\s*[\u2191\u2193%]", "", title.lstrip("*")).strip() or title
