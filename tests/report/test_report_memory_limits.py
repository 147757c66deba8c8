"""Memory limits in the answer and the recommendation: none that two runs of one method would tell apart."""

from types import SimpleNamespace

import pytest

from harness.report.analysis import answer, axes, recommend

MIB = 2**20


@pytest.fixture(autouse=True)
def rows_are_their_peaks(monkeypatch):
    monkeypatch.setitem(axes.QUANTITIES, "required_memory_bytes", lambda row: None)
    monkeypatch.setitem(axes.QUANTITIES, "peak_memory_bytes", lambda row: row)


def options(**methods):
    """Each method's score and the peaks of its runs in MiB."""
    return [
        SimpleNamespace(
            label=name, value=score, costs={"memory": sum(peaks) / len(peaks) * MIB if peaks else None},
            group=SimpleNamespace(rows=tuple(peak * MIB for peak in peaks)),
        )
        for name, (score, *peaks) in methods.items()
    ]  # fmt: skip


def ladder(made, higher_is_better=True):
    result = SimpleNamespace(contest=SimpleNamespace(higher_is_better=higher_is_better))
    return [(used / MIB, option.label) for used, option in answer._ladder(result, made)]


def limits(made):
    return [used / MIB for used in recommend._apart(made)]


def test_peaks_within_the_scatter_of_a_methods_runs_are_one_limit():
    made = options(
        lora=(0.58, 1790, 1810), pissa=(0.59, 1805, 1815), rslora=(0.61, 1812, 1818), dora=(0.62, 2600, 2610)
    )
    assert axes.memory_spread(option.group for option in made) == 20 * MIB
    assert ladder(made) == [(1815, "rslora"), (2605, "dora")]
    assert limits(made) == [2605, 1815]


def test_without_several_runs_every_peak_is_a_limit():
    made = options(lora=(0.58, 1800), pissa=(0.59, 1801), rslora=(0.57, 1802), dora=(0.62, 2600))
    assert axes.memory_spread(option.group for option in made) == 0
    assert ladder(made) == [(1800, "lora"), (1801, "pissa"), (2600, "dora")]
    assert limits(made) == [2600, 1802, 1801, 1800]


def test_equal_peaks_have_the_best_of_them_and_an_unknown_one_has_none():
    made = options(lora=(0.58, 1800), pissa=(0.61, 1800), prompt=(0.9,))
    assert ladder(made) == [(1800, "pissa")]
    assert ladder(made, higher_is_better=False) == [(1800, "lora")]
    assert limits(made) == [1800]
