"""Question written down before the runs: the contents of a file in `sweeps/`, and the checks on them.

    name: lora_rank
    question: Does a higher rank help?      # ends up on top of the report
    primary: arc_easy/acc                   # the column of the results that answers it
    margin: 0.01                            # optional: the largest difference in that column that counts as none
    varies: [method.r]                      # what may differ between rows, beside what is tuned; all else is refused
    cells:                                  # grids: each is a product, their union is run
      - method: lora
        method.r: [4, 16, 64]
        lr_scale: [0.3, 1, 3]
    stages:                                 # optional: choose on validation, then repeat what was chosen
      tune: {settings: [lr_scale], seeds: [0], rule: lowest_validation_loss}
      final: {seeds: [1, 2, 3, 4, 5]}     # none of the tuning seeds: what was chosen was lucky with those
    claims:                                 # optional: tested as one family; the rest of the report is exploratory
      - lora[r=64]@best <= lora[r=16]@best + 0.01 on arc_easy/acc
      - {claim: "lora[r=4]@best < lora[r=16]@best on arc_easy/acc", source: a guide, note: one seed there}

With stages, the cells are the trials. Those that agree in all but the tuned `settings` belong to one contestant, a row
of the results, and every contestant has the same number of them. `tune` runs them and looks at validation alone; the
`rule` picks one recipe for each contestant, and `final` runs it with every seed and reads the test.
`seed=...` on the command line replaces the final seeds; the tuning seeds are the file's. A final seed that was tuned on
is refused unless the file states `allow_tuning_seeds: true`. The validation loss is refused as the answer of a sweep
that chose by it.
Seeds are numbers, or streams of random numbers that are crossed: `seeds: {init: [0, 1], order: [0, 1, 2]}` are six.
`final: {seeds: {first: 3, most: 12, until: decided}}` adds seeds, to all contestants alike, until every comparison of
the primary metric has a verdict. The level of each look keeps the error of the whole at 5 %.
`claims` are written in the grammar of `harness.records.claim_grammar`; `harness sweep register NAME` keeps them, with
all that the answer will rest on, before the first run. A claim that no score can refute or confirm is refused, such as
one with a margin of 1 on an accuracy, of which one point is 0.01.
`study` says which published study the file repeats; see `harness.config.study`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from harness.config.overrides import expand
from harness.config.study import PublishedNumber, Study, StudyData
from harness.records import base, claim_grammar
from harness.records.base import Strict
from harness.records.claim_grammar import Claim, Difference, Ratio, Selector
from harness.records.files import FileName
from harness.records.identity import covered, recipe_keys
from harness.records.seeds import Seed, listed
from harness.sources.packages import conf_dir

Rule = Literal["lowest_validation_loss", "one_standard_error"]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(listed)]
_SECTIONS = ("model", "data", "method", "train", "eval", "target", "lr_scale")


def _final_seeds(value: Any) -> Any:
    """Return the seeds, or their first and largest numbers where they are added until decided."""
    if not isinstance(value, dict) or not {*value} & {"first", "most", "until"}:
        seeds = listed(value)
        if seeds == ():
            raise ValueError("at least one seed is needed")
        return seeds
    try:
        until = base.parsed(UntilDecided, value)
    except ValidationError as error:
        first = error.errors()[0]
        names = {"first", "most", "until"}
        raise ValueError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; needed are {', '.join(sorted(names))}"
        ) from error
    if until.first >= until.most:
        raise ValueError(f"first={until.first} is not below most={until.most}")
    return until


@dataclass(frozen=True, kw_only=True)
class Tune(Strict):
    """The trials: which settings are tuned, with which seeds, and how one recipe is chosen."""

    settings: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Seeds
    rule: Rule


@dataclass(frozen=True, kw_only=True)
class UntilDecided(Strict):
    """Seeds that are added until every comparison is decided, with a look after each, for all contestants alike."""

    first: Annotated[int, Field(ge=2)]  # seeds at the first look
    most: Annotated[int, Field(ge=3, le=1000)]  # seeds at the last look, decided or not
    until: Literal["decided"]


@dataclass(frozen=True, kw_only=True)
class Final(Strict):
    """Repetition of the chosen recipes: the only runs whose test scores are read."""

    seeds: Annotated[tuple[Seed, ...] | UntilDecided, BeforeValidator(_final_seeds)]
    allow_tuning_seeds: bool = False  # results with tuning seeds are too good: the recipe was chosen by them


@dataclass(frozen=True, kw_only=True)
class Stages(Strict):
    """Tuning on validation, then the chosen recipes with all seeds."""

    tune: Tune
    final: Final

    @property
    def final_seeds(self) -> tuple[int, ...]:
        """Return the final seeds; where they are added until decided, the first ones that were not tuned on."""
        if not isinstance(self.final.seeds, UntilDecided):
            return self.final.seeds
        fresh = (seed for seed in itertools.count() if seed not in self.tune.seeds)
        return tuple(itertools.islice(fresh, self.final.seeds.most))


@dataclass(frozen=True, kw_only=True)
class SweepFile(Strict):
    """A file in `sweeps/`."""

    name: FileName
    question: Annotated[str, Field(min_length=1)]
    cells: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    varies: tuple[str, ...]
    primary: str | None = None  # a column of the flat table: validation_loss, test_loss or <task>/<metric>
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # in its unit; None: the report's default
    stages: Stages | None = None
    claims: tuple[ClaimEntry, ...] = ()
    study: Study | None = None  # the published study that the file repeats

    @property
    def tuned(self) -> tuple[str, ...]:
        """Return the settings that are tuned; none without stages."""
        return self.stages.tune.settings if self.stages else ()


def read(values: Any) -> SweepFile:
    """Check a file's content.

    Raises:
        ValueError: a key or value is wrong, or two do not fit together; names it and what is allowed.
    """
    name = values.get("name") if isinstance(values, dict) else values
    if not isinstance(values, dict):
        raise ValueError(f"sweep={name}: sweep is a group, a file in sweeps/: {_keys(SweepFile)}")
    try:
        question = base.parsed(SweepFile, _with_entries(values))
    except ValidationError as error:
        raise ValueError(f"sweep={name}: {_explain(error)}") from error
    for complaint in _complaints(question):
        raise ValueError(f"sweep={name}: {complaint}")
    return question


def contestants_words(question: SweepFile) -> list[tuple[str | None, tuple[str, ...]]]:
    """Return (method, overrides) of each row of the results that the file asks for, the untouched model first."""
    words = [
        tuple(w for w in cell if setting_of(w) not in ("seed", *question.tuned)) for cell in expand(question.cells, ())
    ]
    methods = [next((w.partition("=")[2] for w in cell if setting_of(w) == "method"), None) for cell in words]
    return [("base", ("method=base",)), *dict.fromkeys(zip(methods, words, strict=True))]


def setting_of(word: str) -> str:
    """Return the setting of an override: method.r of `method.r=8`."""
    return word.lstrip("+~").partition("=")[0]


def varied(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the settings that are not the same in every cell."""
    tables = [{setting_of(word): word for word in cell} for cell in cells]
    names = dict.fromkeys(name for table in tables for name in table)
    return [name for name in names if len({table.get(name) for table in tables}) > 1]


