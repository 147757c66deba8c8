"""What the figures and the table of tuning show, computed again from the files of the trials' records."""

import csv
import itertools
from statistics import mean

import numpy as np
import pytest
import traced_files
import tuned_tree
from traced_numbers import error_of, parts_of, value_of

from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import grouped
from harness.report.data.load import load
from harness.report.data.tuning import contestants
from harness.report.figures import curves, lines
from harness.report.figures.canvas import PAGE
from harness.report.figures.style import look_of

NUM_TRIALS = 3


@pytest.fixture(scope="module")
def trials(tuned_report):
    """contestant -> its trials as they lie, and its losses on the validation rows, None where there is none."""
    return traced_files.read(tuned_report.parent / "runs", "tuned", tuned_tree.named).trials


@pytest.fixture(scope="module")
def loaded(tuned_report):
    return load([tuned_report.parent / "runs"], "tuned")


def _loss(run):
    if run.status != "ok":
        return None
    [look] = run.looks.values()
    return value_of(look.outcomes("loss")[None], look.weights)


def test_the_line_over_the_learning_rate_goes_through_every_trial(loaded, trials):
    expected = {name.removeprefix("method="): runs for name, runs in trials.items()}
    expected = {name: runs for name, runs in expected.items() if sum(_loss(run) is not None for run in runs) > 1}
    assert len(expected) == 5
    with lines.sensitivity(grouped(loaded.trials)).drawn(PAGE) as sheet:
        drawn = sheet.figure.axes[0].lines
        curves_of = {_look(line): line for line in drawn if len(line.get_xdata()) > 1 and not _is_bar(line)}
        bars = {(line.get_xdata()[0], *line.get_ydata()) for line in drawn if _is_bar(line)}
        filled = [
            (line.get_xdata()[0], line.get_ydata()[0])
            for line in drawn
            if len(line.get_xdata()) == 1 and line.get_marker() != "x" and line.get_markerfacecolor() != "white"
        ]
        crosses = {line.get_xdata()[0] for line in drawn if line.get_marker() == "x"}
    for name, runs in expected.items():
        tried = sorted((run.rate, _loss(run), run) for run in runs if _loss(run) is not None)
        line = curves_of[look_of(name)]
        assert [*line.get_xdata()] == [rate for rate, _, _ in tried]
        assert [*line.get_ydata()] == pytest.approx([loss for _, loss, _ in tried])
        for rate, loss, run in tried:
            [look] = run.looks.values()
            values = look.outcomes("loss")[None]
            half = error_of(parts_of(values, look.weights, [values]))
            assert any(bar == pytest.approx((rate, loss - half, loss + half)) for bar in bars)
    best = [min((_loss(run), run.rate) for run in runs if _loss(run)) for runs in expected.values()]
    assert sorted(filled) == [pytest.approx((rate, loss)) for loss, rate in sorted(best, key=lambda one: one[::-1])]
    assert crosses == {run.rate for runs in expected.values() for run in runs if run.status != "ok"}


def test_the_axis_ends_above_the_loss_of_the_base_where_a_rate_diverges():
    """No point that beats the base leaves it, and without a loss beyond it the axis holds every loss."""
    assert lines._ceiling(4.5, [3.6, 4.4, 9.0]) == pytest.approx(4.725)
    assert lines._ceiling(4.5, [3.6, 4.4, 4.7]) is None
    assert lines._ceiling(4.5, [4.6, 9.0]) is None


def test_the_base_is_a_dashed_line_in_the_figure_of_the_rates(loaded):
    every = Comparison(loaded)
    bases = [group for group in every.groups if group.first.is_base]
    figure = lines.sensitivity(every.trial_groups, bases)
    level = lines.qualities(every.trial_groups, ("validation",))[0].of(bases[0]).value
    with figure.drawn(PAGE) as sheet:
        axes = sheet.figure.axes[0]
        assert any([*line.get_ydata()] == [level, level] for line in axes.lines)
        losses = [y for line in axes.lines for y in line.get_ydata() if len(line.get_xdata()) > 2]
        low, high = axes.get_ylim()
        assert low < min(losses)
        assert high >= min(level, max(losses))
    assert " Dashed: base" in figure.caption


def _look(line) -> tuple[str, str]:
    return line.get_color(), line.get_marker()


def _is_bar(line) -> bool:
    return len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]


def test_the_expected_best_is_that_of_every_draw(loaded, trials, monkeypatch):
    several = contestants(loaded.sweep, loaded.trials)
    monkeypatch.setattr(curves, "MOST_BANDS", 9)
    with curves.tuning_budget(several).drawn(PAGE) as sheet:
        axes = sheet.figure.axes[0]
        drawn = {_look(line): (line, band) for line, band in zip(axes.lines, axes.collections, strict=True)}
    assert len(drawn) == 5
    for name, runs in trials.items():
        losses = [_loss(run) or float("inf") for run in runs]
        assert len(losses) == NUM_TRIALS
        if min(losses) == float("inf"):
            continue
        line, band = drawn[look_of(name.removeprefix("method="))]
        draws = {k: [min(one) for one in itertools.combinations(losses, k)] for k in range(1, NUM_TRIALS + 1)}
        finite = {k: sorted(each) for k, each in draws.items() if max(each) < float("inf")}
        assert [*line.get_xdata()] == [*finite]
        assert [*line.get_ydata()] == pytest.approx([mean(each) for each in finite.values()])
        corners = band.get_paths()[0].vertices
        for k, each in finite.items():
            reach = corners[corners[:, 0] == k][:, 1]
            low, high = (np.quantile(each, one, method="inverted_cdf") for one in (0.1, 0.9))
            assert (reach.min(), reach.max()) == pytest.approx((low, high))


def test_every_trial_is_a_line_of_the_table(tuned_report, trials):
    lines = [*csv.DictReader((tuned_report / "tuning.csv").read_text().splitlines())]
    runs = [(name, run) for name, tried in trials.items() for run in tried]
    assert len(lines) == len(runs) == 6 * NUM_TRIALS
    for line, (name, run) in zip(lines, runs, strict=True):
        assert (line["contestant"], line["recipe_id"], line["status"]) == (name, run.recipe_id, run.status)
        assert float(line["learning_rate"]) == run.rate
        assert (float(line["validation_loss"]) if line["validation_loss"] else None) == pytest.approx(_loss(run))
        phases = run.attempt["phases"]
        seconds = sum(phases[name]["seconds"] for name in ("load", "train", "validate") if name in phases)
        assert float(line["device_seconds"]) == pytest.approx(seconds)
    best = {name: min((_loss(run), run.recipe_id) for run in tried if _loss(run)) for name, tried in trials.items() if
            any(map(_loss, tried))}  # fmt: skip
    assert [line["recipe_id"] for line in lines if line["chosen"] == "1"] == [recipe for _, recipe in best.values()]
