"""Figures of a report: functions of a comparison, drawn where its records hold the data. Equal records, equal bytes.

One stack draws the files and the page. The headline figure and a score against the rank were drawn at 3.3 inches with
Altair and vl-convert, and with matplotlib. Both came out alike: TrueType fonts, equal bytes, 7-point text, an exact
width. Matplotlib stays, for three reasons. It measures every text in the font that it embeds, so that a label can be
placed where it covers no mark and no other label; vl-convert has no canvas, Vega's own label transform stops there with
an error, and the widths of texts and the size of the plot are known only inside. Its SVG needs no script: a page holds
named marks that the mouse, the keyboard and a screen reader reach, and not a megabyte of Vega. And it is one dependency
in place of two. Altair's charts had axes to choose; the page offers a figure for each cost, with its own titles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report.figures.canvas import Figure

if TYPE_CHECKING:
    from harness.report.analysis.comparison import Comparison

STEMS = (
    "gain", "by_*", "tradeoff_*", "sensitivity", "forgetting", "critical_difference", "tasks", "learning_curves",
    "tuning_budget", "memory", "update", "overview", "pareto", "places", "rank_heat_map",
)  # fmt: skip
"""Names of all figures, with those of earlier versions: a report removes what it no longer draws."""


def of(comparison: Comparison) -> list[Figure]:
    """Return the figures of a comparison: those of its body first, then those of its appendix."""
    from harness.report.analysis.claims import contests
    from harness.report.analysis.series import swept
    from harness.report.figures import bars, curves, lines, scatter, tasks

    groups, loaded = comparison.groups, comparison.loaded
    claims = comparison.claims[0] if comparison.claims else None
    settings = swept(groups, loaded.is_tuned) if claims else []
    hollow = bars.undecided(claims) if claims else frozenset()
    drawn = [
        bars.gain_figure(claims) if claims else None,
        *(lines.over_setting(setting, claims) for setting in settings if claims),
        *scatter.tradeoffs(groups, comparison.primary, loaded.external, hollow),
        scatter.learning_and_forgetting(groups, comparison.primary, hollow),
        tasks.diagram(comparison.targets),
        tasks.heat_map(comparison.targets, contests(groups, "retention")),
        curves.learning_curves(groups),
        lines.sensitivity(comparison.trial_groups or groups, [group for group in groups if group.first.is_base]),
        curves.tuning_budget(comparison.tuning),
        bars.memory_figure(groups),
        curves.update_figure(groups),
    ]
    figures = [figure for figure in drawn if figure]
    return sorted(figures, key=lambda figure: not figure.main)


def write(figures: Sequence[Figure], folder: Path) -> None:
    """Write the files of all figures into the folder, and remove those of figures that it no longer holds."""
    for figure in figures:
        figure.save(folder)
    current = {file for figure in figures for file in figure.files}
    for stem in STEMS:
        for path in (*folder.glob(f"{stem}.*"), *folder.glob(f"{stem}_column.*")):
            if path.name not in current and path.is_file():
                path.unlink()
