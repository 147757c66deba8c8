"""What the figures and the table of tuning show, computed again from the files of the trials' records."""

import csv
import itertools
from contextlib import contextmanager
from statistics import mean

import numpy as np
import pytest
import traced_files
import tuned_tree
from traced_numbers import error_of, parts_of, value_of

from harness.report.data.groups import grouped
from harness.report.data.load import load
from harness.report.data.tuning import contestants
from harness.report.figures import budget, sensitivity

NUM_TRIALS = 3


@pytest.fixture(scope="module")
def trials(tuned_report):
    """contestant -> its trials as they lie, and its losses on the validation rows, None where there is none."""
    return traced_files.read(tuned_report.parent / "runs", "tuned", tuned_tree.named).trials


@pytest.fixture(scope="module")
def loaded(tuned_report):
    return load([tuned_report.parent / "runs"], "tuned")


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Make a figure and give its axes instead of its files."""

    def axes_of(module, *arguments):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure()
        FigureCanvasAgg(figure)

        @contextmanager
        def drawing(*_):
            yield figure

        monkeypatch.setattr(module, "drawing", drawing)
        assert module.make(*arguments, tmp_path) is not None
        return figure.axes[0]

    return axes_of


def _loss(run):
    if run.status != "ok":
        return None
    [look] = run.looks.values()
    return value_of(look.outcomes("loss")[None], look.weights)


def test_the_line_over_the_learning_rate_goes_through_every_trial(drawn, loaded, trials):
    axes = drawn(sensitivity, grouped(loaded.trials))
    lines = {box.get_label(): box for box in axes.containers}
    expected = {name.removeprefix("method="): runs for name, runs in trials.items() if any(map(_loss, runs))}
    assert lines.keys() == expected.keys() and len(lines) == 5
    for name, runs in expected.items():
        known = sorted((run.rate, _loss(run), run) for run in runs if _loss(run) is not None)
        line, _, [bars] = lines[name].lines
        assert [*line.get_xdata()] == [rate for rate, _, _ in known]
        assert [*line.get_ydata()] == pytest.approx([loss for _, loss, _ in known])
        for bar, (_, loss, run) in zip(bars.get_segments(), known, strict=True):
            [look] = run.looks.values()
            values = look.outcomes("loss")[None]
            half = error_of(parts_of(values, look.weights, [values]))
            assert [*bar[:, 1]] == pytest.approx([loss - half, loss + half])
    filled = [line for line in axes.lines if line.get_markersize() == 6 and line.get_marker() != "x"]
    best = [min((_loss(run), run.rate) for run in runs if _loss(run)) for runs in expected.values()]
    assert [(line.get_ydata()[0], line.get_xdata()[0]) for line in filled] == [pytest.approx(one) for one in best]
    crosses = {line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"}
    assert crosses == {run.rate for runs in expected.values() for run in runs if run.status != "ok"}


def test_the_expected_best_and_its_band_are_those_of_every_draw(drawn, loaded, trials):
    axes = drawn(budget, contestants(loaded.sweep, loaded.trials))
    bands = dict(zip((line.get_label() for line in axes.lines), axes.collections, strict=True))
    assert len(bands) == 5
    for line in axes.lines:
        losses = [_loss(run) or float("inf") for run in trials[line.get_label()]]
        assert len(losses) == NUM_TRIALS
        draws = {k: [min(one) for one in itertools.combinations(losses, k)] for k in range(1, NUM_TRIALS + 1)}
        finite = {k: sorted(found) for k, found in draws.items() if max(found) < float("inf")}
        assert [*line.get_xdata()] == [*finite]
        assert [*line.get_ydata()] == pytest.approx([mean(found) for found in finite.values()])
        corners = bands[line.get_label()].get_paths()[0].vertices
        for k, found in finite.items():
            reach = corners[corners[:, 0] == k][:, 1]
            low, high = (np.quantile(found, one, method="inverted_cdf") for one in (0.1, 0.9))
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
