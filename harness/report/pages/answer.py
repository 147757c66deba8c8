"""The answer in a few sentences, computed: nothing is claimed that the tests do not carry."""

from collections.abc import Sequence

from harness.report.analysis.claims import MARGIN, Claims, Pair, claims, contests, main_contests
from harness.report.data.groups import Group, base_of
from harness.report.data.rows import Loaded
from harness.report.display import decimals, interval, p_value, several


def answer_of(groups: Sequence[Group], loaded: Loaded) -> list[str]:
    """`answer` to the question that was asked, with its margin."""
    return answer(groups, loaded.primary, loaded.margin)


def answer(groups: Sequence[Group], primary: str | None = None, margin: float = MARGIN) -> list[str]:
    """The sentences, as plain text, those on the question first.

    Only ok runs take part, and only those of one model and one evaluation identity are held against each other.

    Args:
        groups: the rows.
        primary: the column that answers the question; None: the first target task.
        margin: the largest difference that counts as none.
    """
    trained = [group for group in groups if group.trained]
    if not trained:
        looked = "Only the untouched model was evaluated" if any(group.ok for group in groups) else "No run ended well"
        return [f"{looked}: there are no methods to compare."]
    if all(group.random_weights for group in trained):
        return ["The weights are random: memory and speed are real, and nothing is said about quality."]
    main = [claims(contest, margin) for contest in main_contests(groups, primary)]
    losses = [claims(contest, margin) for contest in contests(groups, "validation")]
    asked = any(one.contest.role == "target" for one in main)
    scores = [sentence for one in main if one.contest.measure.metric != "loss" for sentence in _scores(one)]
    lost = [sentence for one in main if one.contest.measure.metric == "loss" for sentence in _losses(one, groups)]
    known = {one.contest.measure for one in main}
    found = [_lowest_loss(one, groups) for one in losses if one.contest.groups and one.contest.measure not in known]
    nothing = [] if asked or primary or scores else ["No target task was evaluated."]
    missing = [f"No trained method has a score in {primary}."] if primary and not main else []
    return [one for one in (*missing, *scores, *lost, *found, *nothing, _seed_remark(trained)) if one]


def _scores(found: Claims) -> list[str]:
    left_out = [f"{group.label} ({reason})" for group, reason in found.contest.left_out]
    remark = f"Not ranked on {found.contest.title}: {several(left_out, 6)}." if left_out else ""
    return [one for one in (_against_base(found), _between(found), remark) if one]


def _losses(found: Claims, groups: Sequence[Group]) -> list[str]:
    return [_lowest_loss(found, groups), _against_base(found), _between(found)]


def _lowest_loss(found: Claims, groups: Sequence[Group]) -> str:
    """Who has the lowest loss, and whether the next one is really behind."""
    contest = found.contest
    best = contest.ranked[0]
    loss = f"{decimals(contest.value(best), 4)} nats per answer token"
    base = contest.base or base_of(best, groups, contest.measure.eval_id)
    against = f" (base {decimals(contest.value(base), 4)})" if base else ""
    if len(contest.ranked) == 1:
        return f"On {contest.title}, {best.label} reaches a loss of {loss}{against}."
    gap = next((pair for pair in found.between if pair.a is best and pair.b is contest.ranked[1]), None)
    behind = f"ahead of {contest.ranked[1].label}, on items that cannot be paired"
    if gap is not None:
        low, high = sorted(-end for end in gap.interval)
        verdict = "separable" if gap.verdict in ("better", "worse") else gap.verdict
        behind = (
            f"{interval(-gap.difference.value, (low, high), 4)} below {gap.b.label}: {verdict} "
            f"({p_value(gap.p)}, Holm over {found.family})"
        )
    return f"On {contest.title}, {best.label} has the lowest loss, {loss}{against}, {behind}."


def _against_base(found: Claims) -> str:
    """Which methods are better than the untouched model, which worse, which cannot be told from it."""
    contest = found.contest
    sides: dict[str, list[str]] = {"better": [], "worse": [], "equivalent": [], "not separable": [], "unpaired": []}
    for group in contest.ranked:
        pair = next((one for one in found.against_base if one.a is group), None)
        shown = f" {interval(pair.difference.value, pair.interval, contest.digits, signed=True)}" if pair else ""
        sides[pair.verdict if pair else "unpaired"].append(f"{group.label}{shown}")
    said = {
        "better": ("is", "are", "better than base"),
        "worse": ("is", "are", "worse than base"),
        "equivalent": ("is", "are", "equivalent to base"),
        "not separable": ("is", "are", "not separable from base"),
        "unpaired": ("has", "have", "no paired difference to base"),
    }
    parts = [f"{several(names)} {said[side][len(names) > 1]} {said[side][2]}" for side, names in sides.items() if names]
    return f"On {contest.title}, {contest.num_items} items, {'; '.join(parts)}." if parts else ""


def _between(found: Claims) -> str:
    """Which pairs of methods can be told apart, and what could have been."""
    contest, pairs = found.contest, found.between
    if len(contest.groups) < 2:
        return ""
    if not pairs:
        return f"Whether the methods differ on {contest.title} cannot be tested: no items can be paired."
    tests = " or ".join(sorted({pair.test for pair in pairs}))
    count = f"{tests}, Holm over {found.family} comparison{'s' if found.family > 1 else ''}"
    apart = [_apart(pair) for pair in sorted(pairs, key=lambda pair: pair.p) if pair.verdict in ("better", "worse")]
    alike = [f"{pair.a.label} and {pair.b.label}" for pair in pairs if pair.verdict == "equivalent"]
    same = f" Equivalent within {found.margin:g}: {several(alike)}." if alike else ""
    seen = "" if found.detectable is None else f" {_detectable(found)}"
    if not apart:
        smallest = p_value(min(pair.p for pair in pairs))
        nothing = f"Between the methods no pair is separable on {contest.title} ({count}: smallest {smallest})."
        return nothing + same + seen
    shown = ", ".join(apart[:3]) + (f" and {len(apart) - 3} more" if len(apart) > 3 else "")
    rest = "no other pair is" if len(apart) < len(pairs) else "that is every pair"
    return f"Separable on {contest.title}: {shown}; {rest} ({count})." + same + seen


def _apart(pair: Pair) -> str:
    return f"{pair.a.label} from {pair.b.label} ({p_value(pair.p)})"


def _detectable(found: Claims) -> str:
    """What these items and seeds let be seen."""
    seeds = sorted({len(group.rows) for group in found.contest.groups})
    shown = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    noun = "seed" if seeds == [1] else "seeds"
    return (
        f"With {shown} {noun} and {found.contest.num_items:,} items, a true difference of "
        f"{decimals(found.detectable or 0.0, found.contest.digits)} between two methods is seen 80 % of the time."
    )


def _seed_remark(trained: Sequence[Group]) -> str:
    """What the intervals leave out."""
    single = [group.label for group in trained if len(group.rows) == 1]
    if not single:
        return ""
    if len(single) == len(trained):
        return "Each method has one seed, so seed noise is not in these intervals."
    verb, whose = ("has", "its") if len(single) == 1 else ("have", "their")
    return f"{several(single)} {verb} one seed, so seed noise is not in {whose} intervals."
