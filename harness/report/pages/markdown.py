"""The page: the answer first, then the tables, then their basis. A pure function of the records."""

from collections.abc import Sequence

from harness.records.untrusted import escaped
from harness.report import names
from harness.report.analysis import aa, doubts, interrupted, looks, multiverse, remarks, streams, use
from harness.report.analysis.claims import Claims
from harness.report.analysis.comparable import Guard, without_base
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.external import guard as guard_external
from harness.report.analysis.external import remarks as external_remarks
from harness.report.analysis.external import table as external_table
from harness.report.analysis.facts import method_settings
from harness.report.analysis.recommend import scenarios
from harness.report.analysis.tested_claims import tested
from harness.report.analysis.tradeoff import across, frontiers, matched, matched_pairs
from harness.report.analysis.verdicts import explained, families, ties
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded
from harness.report.display import DASH, short, table
from harness.report.figures.style import Drawn
from harness.report.pages import data_card, notes, registered, tuned
from harness.report.pages.answer import answer_of
from harness.report.pages.summary import Table, cost, quality, tasks
from harness.report.writers.paper import TIES

UPDATE = "[The shape of the updates](update.md): how much each method changed the weights, and in which directions."
FRONTIER = (
    "Each cell holds the cost and the probability that no other method is both at least as good and at most as dear, "
    "over resamples of items and seeds; a star marks who is on the frontier of the values themselves."
)
MATCHED = "Validation loss by the time every method had used what the thriftiest used in all; no later checkpoint."
ADVICE = (
    "Recommendation: among methods within the limit and non-inferior to the best (margin = tolerance, one-sided 5 %, "
    "adjusted for all of them), the one with the lowest peak memory. Differences with simultaneous 95 % intervals; the "
    "last column names the best score and its bootstrap probability of being best. Methods not known to be mergeable "
    "count as adding inference overhead. `python -m harness.report recommend --help` takes other limits."
)
ACROSS = (
    "Mean, interquartile mean of the task means (four tasks or more) and average rank (1 is best) over target tasks: "
    "tasks treated as fixed, 95 % intervals over items and seeds, seed effects shared by the tasks of a run."
)
EXTERNAL = (
    "Published by others: one seed, no outcomes per item, so nothing is paired; another machine and set-up. They "
    "are shown beside our rows and never ranked with them. The interval of an accuracy is Wilson's, of its items alone."
)
TEXT_COLUMNS = (
    "Status",
    "Verdict",
    "vs.",
    "Matched on",
    "Model",
    "Remarks",
    "Overhead",
    "Method",
    "Best",
    *registered.TEXT,
)  # to the left
EQUAL = "Everything outside the method's own settings is equal across the rows."


