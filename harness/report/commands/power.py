"""`harness report power --items 1319 --seeds 3 --methods 4`: detectable differences, before a GPU hour is spent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report.commands import above_zero, count, not_negative
from harness.report.commands.answers import as_json
from harness.report.data.groups import LEVEL
from harness.report.display import counted
from harness.report.document import fixed

if TYPE_CHECKING:
    from harness.stats import Plan

DISAGREEMENT, RERUN_DISAGREEMENT, SEED_POINTS = 0.1, 0.05, 0.3
HOUR = 3600.0


@dataclass(frozen=True)
class Unit:
    """The unit of differences in a sentence: points of a share, or the metric's own, such as nats of a loss."""

    points: bool

    @property
    def scale(self) -> float:
        """Return by how much a difference in the metric's own unit is multiplied."""
        return 100.0 if self.points else 1.0

    def text(self, value: float) -> str:
        """Return a difference in a sentence: 3.6 points, 0.012."""
        return f"{fixed(100 * value, 1)} points" if self.points else f"{value:.2g}"

    def possible(self, effect: float) -> float | None:
        """Return a detectable difference; None where scores cannot differ by so much."""
        return None if self.points and effect > 1 else effect

    def reach(self, effect: float) -> str:
        """Return a detectable difference in a sentence, or that there is none."""
        return "none" if self.possible(effect) is None else self.text(effect)


@dataclass(frozen=True)
class Measured:
    """The noise of finished runs, in the unit of their metric, and the seconds that a run takes.

    Attributes:
        title: the task and the metric.
        items: items of the task.
        seeds: seeds of each method, the fewest.
        methods: trained methods.
        disagreement: variance per item of the difference of two runs; of answers the share that differs.
        rerun_disagreement: the same of two seeds of one method; None with one seed.
        seed_deviation: upper 80 % limit of the standard deviation of a score between seeds beyond single answers; None
            with one seed.
        estimate: the estimate of the same, 0 where it was cut; None with one seed.
        degrees: degrees of freedom of the estimate.
        right_or_wrong: False for graded outcomes and losses.
        unit: of differences.
        train_seconds: of one run, the mean.
        evaluation_seconds: of one run on this task, the mean.
    """

    title: str
    items: int
    seeds: int
    methods: int
    disagreement: float
    rerun_disagreement: float | None
    seed_deviation: float | None
    estimate: float | None
    degrees: float
    right_or_wrong: bool
    unit: Unit
    train_seconds: float | None
    evaluation_seconds: float | None

    @property
    def seeds_text(self) -> str:
        """Return where the deviation between seeds comes from."""
        assert self.estimate is not None, "several seeds"
        estimate = (
            self.unit.text(self.estimate) if self.estimate > 0 else "zero: they vary no more than single answers do"
        )
        return (
            f"upper 80 % limit on {self.title} with {self.degrees:.3g} degrees of freedom; the estimate is {estimate}"
        )


def power(arguments: Sequence[str]) -> str | list[str]:
    """Return what a design detects and which design buys most, as lines or as JSON."""
    given = _parser().parse_args(arguments)
    measured = _measured(given.runs, given.sweep) if given.runs else None
    unit = measured.unit if measured else Unit(points=True)
    if given.effect is not None and unit.points and given.effect > unit.scale:
        raise ValueError(f"--effect {given.effect:g}: scores differ by at most {unit.scale:g} points")
    plan, sources = _plan(given, measured, unit)
    lines = [*_detects(plan, given.power, unit), *_effect(plan, given, unit)]
    lines += _next(plan, given.power, measured, unit)
    if plan.seeds == 1:
        lines.append("One seed compares trained models, not methods: variance across seeds is not in these numbers.")
    lines.append(f"Assumed: {sources}.")
    estimate = measured.estimate if measured and given.seed_deviation is None else None
    record = {"lines": lines, **_record(plan, given, unit), "seed_deviation_estimate": estimate}
    return as_json(record) if given.json else lines


def _record(plan: Plan, given: argparse.Namespace, unit: Unit) -> dict[str, Any]:
    """Return the design, the noise and what it detects as plain values; effects are in the unit of the metric."""
    from harness.stats import power, seeds_needed, smallest_effect

    adjusted = plan.methods > 2
    effect = None if given.effect is None else given.effect / unit.scale
    return {
        **asdict(plan),
        "power": given.power,
        "detectable": unit.possible(smallest_effect(plan, given.power)),
        "detectable_adjusted": unit.possible(smallest_effect(plan, given.power, adjusted=adjusted)),
        "comparisons": plan.methods * (plan.methods - 1) // 2,
        "effect": effect,
        "effect_power": None if effect is None else power(plan, effect, adjusted=adjusted),
        "seeds_needed": None if effect is None else seeds_needed(plan, effect, given.power, adjusted=adjusted),
    }


