"""Groups that differ in a single numeric setting, in its order: scores against a rank, a rate, a number of rows."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report import names
from harness.report.analysis.facts import effective_scale
from harness.report.data.groups import Group
from harness.report.data.rows import settings_of
from harness.report.display import collected, short

FEWEST_VALUES = 3  # of a setting; two points are no curve
RATE, RANK, ALPHA = "train.lr", "method.r", "method.lora_alpha"
_NEVER = ("method.lr", ALPHA)  # no axis: a rate's center, and what mostly follows from the rank
_PARTS = ("method", "train", "data", "model")  # in the order in which their settings are looked at
Facts = dict[str, Any]
Settings = tuple[Facts, Group]


@dataclass(frozen=True)
class Series:
    """Groups of one recipe but for one setting.

    Attributes:
        name: the method, with the settings in which it differs from another series of that method.
        points: values of the setting with the groups that have results, ascending.
        failed: values that gave no result, ascending.
    """

    name: str
    points: tuple[tuple[float, Group], ...]
    failed: tuple[float, ...] = ()

    @property
    def first(self) -> Group:
        """Return a group of the series that has results: all have its method."""
        return self.points[0][1]

    @property
    def values(self) -> list[float]:
        """Return every value that was tried, ascending."""
        return sorted({value for value, _ in self.points} | {*self.failed})


@dataclass(frozen=True)
class Swept:
    """A numeric setting that took several values, and the series over it."""

    key: str
    series: tuple[Series, ...]


def swept(groups: Sequence[Group], tuned: bool) -> list[Swept]:
    """Return every setting that took at least three values in groups that are otherwise of one recipe.

    Args:
        groups: rows of the results.
        tuned: whether the learning rates were chosen, so that they may differ along a series.
    """
    described = [(settings_of(group.first, _PARTS), group) for group in groups if group.trained]
    keys = dict.fromkeys(key for facts, _ in described for key in facts)
    ignored = (*_NEVER, *([RATE] if tuned else []))
    results = []
    for key in (key for key in keys if key not in ignored):
        numeric = [(facts, group) for facts, group in described if _is_number(facts.get(key))]
        if len({facts[key] for facts, _ in numeric}) >= FEWEST_VALUES:
            content = ["data.content"] if key.startswith("data.") else []
            lines = [line for members in _alike(numeric, key, (*ignored, *content)) for line in _lines(members, key)]
            if lines:
                results.append(Swept(key, tuple(_named(lines, key, ignored))))
    return results


def rate_series(groups: Sequence[Group]) -> list[Series]:
    """Return the groups that differ in the learning rate alone, together; a single rate makes a series too."""
    tried = ("ok", "oom", "diverged", "failed")
    described = [(settings_of(group.first, _PARTS), group) for group in groups if group.first.status in tried]
    return _named(_alike([entry for entry in described if _is_number(entry[0].get(RATE))], RATE), RATE, ["method.lr"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _alike(members: Iterable[Settings], key: str, ignored: Sequence[str] = ()) -> list[list[Settings]]:
    """Return the groups that share every setting but the key, the ignored ones and the center of the method's rate."""
    free = (key, "method.lr", *ignored)
    keyed = (
        (json.dumps({name: value for name, value in facts.items() if name not in free}, sort_keys=True), (facts, group))
        for facts, group in members
    )
    return list(collected(keyed).values())


def _lines(members: list[Settings], key: str) -> list[list[Settings]]:
    """Return the lines through groups that differ in the key, and perhaps in alpha: alpha fixed, or its scale fixed.

    A group belongs to both lines where they meet. A line within another one is left out.
    """
    laws: tuple[Callable[[Facts], Any], ...] = (lambda facts: facts.get(ALPHA), _scale)
    lines: list[list[Settings]] = []
    for law in laws:
        for line in collected((law(entry[0]), entry) for entry in members).values():
            inside = any(all(entry in other for entry in line) for other in lines)
            if len({facts[key] for facts, _ in line}) >= FEWEST_VALUES and not inside:
                lines.append(line)
    return lines


def _scale(facts: Facts) -> float | None:
    scale = effective_scale({key.partition(".")[2]: value for key, value in facts.items() if key.startswith("method.")})
    return None if scale is None else round(scale, 9)


def _named(lines: Sequence[list[Settings]], key: str, ignored: Sequence[str]) -> list[Series]:
    """Return the series with their names: the method, then what tells it from others of that method."""
    series = []
    for line in lines:
        group = line[0][1]
        record = group.first.record
        others = [other for other in lines if other[0][1].first.method == group.first.method]
        telling = _telling(line, others, key, ignored)
        name = names.method(group.first.method, record).display + (f" ({', '.join(telling)})" if telling else "")
        points = sorted(
            ((float(facts[key]), group_of) for facts, group_of in line if group_of.ok), key=lambda point: point[0]
        )
        failed = sorted({float(facts[key]) for facts, group_of in line if not group_of.ok})
        series.append(Series(name, tuple(points), tuple(failed)))
    return series


def _telling(line: list[Settings], others: Sequence[list[Settings]], key: str, ignored: Sequence[str]) -> list[str]:
    """Return the settings of a line that differ from those of the others."""
    if len(others) < 2:
        return []
    first = line[0][0]
    keys = [name for name in first if name != key and name not in ignored]
    different = [name for name in keys if any(other[0][0].get(name) != first[name] for other in others)]
    words = [*filter(None, (names.labeled(name, first[name]) for name in different if name != ALPHA))]
    if any(facts.get(ALPHA) != other[0][0].get(ALPHA) for other in others for facts, _ in other):
        fixed = len({facts.get(ALPHA) for facts, _ in line}) == 1
        scale = _scale(first)
        words.append(f"alpha={short(first.get(ALPHA))}" if fixed or scale is None else f"alpha/r={short(scale)}")
    return words
