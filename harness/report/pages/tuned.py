"""Remarks on tuning: selected losses, grids that were too narrow, doubts about the choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.records.selection import Edge
from harness.report.analysis.comparable import Difference, differences
from harness.report.analysis.facts import stack_facts
from harness.report.data.rows import Loaded, Row
from harness.report.data.tuning import UNDERTUNED, Contestant, contestants
from harness.report.display import several

SELECTED = (
    "The validation losses are selected: each is the lowest of several on the same rows, so that it is too low, and "
    "nothing is tested on it."
)
CENTERS = (
    " Equal numbers of trials are not equal knowledge: every method's grid lies around the learning rate that was "
    "published for it."
)


def lines(loaded: Loaded) -> list[str]:
    """Return every remark on the trials and their choice; nothing for a sweep without stages."""
    if loaded.sweep is None or loaded.sweep.tuning is None:
        return []
    caveat = SELECTED + (CENTERS if "lr_scale" in loaded.sweep.tuning.settings else "")
    tried = contestants(loaded.sweep, loaded.trials)
    return [caveat, *concurrency(loaded.trials), *remarks(tried, loaded.sweep.name), *doubts(loaded)]


def concurrency(trials: Sequence[Row]) -> list[str]:
    """Return a line about trials that shared their device with others; none where each had it alone."""
    attempts = [attempt for trial in trials if trial.record for attempt in trial.record.attempts]
    shared = [attempt for attempt in attempts if attempt.concurrent_runs > 1]
    if not shared:
        return []
    runs = several(sorted({str(attempt.concurrent_runs) for attempt in shared}, key=int))
    threads = sorted({int(attempt.provenance["threads"]) for attempt in shared if "threads" in attempt.provenance})
    noun = "thread" if threads == [1] else "threads"
    each = f", each with {several(list(map(str, threads)))} {noun}" if threads else ""
    return [
        f"Trials shared a device, {runs} at once{each}: their seconds and rates are not comparable with those of the "
        "results, and an hour of one counts as its part of a device hour"
    ]


def doubts(loaded: Loaded) -> list[str]:
    """Return the doubts about the choice: reads of the test, earlier choices, seeds, other versions."""
    assert loaded.sweep is not None and loaded.sweep.tuning is not None, "only a tuned sweep was chosen"
    tuning, found = loaded.sweep.tuning, []
    if readers := test_readers(loaded):
        runs = [row.title for row in readers]
        found.append(f"{len(runs)} runs of trials have read the test without being results: {several(runs, 6)}")
    if tuning.earlier:
        recipes = {row.recipe_id for row in (*loaded.rows, *readers) if row.test_reads and not row.is_base}
        found.append(
            f"Recipes were chosen {len(tuning.earlier) + 1} times, since the sweep was extended, and the test was read "
            f"for {len(recipes)} recipes: who chose last could know how the earlier choices did on it"
        )
    if both := sorted(set(tuning.seeds) & {row.seed for row in loaded.rows if not row.is_base and not _is_trial(row)}):
        seeds = ", ".join(map(str, both))
        found.append(f"Results with seed {seeds} are too good: the recipes were chosen for how they did with it")
    found += [f"Trials and results were not made alike: {one.shown({})}" for one in _between_stages(loaded)]
    return found


def test_readers(loaded: Loaded) -> list[Row]:
    """Return the runs of trials, and of recipes that are results no more, that have read the test."""
    results = {(row.recipe_id, row.seed) for row in loaded.rows if not _is_trial(row)}
    chosen = {recipe for recipe, _ in results}
    trials = [row for row in loaded.trials if (row.recipe_id, row.seed) not in results]
    others = [row for row in loaded.unasked if row.recipe_id not in chosen]
    return [row for row in (*trials, *others) if row.test_reads]


def _between_stages(loaded: Loaded) -> list[Difference]:
    """Return the differences in machine or program between all trials and all results."""
    stages = {
        "trials": [row for row in loaded.trials if row.status == "ok"],
        "results": [row for row in loaded.rows if row.status == "ok" and not row.is_base],
    }
    facts = {name: [stack_facts(row) for row in rows] for name, rows in stages.items() if rows}
    same = {
        name: {key: value for key, value in every[0].items() if all(settings.get(key) == value for settings in every)}
        for name, every in facts.items()
    }
    return differences(same) if len(same) == len(stages) else []


def _is_trial(row: Row) -> bool:
    """Return whether a row of the results stands for a contestant without a chosen recipe."""
    return row.cell is not None and row.cell.stage == "tune"


def remarks(found: Sequence[Contestant], sweep: str) -> list[str]:
    """Return the warnings about the trials, contestant by contestant, and the command that widens the grid."""
    lines = [line for contestant in found for line in _remarks(contestant)]
    if any(contestant.edges for contestant in found):
        lines.append(f"python -m harness.sweep extend {sweep} tries further values for every contestant")
    return lines


def _remarks(contestant: Contestant) -> list[str]:
    """Return the warnings about a contestant's trials."""
    lines = [
        f"{contestant.title} may be {UNDERTUNED}: {_edge(edge)}; a better value may lie beyond"
        for edge in contestant.edges
    ]
    missing = Counter(trial.status for trial in contestant.trials)["missing"]
    if missing:
        lines.append(f"{contestant.title}: {missing} of {len(contestant.trials)} trials have not been made")
    broken: dict[str, list[str]] = {}
    for trial in contestant.trials:
        if trial.status not in ("ok", "missing"):
            values = " ".join(f"{name}={value}" for name, value in trial.settings.items())
            broken.setdefault(f"{trial.status}: {trial.reason or 'no reason recorded'}", []).append(values)
    for fate, who in broken.items():
        lines.append(f"{contestant.title} {', '.join(who)}: {fate} (counted)")
    if contestant.choice.recipe_id is None and not missing:
        lines.append(f"{contestant.title}: nothing could be chosen, {contestant.choice.reason}")
    if contestant.recorded and contestant.recorded.recipe_id != contestant.choice.recipe_id:
        lines.append(
            f"{contestant.title}: the results are of {contestant.recorded.recipe_id}, and the records as they are now "
            f"would choose {contestant.choice.recipe_id}: run the sweep again"
        )
    return lines


def _edge(edge: Edge) -> str:
    """For example `lr_scale=3 is the highest value tried`."""
    if not edge.unproven:
        return f"{edge.setting}={edge.value} is the {edge.side} value tried"
    failed = several([f"{value:g}" for value in edge.unproven])
    return (
        f"{edge.setting}={edge.value} is the {edge.side} value that completed or diverged, and {failed} failed for "
        "another reason"
    )