def _plan(given: argparse.Namespace, measured: Measured | None, unit: Unit) -> tuple[Plan, str]:
    """Return the design with its noise, and where each number of the noise comes from.

    Raises:
        ValueError: items or seeds are neither given nor measured, or the noise between seeds of a loss is not.
    """
    from harness.stats import Plan

    items = measured.items if given.items is None and measured else given.items
    seeds = measured.seeds if given.seeds is None and measured else given.seeds
    if items is None or seeds is None:
        raise ValueError("give --items and --seeds, or --from RUNS to take them from finished runs")
    methods = given.methods
    if methods is None:
        methods = max(measured.methods, 2) if measured else 2
    right_or_wrong = measured is None or measured.right_or_wrong
    if (
        measured
        and measured.estimate is None
        and not right_or_wrong
        and None in (given.rerun_disagreement, given.seed_deviation)
    ):
        raise ValueError(
            f"single seeds show nothing of the noise between seeds on {measured.title}, and the defaults are those of "
            "accuracies: give --rerun-disagreement and --seed-deviation, or runs with several seeds"
        )

    def assumed(name: str, default: float, scale: float = 1.0) -> tuple[float, str]:
        if (value := getattr(given, name)) is not None:
            return value / scale, "given"
        value = getattr(measured, name, None)
        return (default, "default") if value is None else (value, f"measured on {measured.title}")  # type: ignore[union-attr]

    between, whence = assumed("disagreement", DISAGREEMENT)
    again, again_whence = assumed("rerun_disagreement", min(RERUN_DISAGREEMENT, between))
    deviation, deviation_whence = assumed("seed_deviation", SEED_POINTS / 100, unit.scale)
    if measured and measured.estimate is not None and given.seed_deviation is None:
        deviation_whence = measured.seeds_text
    items_text = (
        f"two methods answer {between:.3g} of the items differently ({whence}), two seeds of one method {again:.3g} "
        f"({again_whence})"
        if right_or_wrong
        else f"the difference of two methods has a variance of {between:.3g} per item ({whence}), that of two seeds of "
        f"one method {again:.3g} ({again_whence})"
    )
    beyond = f"{100 * deviation:.2g} points" if unit.points else f"{deviation:.2g}"
    sources = f"{items_text}, and scores deviate by {beyond} between seeds beyond that ({deviation_whence})"
    return Plan(items, seeds, between, again, deviation, methods, right_or_wrong), sources


def _detects(plan: Plan, wanted: float, unit: Unit) -> list[str]:
    from harness.stats import smallest_effect

    design = f"{counted(plan.methods, 'method')}, {counted(plan.seeds, 'seed')} each, {plan.items:,} items"
    alone = unit.reach(smallest_effect(plan, wanted))
    difference = "no difference" if alone == "none" else f"a true difference of {alone}"
    lines = [f"{design}: one comparison detects {difference} with {wanted:.0%} power."]
    if plan.methods > 2:
        family = unit.reach(smallest_effect(plan, wanted, adjusted=True))
        pairs = plan.methods * (plan.methods - 1) // 2
        lines.append(f"Adjusted for all {pairs} pairs (family-wise error 5 %): {family}.")
    return lines


def _effect(plan: Plan, given: argparse.Namespace, unit: Unit) -> list[str]:
    """Return the power for a wished-for difference, and the seeds that it needs."""
    from harness.stats import power, seeds_needed

    if given.effect is None:
        return []
    effect, adjusted = given.effect / unit.scale, plan.methods > 2
    seen = power(plan, effect, adjusted=adjusted)
    needed = seeds_needed(plan, effect, given.power, adjusted=adjusted)
    how = ", adjusted" if adjusted else ""
    lines = [f"A true difference of {unit.text(effect)} is detected with {seen:.0%} power{how}."]
    if needed:
        return [*lines, f"{given.power:.0%} power needs {counted(needed, 'seed')} per method."]
    return [*lines, f"No number of seeds reaches {given.power:.0%} power on {plan.items:,} items: take more items."]