def page(comparison: Comparison, figures: Sequence[Drawn] = (), update: bool = False) -> str:
    """`report.md` for these rows; with the figures, and a link to the page of the updates' shapes, if there is one.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary.
    """
    loaded, groups, guard = comparison.loaded, comparison.groups, comparison.guard
    loss = escaped(notes.trained_on(groups))
    main = comparison.claims
    across_all = across(groups)
    compared = [one for one in main if one.pairs]
    parts = [
        f"# {escaped(title(comparison))}",
        *([escaped(loaded.sweep.question)] if loaded.sweep and loaded.sweep.question else []),
        *_claimed(comparison),
        *_answer(answer_of(comparison)),
        *tuned.section(loaded),
        *(["## Results"] if loaded.trials else []),
        table_of(quality(groups, ties(main))),
        loss,
        *([TIES] if ties(main) else []),
        _equality(groups, guard),
        _bullets(remarks.lines(groups, loaded)),
        *(["## Statistical comparison", *map(_verdicts, compared)] if compared else []),
        *_robust(comparison),
        "## Cost",
        table_of(cost(groups)),
        loss,
        _bullets(doubts.lines(groups)),
        *_use(groups),
        *_costs(main, groups),
        *_advice(main, groups, loaded),
        *map(_figure, figures[:1]),
        *([UPDATE] if update else []),
        *(["## Figures", *map(_figure, figures[1:])] if figures[1:] else []),
        "## Every task",
        *(
            [f"### {across_all.title}\n\n{table_of(across_all)}", ACROSS, escaped(across_all.note)]
            if across_all
            else []
        ),
        *(f"### {escaped(one.title)}\n\n{table_of(one)}\n\n{loss}" for one in tasks(groups)),
        *_external(loaded),
        "## What varied, what was equal",
        _varied(groups),
        *(["## Data", *data_card.links(loaded.checks)] if loaded.checks else []),
        "## What failed",
        _failed(groups, loaded),
        "## How these numbers were made",
        _bullets(
            [*notes.made(groups), *(line for line in (looks.line(comparison), aa.line(aa.run(comparison))) if line)]
        ),
        "## How to reproduce",
        notes.reproduce(loaded),
        "## Limits",
        _bullets(notes.limits(groups)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _answer(sentences: Sequence[str]) -> list[str]:
    """Return the main sentence of the answer, then the other findings as bullets."""
    return ["**Answer.** " + escaped(sentences[0]), _bullets(sentences[1:])]


def _robust(comparison: Comparison) -> list[str]:
    """Return the section on the verdicts under other analyses and the sources of the noise between runs."""
    results = multiverse.lines(multiverse.multiverse(comparison))
    noise = streams.tables(comparison)
    parts = ["## How robust the answer is", multiverse.TEXT, _bullets(results)] if results else []
    for content in noise:
        parts += [f"### {escaped(content.title)}", table_of(content)]
    return [*parts, *([streams.TEXT] if noise else [])]


def _claimed(comparison: Comparison) -> list[str]:
    """Return the claims made before the runs, and the note that everything else is exploratory."""
    results = tested(comparison)
    if not results:
        return []
    content = registered.table(results)
    lines = _bullets(registered.explained(results, comparison.loaded))
    return ["## Claims", table_of(content), lines, "## Exploratory", registered.EXPLORATORY]


def title(comparison: Comparison) -> str:
    """Return the name of a sweep with a question, else the comparison: LoRA and DoRA on GSM8K with Qwen3-0.6B."""
    loaded, groups = comparison.loaded, comparison.groups
    if loaded.sweep and loaded.sweep.question:
        return loaded.sweep.name
    return names.title([group.first.record for group in groups if group.first.record])


def table_of(content: Table) -> str:
    """A table of plain text as Markdown."""
    header = [escaped(cell) for cell in content.header]
    return table(header, [[escaped(cell) for cell in line] for line in content.lines], text=TEXT_COLUMNS)


def _verdicts(found: Claims) -> str:
    """Return the families of the answer, then how they were tested; all pairs are in the appendix."""
    shown = [f"### {escaped(one.title)}\n\n{table_of(one)}" for one in families(found)]
    return "\n\n".join([*shown, _bullets(explained(found))])


def _costs(main: Sequence[Claims], groups: Sequence[Group]) -> list[str]:
    """The frontiers, and methods at matched budgets."""
    parts = []
    for found in main:
        for content, text in (
            (frontiers(found, groups), FRONTIER),
            (matched(found), MATCHED),
            (matched_pairs(found), ""),
        ):
            if content:
                parts += [f"### {escaped(content.title)}", table_of(content), *([text] if text else [])]
    return ["## What quality costs", *parts] if parts else []


def _use(groups: Sequence[Group]) -> list[str]:
    """Return the section on the cost of using the results, where it was measured."""
    found = use.tables(groups)
    return ["## What a result costs to use", *map(table_of, found), use.TEXT] if found else []


def _advice(main: Sequence[Claims], groups: Sequence[Group], loaded: Loaded) -> list[str]:
    contests_of = [found.contest for found in main if found.contest.groups]
    tables = [one for contest in contests_of if (one := scenarios(contest, groups, loaded.margin))]
    return ["## Which method should I use?", *map(table_of, tables), ADVICE] if tables else []


def _external(loaded: Loaded) -> list[str]:
    if not loaded.external:
        return []
    found = [str(one) for one in guard_external(loaded.external)]
    origins = ", ".join(dict.fromkeys(one.origin for one in loaded.external))
    parts = ["## External rows", table_of(external_table(loaded.external)), f"{escaped(origins)}. {EXTERNAL}"]
    parts += [_bullets(external_remarks(loaded.external))]
    return [*parts, *(["They differ in what was not meant to vary:", _bullets(found)] if found else [])]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _equality(groups: Sequence[Group], guard: Guard) -> str:
    """Return the differences that the guard let pass, computed from its result."""
    if sum(group.trained for group in groups) < 2:
        return _bullets(without_base(groups))
    lines = [*guard.notes, *without_base(groups)]
    if not lines:
        return EQUAL
    held = f"Declared to vary: {', '.join(guard.declared) or 'nothing'}. Everything else is equal, except:"
    return f"{held}\n\n" + _bullets(lines)


def _figure(drawn: Drawn) -> str:
    """The picture and how to read it; the same as PDF and SVG lie beside it."""
    return f"![{escaped(drawn.title)}](figures/{drawn.stem}.png)\n\n{escaped(drawn.caption)}"


def _varied(groups: Sequence[Group]) -> str:
    """The method's settings of every group, then what all share."""
    lines = []
    for group in groups:
        settings = method_settings(group)
        shown = ", ".join(f"{key}={short(value)}" for key, value in settings.items())
        if not group.first.is_base:
            lines.append((escaped(group.label), escaped(shown or DASH)))
    header = ("Method", "Settings that belong to the method, and the learning rate")
    varied = table(header, lines, text=header) if lines else ""
    shared = notes.shared(groups)
    return "\n\n".join(part for part in (varied, f"Equal for all:\n\n{_bullets(shared)}" if shared else "") if part)


def _failed(groups: Sequence[Group], loaded: Loaded) -> str:
    """Return every run without a result and every file that could not be read."""
    failed = [
        f"{group.label}, seed {row.seed}: {row.status or 'missing'}: {row.reason or 'no reason recorded'}"
        for group in groups
        for row in group.failed
    ]
    paused = interrupted.lines(loaded)
    items = [scored.problem for group in groups for row in group.rows for scored in row.scored if scored.problem]
    damaged = list(dict.fromkeys([*loaded.unreadable, *items]))
    parts = [_bullets(failed)] if failed or paused else ["No failed runs."]
    parts += ["Interrupted, and can go on:", _bullets(paused)] if paused else []
    return "\n\n".join([*parts, *(["Could not be read:", _bullets(damaged)] if damaged else [])])
