"""Rows that a referee looks at, with their settings and scores, wherever they were read from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean, stdev

import yaml

from harness.report.data.lm_eval_import import SEED_PATTERN
from harness.report.display import several
from harness.sources.packages import conf_dir

_SEED = re.compile(SEED_PATTERN, re.IGNORECASE)
_OF_PEFT = {
    "LORA": "lora", "VERA": "vera", "IA3": "ia3", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt",
    "P_TUNING": "p_tuning", "LN_TUNING": "ln_tuning", "ADALORA": "adalora",
}  # fmt: skip
LOW_RANK = ("lora", "dora", "qlora", "qdora", "lora_fa", "lora_plus")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score as it was reported.

    Attributes:
        value: a share of 1, or another number where `share` is false.
        share: whether it is a share of right answers.
        items: that it is a share of; None: unknown.
        decimals: of the reported number as a share of 1; None: full precision.
        error: standard error or deviation as reported, in the unit of the value.
        interval: as reported.
        bold: whether it was printed as the best.
        printed_in_percent: whether it was reported in percent.
    """

    value: float
    share: bool = True
    items: int | None = None
    decimals: int | None = None
    error: float | None = None
    interval: tuple[float, float] | None = None
    bold: bool = False
    printed_in_percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of results.

    Attributes:
        name: as reported.
        method: identifier of `conf/method` where it is one; else its own name.
        settings: beside the method: what ought to be equal, as text.
        rate: the learning rate; None: unknown.
        scale: of a low-rank update, alpha / r or alpha / sqrt(r).
        seeds: how many runs the scores are the mean of; None: not said.
        scores: by task or column.
        status: in their words; "" for a run that ended well.
        is_base: the untouched model.
        rate_was_tuned: None: not said.
        chosen_on: the rows that it was chosen by, in their words; "" where it is not said.
        losses: of its training, in full precision; () where they are not known.
        repeats: how many of the seeds have the losses of another one.
    """

    name: str
    method: str
    settings: Mapping[str, str] = field(default_factory=dict)
    rate: float | None = None
    scale: float | None = None
    seeds: int | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    status: str = ""
    is_base: bool = False
    rate_was_tuned: bool | None = None
    chosen_on: str = ""
    losses: tuple[float, ...] = ()
    repeats: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding of the referee.

    Attributes:
        check: its identifier.
        text: a sentence with the numbers.
        rows: the rows that it is about.
        severity: a fault, or a note on what the numbers can say.
    """

    check: str
    text: str
    rows: tuple[str, ...] = ()
    severity: str = "fault"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Results to be reviewed: their kind, rows, and the findings that only their reader could make."""

    kind: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()
    has_items: bool = False  # outcomes of single items are there, so that pairs are tested and not bounded


def over_seeds(name: str, runs: Sequence[Row]) -> Row:
    """Return runs of one method that differ in their seed as one row: mean scores, with the error over the seeds.

    A row's name is that of its runs without the seed. A task that a run lacks is left out.
    """
    if len(runs) == 1:
        return replace(runs[0], name=name)
    scores = {}
    for task, first in runs[0].scores.items():
        result = [run.scores[task] for run in runs if task in run.scores]
        values = [score.value for score in result]
        if len(result) == len(runs):
            items = first.items if len({score.items for score in result}) == 1 else None
            digits = [score.decimals for score in result if score.decimals is not None]
            scores[task] = replace(
                first,
                value=fmean(values),
                items=items,
                decimals=min(digits) if len(digits) == len(result) else None,
                error=stdev(values) / len(values) ** 0.5,
                interval=None,
            )
    return replace(runs[0], name=name, seeds=len(runs), scores=scores, repeats=repeats([run.losses for run in runs]))


def without_seed(task: str) -> str:
    """Return the task of a column that is of one seed: `acc` of `acc seed 0` and of `acc (seed 0)`."""
    plain = re.sub(r"\(\s*\)|\[\s*\]", "", _SEED.sub("", task))
    return plain.strip("_- ") or "score"


def joined_seeds(row: Row) -> Row:
    """Return a row whose scores of one task stand in a column for each seed, as `acc seed 0`, with their mean."""
    runs: dict[str, dict[str, Score]] = {}
    for task, score in row.scores.items():
        if match := _SEED.search(task):
            runs.setdefault(match[1], {})[without_seed(task)] = score
    if len(runs) < 2 or row.seeds is not None:
        return row
    mean = over_seeds(row.name, [replace(row, scores=scores) for scores in runs.values()])
    others = {task: score for task, score in row.scores.items() if not _SEED.search(task)}
    return replace(mean, scores={**mean.scores, **others})


def lacking(name: str, runs: Sequence[Row]) -> Iterator[Finding]:
    """Yield the tasks that some of a method's runs have no score on, so that `over_seeds` leaves them out."""
    for task in dict.fromkeys(task for run in runs for task in run.scores):
        without = [run.name for run in runs if task not in run.scores]
        if without:
            others = f" ({several(without, 4)})" if {*without} != {name} else ""
            text = f"{len(without)} of {len(runs)} seeds of {name} have no score on {task}{others}, and it is left out"
            yield Finding(check="seeds", text=text, rows=tuple(dict.fromkeys(without)))


def repeats(curves: Sequence[Sequence[float]]) -> int:
    """Return how many curves of losses are those of an earlier one, to the last digit."""
    whole = [tuple(curve) for curve in curves if len({*curve}) > 1]
    return len(whole) - len({*whole})


@cache
def usual_rates() -> dict[str, tuple[float, float]]:
    """Return the usual range of learning rates of each method, from `conf/method`."""
    result = {}
    for file in sorted((conf_dir() / "method").glob("*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if values.get("lr_range"):
            low, high = values["lr_range"]
            result[file.stem] = (float(low), float(high))
    return result


def method_of_peft(settings: Mapping[str, object] | None) -> str:
    """Return the method of an adapter's configuration; full fine-tuning without one."""
    if not settings:
        return "full"
    if settings.get("use_dora"):
        return "dora"
    kind = str(settings.get("peft_type") or "")
    return _OF_PEFT.get(kind.rpartition(".")[2], kind.lower())


def method_of_name(name: str) -> str:
    """Return the method that a name contains as a word, the longest first; else the name itself."""
    words = _words(name)
    for method in sorted(usual_rates(), key=len, reverse=True):
        if method not in ("peft", "full") and f" {method.replace('_', ' ')} " in words:
            return method
    if " rslora " in words:
        return "lora"  # of another scale
    is_full = any(f" {word} " in words for word in ("full", "fft", "full fine tuning"))
    return "full" if is_full else words.strip() or name


def is_base_name(name: str) -> bool:
    """Return whether a name is that of an untouched model."""
    words = _words(name)
    is_method = method_of_name(name) in usual_rates()
    return not is_method and any(
        f" {word} " in words
        for word in ("base", "pretrained", "untouched", "untrained", "zero shot", "no fine tuning", "no finetuning",
                     "without fine tuning", "not fine tuned", "before fine tuning")
    )  # fmt: skip


def _words(name: str) -> str:
    """Return a name as words in lower case, with a space before and behind each."""
    plain = re.sub(r"\(?\bia\)?\s*\^?\s*[3\u00b3]", "ia3", name.lower()).replace("lora+", "lora plus")
    return f" {re.sub(r'[^a-z0-9]+', ' ', plain).strip()} "