def _next(plan: Plan, wanted: float, measured: Measured | None, unit: Unit) -> list[str]:
    """Return the designs that are one step larger, with their cost where it is known, the best buy first."""
    from harness.stats import smallest_effect

    adjusted = plan.methods > 2
    if plan.seeds == 1:
        three = unit.reach(smallest_effect(replace(plan, seeds=3), wanted, adjusted=adjusted))
        return [f"Next: three seeds per method, for a statement about methods: {three}."]
    now = smallest_effect(plan, wanted, adjusted=adjusted)
    train, evaluate = (None, None) if measured is None else (measured.train_seconds, measured.evaluation_seconds)
    scale = 1.0 if measured is None else plan.items / measured.items
    more = [
        ("one more seed per method", replace(plan, seeds=plan.seeds + 1), _sum(train, evaluate, scale, plan.methods)),
        (
            "twice the items",
            replace(plan, items=2 * plan.items),
            None if evaluate is None else evaluate * scale * plan.methods * plan.seeds,
        ),
    ]
    options = []
    for name, design, seconds in more:
        gain = now - smallest_effect(design, wanted, adjusted=adjusted)
        options.append((name, now - gain, gain, seconds))
    priced = all(seconds for *_, seconds in options)
    options.sort(key=lambda option: -(option[2] / option[3] if priced and option[3] else option[2]))
    rows = [
        f"{name}: {unit.reach(after)}" + (f" for {seconds / HOUR:.2g} h of runs" if seconds else "")
        for name, after, _, seconds in options
    ]
    how = "most per hour first" if priced else "largest gain first; --from RUNS adds the hours"
    return [f"Next ({how}): {'; '.join(rows)}."]


def _sum(train: float | None, evaluate: float | None, scale: float, methods: int) -> float | None:
    return None if train is None or evaluate is None else (train + evaluate * scale) * methods


def _measured(runs: Sequence[Path], sweep: str | None) -> Measured:
    """Return the noise of the answer's task in finished runs.

    Raises:
        ValueError: no two methods answered the same items.
    """
    from harness.report import load
    from harness.report.data.groups import aligned
    from harness.report.data.load import only_sweep
    from harness.report.display import mean
    from harness.stats import measured_noise

    comparison = load(runs, only_sweep(runs, sweep))
    contest = next((contest for contest in comparison.contests if len(contest.groups) > 1), None)
    if contest is None:
        raise ValueError("no two methods have a score on the same task: there is no noise to measure")
    table = aligned(contest.ranked, contest.measure)
    if table is None or len(table.values) < 2:
        raise ValueError(f"no two methods answered the same items of {contest.title}: there is no noise to measure")
    noise = measured_noise(table.values, table.weights, table.clusters)
    rows = [row for group in contest.ranked for row in group.rows]
    trained = [row.current.training.train_seconds if row.current and row.current.training else None for row in rows]
    looks = [s.record.seconds for group in contest.ranked for s in group.evaluations[contest.measure.eval_id]]
    return Measured(
        title=contest.title,
        items=contest.num_items,
        seeds=min(len(group.rows) for group in contest.ranked),
        methods=len(contest.ranked),
        disagreement=noise.disagreement,
        rerun_disagreement=noise.rerun_disagreement,
        seed_deviation=noise.seed_deviation_limit,
        estimate=noise.seed_deviation,
        degrees=noise.degrees,
        right_or_wrong=noise.right_or_wrong,
        unit=Unit(points=bool(contest.gains.unit)),
        train_seconds=mean(trained),
        evaluation_seconds=mean(looks),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report power",
        description="Differences that a design detects with the test of the reports, for one comparison and adjusted "
        "for all pairs; and which larger design buys most.",
    )
    parser.add_argument("--items", type=count, metavar="N", help="number of items of the task")
    parser.add_argument("--seeds", type=count, metavar="S", help="number of seeds per method")
    parser.add_argument("--methods", type=count, metavar="K", help="number of methods compared (default: 2)")
    parser.add_argument(
        "--from", dest="runs", type=Path, nargs="+", metavar="RUNS", help="estimate variances and hours from these runs"
    )
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    parser.add_argument("--json", action="store_true", help="print JSON: effects as fractions, unknown values are null")
    parser.add_argument(
        "--effect",
        type=above_zero,
        metavar="POINTS",
        help="difference to detect (of a loss in --from: in its own unit); prints the number of seeds that it takes",
    )
    parser.add_argument("--power", type=_share, default=0.8, help="probability of detection (default: 0.8)")
    parser.add_argument(
        "--disagreement", type=above_zero, help="share of items on which two methods disagree (default: 0.1)"
    )
    parser.add_argument(
        "--rerun-disagreement", type=not_negative, help="share of items on which two seeds disagree (default: 0.05)"
    )
    parser.add_argument(
        "--seed-deviation",
        type=not_negative,
        metavar="POINTS",
        help="standard deviation between seeds beyond the items' (default: 0.3; with the other defaults scores on "
        "1,319 items deviate by 0.5 between seeds)",
    )
    return parser


def _share(text: str) -> float:
    value = above_zero(text)
    if not LEVEL < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between {LEVEL:g}, the level of the test, and 1")
    return value
