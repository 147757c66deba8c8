"""Validation losses at the learning rates that all methods of a tuned sweep were tried at: the best method at each.

One rate for all methods can make any of them the best, so that a comparison at a single rate says little.
"""

from collections.abc import Mapping, Sequence

from harness.records.selection import Trial
from harness.report import names
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import METHOD
from harness.report.data.tuning import Contestant
from harness.report.display import collected, several
from harness.report.document import Column, Missing, Number, Table, Text, fixed, ranked

_RATES = (("lr_scale",), ("method.lr",), ("train.lr",))  # a sweep that tunes something else has several trials a rate
_RATIO = "ratio"  # a method's setting: the rate of B over that of A
_DIGITS = 3
_CAPTION = (
    "Validation loss at the learning rates that every method was tried at: the mean over the tuning seeds and one "
    "standard error over them (over the validation rows where there is one seed); the lowest of each rate in bold."
)
ByRate = Mapping[float, Trial]


def table(comparison: Comparison, tuned: Sequence[Contestant]) -> Table | None:
    """Return a row for each method and a column for each rate; None unless all methods share two rates or more."""
    grids = _grids(comparison, tuned)
    if not grids:
        return None
    rates = list(next(iter(grids.values())))
    spanner = "Validation loss at the learning rate"
    columns = [Column(f"rate/{rate:g}", names.value(rate), digits=_DIGITS, spanner=spanner) for rate in rates]
    rows = []
    for contestant in tuned:
        losses = [_cell(grids[contestant.name][rate]) for rate in rates]
        rows.append((Text(contestant.title, contestant.name), *losses))
    made = Table((METHOD, *columns), tuple(rows), caption=_CAPTION, label="shared_rates", title="Shared learning rates")
    for column in columns:
        made = ranked(made, column.key)
    return made


def lines(comparison: Comparison, tuned: Sequence[Contestant]) -> list[str]:
    """Return which method is best at which rate, and how far apart the methods are there and at their own best."""
    grids = _grids(comparison, tuned)
    titles = {contestant.name: contestant.title for contestant in tuned}
    winners, spans = [], []
    for rate in next(iter(grids.values()), ()):
        losses = {name: loss for name, grid in grids.items() if (loss := grid[rate].loss) is not None}
        if len(losses) > 1:
            lowest = fixed(min(losses.values()), _DIGITS)  # as the table marks it
            winners += [
                (titles[name], names.value(rate)) for name, loss in losses.items() if fixed(loss, _DIGITS) == lowest
            ]
            spans.append(f"{fixed(max(losses.values()) - min(losses.values()), _DIGITS)} at {names.value(rate)}")
    own = [min(tried) for grid in grids.values() if (tried := [t.loss for t in grid.values() if t.loss is not None])]
    if not winners:
        return []
    best = (f"{title} at {several(at, len(at))}" for title, at in collected(winners).items())
    return [
        f"The lowest validation loss at a shared learning rate is that of {'; '.join(best)}.",
        f"The best and the worst method differ by {several(spans, len(spans))} (nats), and by "
        f"{fixed(max(own) - min(own), _DIGITS)} where each has its own best rate. These losses are not tested.",
    ]


def remarks(tuned: Sequence[Contestant]) -> list[str]:
    """Return which methods train a part of their weights at another rate than the one that the table names."""
    runs = ((contestant.title, contestant.trials[0].looks[0].run) for contestant in tuned)
    ratios = ((title, (run.recipe.get("method") or {}).get(_RATIO)) for title, run in runs if run)
    return [
        f"{title}: the rate is that of A, and that of B is {ratio:g} times as high" for title, ratio in ratios if ratio
    ]


def _cell(trial: Trial) -> Number | Missing:
    return Missing(trial.reason or trial.status) if trial.loss is None else Number(trial.loss, trial.standard_error)


def _grids(comparison: Comparison, tuned: Sequence[Contestant]) -> dict[str, ByRate]:
    """Return the trials of each contestant by their learning rate, ascending; {} unless all have the same rates."""
    sweep = comparison.loaded.sweep
    if sweep is None or sweep.tuning is None or sweep.tuning.settings not in _RATES or len(tuned) < 2:
        return {}
    grids: dict[str, ByRate] = {}
    for contestant in tuned:
        by_rate = {trial.rate: trial for trial in contestant.trials if trial.rate is not None}
        if len(by_rate) < len(contestant.trials):
            return {}
        grids[contestant.name] = dict(sorted(by_rate.items()))
    first = next(iter(grids.values()))
    return grids if len(first) > 1 and all(grid.keys() == first.keys() for grid in grids.values()) else {}
