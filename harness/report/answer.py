"""The answer in one to three sentences, computed: nothing is claimed that the standard errors do not carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.report.display import decimals, estimate, p_value, several
from harness.report.groups import Group, Measure, base_of, difference, headline, score, separation
from harness.report.items import Scored
from harness.stats import SeedEstimate, holm

LEVEL = 0.05
STANDARD_ERRORS = 2  # a difference is called one when it is larger than so many standard errors


@dataclass(frozen=True)
class Contest:
    """Trained groups of one base model that were asked the same thing, and are held against each other."""

    title: str  # the task and the metric
    measure: Measure
    num_items: int
    groups: tuple[Group, ...]


def answer(groups: Sequence[Group]) -> list[str]:
    """The sentences, as plain text.

    Only ok runs take part, and only those of one model and one evaluation identity are held against each other.
    """
    trained = [group for group in groups if group.trained]
    if not trained:
        looked = "Only the untouched model was evaluated" if any(group.ok for group in groups) else "No run ended well"
        return [f"{looked}: there are no methods to compare."]
    losses = [_lowest_loss(contest, groups) for contest in contests(trained, "validation")]
    targets = contests(trained, "target")
    first = [c for c in targets if c.title == targets[0].title]
    scores = [_against_base(contest, groups) for contest in first]
    between = [_between(contest) for contest in first if len(contest.groups) > 1]
    found = [*losses, *(scores or ["No target task was evaluated."]), *between]
    return [*found[:-1], found[-1] + _seed_remark(trained)]


def contests(trained: Sequence[Group], role: str) -> list[Contest]:
    """The contests of a role in the order of the tasks, the headline metric of each."""
    found: dict[tuple[str, str, object], list[tuple[Scored, Group]]] = {}
    for group in trained:
        for scored in group.role(role):
            metric = "loss" if scored.heldout else headline(scored)
            if metric is not None and metric in scored.record.metrics:
                found.setdefault((scored.record.eval_id, metric, group.model), []).append((scored, group))
    return [
        Contest(
            title=members[0][0].task if metric == "loss" else f"{members[0][0].task} ({metric})",
            measure=Measure(eval_id, metric),
            num_items=members[0][0].record.num_items,
            groups=tuple(group for _, group in members),
        )
        for (eval_id, metric, _), members in found.items()
    ]


def clear(found: SeedEstimate | None) -> bool:
    """Whether a difference is larger than twice its standard error."""
    if found is None or found.standard_error is None:
        return False
    return abs(found.value) > STANDARD_ERRORS * found.standard_error


def _lowest_loss(contest: Contest, groups: Sequence[Group]) -> str:
    """Who has the lowest validation loss, and whether the next one is really behind."""
    ranked = sorted(contest.groups, key=lambda group: _value(group, contest.measure))
    best = ranked[0]
    loss = f"{decimals(_value(best, contest.measure), 4)} nats per answer token"
    base = base_of(best, groups, contest.measure.eval_id)
    against = f" (base {decimals(_value(base, contest.measure), 4)})" if base else ""
    if len(ranked) == 1:
        return f"On {contest.title}, {best.label} reaches a loss of {loss}{against}."
    gap = difference(ranked[1], best, contest.measure)
    if gap is None:
        behind = f"ahead of {ranked[1].label}, by a margin without a standard error"
    else:
        verdict = "more" if clear(gap) else "not more"
        behind = f"{estimate(gap, 4)} below {ranked[1].label}, {verdict} than twice the standard error"
    return f"On {contest.title}, {best.label} has the lowest loss, {loss}{against}, {behind}."


def _against_base(contest: Contest, groups: Sequence[Group]) -> str:
    """Which methods are above the untouched model, which below, which cannot be told from it: largest gain first."""
    sides: dict[str, list[str]] = {"above": [], "below": [], "unclear": [], "unpaired": []}
    bases = [(group, base_of(group, groups, contest.measure.eval_id)) for group in contest.groups]
    gaps = [(group, difference(group, base, contest.measure) if base else None) for group, base in bases]
    for group, gap in sorted(gaps, key=lambda one: -one[1].value if one[1] else 0.0):
        side = "unpaired" if gap is None else "unclear" if not clear(gap) else "above" if gap.value > 0 else "below"
        sides[side].append(f"{group.label} ({estimate(gap, 3, signed=True)})" if gap else group.label)
    said = {
        "above": ("beats", "beat", "base by more than twice the standard error"),
        "below": ("falls", "fall", "below base by more than twice the standard error"),
        "unclear": ("is", "are", "within twice the standard error of base"),
        "unpaired": ("has", "have", "no paired difference to base"),
    }
    parts = [f"{several(names)} {said[side][len(names) > 1]} {said[side][2]}" for side, names in sides.items() if names]
    return f"On {contest.title}, {contest.num_items} items, {'; '.join(parts)}."


def _between(contest: Contest) -> str:
    """Which pairs of methods can be told apart, with Holm's adjustment for the number of pairs."""
    pairs = [(pair, separation(*pair, contest.measure)) for pair in combinations(contest.groups, 2)]
    tested = [(pair, found) for pair, found in pairs if found]
    if not tested:
        return f"Whether the methods differ on {contest.title} cannot be tested: no items can be paired."
    adjusted = holm([p for _, (p, _) in tested])
    tests = " or ".join(sorted({name for _, (_, name) in tested}))
    count = f"{tests}, Holm over {len(tested)} pair{'s' if len(tested) > 1 else ''}"
    apart = [
        f"{a.label} from {b.label} ({p_value(p)})"
        for ((a, b), _), p in sorted(zip(tested, adjusted, strict=True), key=lambda one: one[1])
        if p < LEVEL
    ]
    if not apart:
        return (
            f"Between the methods no pair is separable on {contest.title} ({count}: smallest {p_value(min(adjusted))})."
        )
    shown = ", ".join(apart[:3]) + (f" and {len(apart) - 3} pairs more" if len(apart) > 3 else "")
    rest = "no other pair is" if len(apart) < len(tested) else "that is every pair"
    return f"Separable on {contest.title}: {shown}; {rest} ({count})."


def _seed_remark(trained: Sequence[Group]) -> str:
    """What the intervals leave out."""
    single = [group.label for group in trained if len(group.rows) == 1]
    if not single:
        return ""
    if len(single) == len(trained):
        return " Each method has one seed, so seed noise is not in these intervals."
    verb, whose = ("has", "its") if len(single) == 1 else ("have", "their")
    return f" Of these, {several(single)} {verb} one seed, so seed noise is not in {whose} intervals."


def _value(group: Group, measure: Measure) -> float:
    found = score(group, measure)
    return found.value if found else float("inf")
