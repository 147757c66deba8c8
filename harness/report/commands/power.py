"""`python -m harness.report power --items 1319 --seeds 3`: what could be seen, before a GPU hour is spent."""

import argparse
import sys
from collections.abc import Sequence

from harness.report.display import decimals


def main(arguments: Sequence[str]) -> int:
    """Print the smallest effect and, for a wished-for one, the power and the seeds it needs; 0, or 2 if impossible."""
    given = _parser().parse_args(arguments)
    try:
        print("\n".join(_lines(given)))
    except ValueError as error:
        print(f"harness.report: {error}", file=sys.stderr)
        return 2
    return 0


def _lines(given: argparse.Namespace) -> list[str]:
    from harness.stats import Plan, power, seeds_needed, smallest_effect

    plan = Plan(
        items=given.items,
        seeds=given.seeds,
        disagreement=given.disagreement,
        rerun_disagreement=given.rerun_disagreement,
        seed_deviation=given.seed_deviation / 100,
    )
    smallest = _points(smallest_effect(plan, given.power))
    lines = [
        f"With {_seeds(plan.seeds)} a method and {plan.items:,} items, a true difference of {smallest} points between "
        f"two methods is seen {given.power:.0%} of the time (two-sided, level 0.05, one comparison)."
    ]
    if given.effect is not None:
        effect = given.effect / 100
        seen, needed = power(plan, effect), seeds_needed(plan, effect, given.power)
        lines.append(f"A true difference of {_points(effect)} points is seen {seen:.0%} of the time.")
        lines.append(
            f"To see it {given.power:.0%} of the time, {_seeds(needed)} a method are needed."
            if needed
            else f"No number of seeds shows it {given.power:.0%} of the time on {plan.items:,} items: take more items."
        )
    if plan.seeds == 1:
        lines.append("One seed compares two trained models, not two methods: the noise between seeds is not in this.")
    elif plan.seeds < 6:
        lines.append("A sign-flip permutation over seeds needs six of them to reach p < 0.05.")
    lines.append(
        f"Assumed: two methods answer {plan.disagreement:.0%} of the items differently, two seeds of one method "
        f"{plan.rerun_disagreement:.0%}, and scores spread by {given.seed_deviation:g} points between seeds beyond "
        "that. Set them from a pilot: --disagreement, --rerun-disagreement, --seed-deviation. Several pairs need "
        "more, since Holm's adjustment covers all of them."
    )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report power",
        description="What a comparison of two methods could show. One seed: the exact McNemar test, computed. Several: "
        "the t test over items and seeds, simulated.",
    )
    parser.add_argument("--items", type=int, required=True, metavar="N", help="items of the task")
    parser.add_argument("--seeds", type=int, required=True, metavar="N", help="seeds of each method")
    parser.add_argument("--effect", type=float, metavar="POINTS", help="a wished-for difference: how many seeds?")
    parser.add_argument("--power", type=_share, default=0.8, help="how often it should be seen (default: 0.8)")
    parser.add_argument(
        "--disagreement", type=float, default=0.1, help="between methods, share of items (default: 0.1)"
    )
    parser.add_argument(
        "--rerun-disagreement", type=float, default=0.05, help="of seeds, share of items (default: 0.05)"
    )
    parser.add_argument(
        "--seed-deviation",
        type=float,
        default=0.3,
        metavar="POINTS",
        help="standard deviation between seeds beyond the items' (default: 0.3; with the other defaults scores on "
        "1,319 items spread by 0.5 between seeds)",
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0.05 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.05 and 1")
    return value


def _points(value: float) -> str:
    return decimals(100 * value, 1)


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"