def _complaints(question: SweepFile) -> Iterator[str]:
    """Yield a message for everything that does not fit together."""
    settings = dict.fromkeys(key for grid in question.cells for key in grid)
    for key in question.varies:
        if key.partition(".")[0] not in _SECTIONS:
            yield f"varies: {key} is no setting of a recipe; those begin with {', '.join(_SECTIONS)}"
    declared = recipe_keys([*question.varies, *question.tuned])
    for key in _varied_by_grids(question.cells):
        if not all(covered(recipe_key, declared) for recipe_key in recipe_keys([key])):
            yield f"cells vary {key}, which `varies` does not declare: {', '.join(question.varies) or 'nothing'}"
    if question.margin is not None and question.margin >= 1 and is_share(question.primary or ""):
        yield (
            f"margin={question.margin:g}: {question.primary} lies between 0 and 1, so that every difference would "
            "count as none; one point of it is 0.01"
        )
    yield from errors(question.claims, contestants_words(question), question.tuned if question.stages else None)
    if question.stages is None:
        return
    yield from _tuned_on(question)
    if "seed" in settings:
        yield "cells hold seed; with stages the seeds are those of stages.tune.seeds and stages.final.seeds"
    if "eval.test" in settings:
        yield "cells hold eval.test; with stages the trials never read the test and what is chosen always does"
    for key in question.tuned:
        if key not in settings:
            yield f"stages.tune.settings: {key} is in no grid of cells, which have {', '.join(settings)}"


