"""The tables of a paper: those of the page, each with its note, by the name of its file."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import every_pair, explained, families, ties
from harness.report.pages import notes
from harness.report.pages.summary import Table, cost, quality, tasks

TIES = "Methods sharing a letter under Ties do not differ significantly on the answer's task (adjusted for all pairs)."


def tables(comparison: Comparison) -> dict[str, Table]:
    """Every table by the name of its file; a status stands without its reason."""
    groups, main = comparison.groups, comparison.claims
    trained = notes.trained_on(groups)
    letters = ties(main)
    first = replace(quality(groups, letters), note=" ".join([*([TIES] if letters else []), trained]))
    found = [_without_reasons(first), *(replace(one, note=trained) for one in (cost(groups), *tasks(groups)))]
    pairs = [
        replace(content, note=" ".join(explained(one)))
        for one in main
        for content in (*families(one), every_pair(one))
        if content
    ]
    return _named([*found, *pairs])


def _named(found: list[Table]) -> dict[str, Table]:
    names: list[str] = []
    for one in found:
        title = one.title if one.title.startswith(("Pairs", "Against")) else one.title.partition(" (")[0]
        name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40] or "table"
        same = sum(other == name or re.fullmatch(rf"{name}_\d+", other) is not None for other in names)
        names.append(f"{name}_{same + 1}" if same else name)
    return dict(zip(names, found, strict=True))


def _without_reasons(table: Table) -> Table:
    if "Status" not in table.header:
        return table
    place = table.header.index("Status")
    lines = [(*line[:place], line[place].partition(":")[0], *line[place + 1 :]) for line in table.lines]
    return replace(table, lines=tuple(lines))