def reused_seeds(stages: Stages, seeds: Iterable[int]) -> str:
    """Return why final seeds are refused that were tuned on; "" where none was, or the file allows it."""
    both = sorted(set(stages.tune.seeds) & set(seeds))
    if not both or stages.final.allow_tuning_seeds:
        return ""
    named = ", ".join(map(str, both))
    return (
        f"final seeds {named} are tuning seeds as well: a recipe is chosen for how it did with those, so that its "
        "results with them are too good; take other final seeds, or state stages.final.allow_tuning_seeds: true"
    )


def _tuned_on(question: SweepFile) -> Iterator[str]:
    """Yield a message where the answer would rest on the numbers by which the recipes were chosen."""
    assert question.stages is not None, "only a sweep with stages is tuned"
    if reused := reused_seeds(question.stages, question.stages.final_seeds):
        yield f"stages.final.seeds: {reused}"
    if question.primary == "validation_loss":
        yield (
            f"primary: validation_loss is what stages.tune.rule={question.stages.tune.rule} chooses by, and the lowest "
            "of several losses is too low: take test_loss or <task>/<metric>"
        )


def _varied_by_grids(grids: Sequence[dict[str, Any]]) -> list[str]:
    """Return the settings that have several values in the grids, or a value in only some of the grids."""
    values: dict[str, set[str]] = {}
    for grid in grids:
        for key, value in grid.items():
            alternatives = value if isinstance(value, list) else [value]
            values.setdefault(key, set()).update(
                json.dumps(alternative, sort_keys=True) for alternative in alternatives
            )
    return [key for key, texts in values.items() if len(texts) > 1 or not all(key in grid for grid in grids)]


def _with_entries(values: dict[str, Any]) -> dict[str, Any]:
    """Return the file's content, with every claim in plain text as an entry."""
    entries = values.get("claims")
    if not isinstance(entries, list):
        return values
    return {**values, "claims": [{"claim": entry} if isinstance(entry, str) else entry for entry in entries]}


def _explain(error: ValidationError) -> str:
    """Return the first error, with its place in the file."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if "[" not in str(part)]  # pydantic names the branch of a union there
    schema = {
        "tune": Tune, "final": Final, "stages": Stages, "claims": ClaimEntry,
        "study": Study, "data": StudyData, "published": PublishedNumber,
    }  # fmt: skip
    of = next((schema[part] for part in reversed(place[:-1]) if part in schema), SweepFile)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown {'.'.join(place)}; {'there are' if of is SweepFile else 'it has'} {_keys(of)}"
    if first["type"] == "missing":
        return f"{'.'.join(place)} is missing; needed are {_keys(of)}"
    if place[:1] == ["cells"]:
        return "cells must be a list of tables, each setting -> list of values"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}={json.dumps(first['input'])}: {message[:1].lower()}{message[1:]}"


def _keys(schema: type) -> str:
    return ", ".join(field.name for field in fields(schema))


RATES = ("lr_scale", "method.lr", "train.lr")
Rows = Sequence[tuple[str | None, Sequence[str]]]  # method and overrides of each row of the results


@dataclass(frozen=True, kw_only=True)
class ClaimEntry(Strict):
    """A claim that the sweep tests, in the grammar of `harness.records.claim_grammar`."""

    claim: str
    source: str | None = None  # author of the claim
    note: str | None = None  # remark for the reader


def errors(entries: Sequence[ClaimEntry], rows: Rows, tuned: Sequence[str] | None) -> Iterator[str]:
    """Yield why a claim is malformed or names a cell that the file does not have.

    Args:
        entries: the claims.
        rows: the rows of the results.
        tuned: the tuned settings; None without stages.
    """
    for entry in entries:
        try:
            _check(claim_grammar.parse(entry.claim), rows, tuned)
        except ValueError as error:
            text = str(error)
            yield text if text.startswith("claim ") else f'claim "{entry.claim}": {text}'


def _check(claim: Claim, rows: Rows, tuned: Sequence[str] | None) -> None:
    for cell in claim.cells:
        _check_cell(cell, tuned)
    places = [claim_grammar.select(cell, rows) for cell in claim.cells]
    if isinstance(claim, Difference):
        _check_range(claim, places)
    elif places[0] == places[1]:
        raise ValueError(f"{claim.above} and {claim.below} are the same row of the results")
    if isinstance(claim, Ratio) and claim.metric is None and not any(name in RATES for name in tuned or ()):
        raise ValueError(
            f"best_lr needs a tuned rate, one of {', '.join(RATES)} in stages.tune.settings; here: "
            f"{', '.join(tuned or ()) or 'nothing'}"
        )


def _check_range(claim: Difference, places: Sequence[int]) -> None:
    """Check that scores can decide the claim; `places` are the rows that its terms select.

    Raises:
        ValueError: it holds whatever the scores are, or it cannot hold.
    """
    factors: dict[int, float] = {}
    for term, place in zip(claim.terms, places, strict=True):
        factors[place] = factors.get(place, 0.0) + term.factor
    if not any(factors.values()):
        raise ValueError("the same row of the results stands on both sides, so that no score is left of it")
    if not is_share(claim.metric):
        return
    lowest, highest = (sum(sign * max(sign * factor, 0.0) for factor in factors.values()) for sign in (-1, 1))
    low, high, is_open = claim.range.low, claim.range.high, claim.range.is_open
    always = (low is None or low <= lowest) and (high is None or high >= highest)
    above = low is not None and (low > highest or (low == highest and is_open))
    below = high is not None and (high < lowest or (high == lowest and is_open))
    if always or above or below:
        what = "holds whatever the scores are" if always else "cannot hold"
        raise ValueError(f"it {what}: {claim.metric} lies between 0 and 1, and one point of it is 0.01")


@cache
def _shares() -> frozenset[str]:
    """Return the names of the metrics that are a share of 1."""
    metrics = yaml.safe_load((conf_dir() / "names.yaml").read_text(encoding="utf-8"))["metrics"]
    return frozenset(name for name, values in metrics.items() if values.get("percent"))


def is_share(column: str) -> bool:
    """Return whether a column of the results, such as `arc_easy/acc`, lies between 0 and 1."""
    metric = column.partition("/")[2]
    return bool({metric, metric.partition(",")[0]} & _shares())


def _check_cell(cell: Selector, tuned: Sequence[str] | None) -> None:
    if cell.best and tuned is None:
        raise ValueError(f"{cell}: @best is the recipe that stages.tune chose, and the file has no stages")
    wrong = [key for key, _ in cell.settings if key in (tuned or ()) or f"method.{key}" in (tuned or ())]
    if wrong:
        raise ValueError(f"{cell}: {wrong[0]} is tuned, so that it selects no row of the results; leave it out")
