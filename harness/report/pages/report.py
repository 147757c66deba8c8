"""`report.md`: the answer, the recommendation, one figure, the main table, what was compared, and the limits.

Everything else is folded behind one line each, so that the body fits on two to three screens at any number of methods.
A pure function of the records.
"""

from collections.abc import Sequence

from harness.records.untrusted import escaped
from harness.report import names
from harness.report.analysis import aa, doubts, interrupted, looks, multiverse, remarks, streams, use
from harness.report.analysis.comparable import Guard, without_base
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.external import guard as guard_external
from harness.report.analysis.external import remarks as external_remarks
from harness.report.analysis.external import table as external_table
from harness.report.analysis.facts import method_settings
from harness.report.analysis.recommend import recommendations
from harness.report.analysis.tested_claims import tested
from harness.report.analysis.tradeoff import FRONTIER, across, frontiers, matched, matched_pairs
from harness.report.analysis.verdicts import explained, families
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded
from harness.report.display import short
from harness.report.document import Block, Bullets, Command, Figure, Folded, Markup, Section, text_table
from harness.report.figures.canvas import Figure as Drawn
from harness.report.pages import data_card, notes, registered, tuned
from harness.report.pages.summary import cost, losses, tasks
from harness.report.writers.markdown import blocks

UPDATE = "[Shape of the updates](update.md): how much each method changed the weights, and in which directions."
MATCHED = "Last checkpoint within the budget of the cheapest method."
ADVICE = (
    "Among the methods within the limit and non-inferior to the best (margin = tolerance, one-sided 5 %, adjusted for "
    "all of them), the one with the lowest peak memory. Methods not known to be mergeable count as adding inference "
    "overhead. `harness report recommend --help` takes other limits."
)
ACROSS = (
    "Mean, interquartile mean of the task means (four tasks or more) and average rank (1 is best) over target tasks "
    "(tasks treated as fixed; 95 % CI over items and seeds)."
)
EXTERNAL = (
    "Published results (single seed, different hardware and set-up); shown for reference, not ranked. The interval of "
    "an accuracy is Wilson's."
)
EQUAL = "All settings other than the method's own hyper-parameters are identical."
LINKS = (
    ("index.html", "interactive page"),
    ("appendix.md", "appendix"),
    ("tables/", "tables"),
    ("figures/", "figures"),
    ("records.csv", "records"),
)


def page(comparison: Comparison, figures: Sequence[Drawn] = (), update: bool = False) -> str:
    """Return `report.md`; with the figures, and a link to the page of the updates' shapes, if there is one.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary.
    """
    body = sections(comparison, figures)
    folded = [fold for fold in details(comparison, figures, update) if blocks(fold.blocks)]
    contents = [section.title for section in body] + (["Details"] if folded else [])
    question = comparison.loaded.sweep.question if comparison.loaded.sweep else None
    parts = [
        f"# {escaped(title(comparison))}",
        *([escaped(question)] if question else []),
        _contents(contents),
        *(text for section in body for text in (f"## {escaped(section.title)}", *blocks(section.blocks))),
        *(["## Details", *blocks(folded)] if folded else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(comparison: Comparison) -> str:
    """Return the name of a sweep with a question, else the comparison: LoRA and DoRA on GSM8K with Qwen3-0.6B."""
    loaded, groups = comparison.loaded, comparison.groups
    if loaded.sweep and loaded.sweep.question:
        return loaded.sweep.name
    return names.title([group.first.record for group in groups if group.first.record])


def sections(comparison: Comparison, figures: Sequence[Drawn]) -> list[Section]:
    """Return the body of the page."""
    guard = comparison.guard
    made = [
        Section("Answer", _answer(comparison)),
        *_claimed(comparison),
        Section("Recommendation", _advice(comparison)),
        Section("Results", (*map(_figure, figures[:1]), comparison.main_table)),
        Section("What was compared", _compared(comparison, guard)),
        Section("Limitations", (Bullets(tuple(notes.limits(comparison.groups))),)),
        Section("Failed runs", _failed(comparison)),
    ]
    return [section for section in made if blocks(section.blocks)]


def details(comparison: Comparison, figures: Sequence[Drawn], update: bool) -> list[Folded]:
    """Return what the body leaves out, each part behind its summary."""
    loaded, groups = comparison.loaded, comparison.groups
    noise = streams.tables(comparison)
    robust = multiverse.lines(multiverse.multiverse(comparison), {group.label: group.name for group in groups})
    together = across(groups)
    served = use.tables(groups)
    checks = tuple(filter(None, (looks.line(comparison), aa.line(aa.run(comparison)))))
    every = [block for table in tasks(groups) for block in (Markup(f"#### {escaped(table.title)}"), table)]
    return [
        Folded("Statistical comparison", tuple(_statistics(comparison))),
        Folded("Losses", (losses(groups),)),
        Folded("Cost", (cost(groups), Bullets(tuple(doubts.lines(groups))))),
        Folded("Quality-cost trade-off", tuple(_costs(comparison))),
        Folded("Inference cost", (*served, use.TEXT) if served else ()),
        Folded("All target tasks", (together, ACROSS) if together else ()),
        Folded("Every task", tuple(every)),
        Folded("Robustness of the answer", (multiverse.TEXT, Bullets(tuple(robust))) if robust else ()),
        Folded("Sources of variance", (*noise, streams.TEXT) if noise else ()),
        Folded("Figures", (*map(_figure, figures[1:]), *([Markup(UPDATE)] if update else []))),
        Folded("Tuning", tuned.section(comparison)),
        Folded("Published results", tuple(_external(loaded))),
        Folded("Data", tuple(Markup(line) for line in data_card.links(loaded.checks)) if loaded.checks else ()),
        Folded("Metrics and statistics", (Bullets((*notes.made(groups), *checks)),)),
        Folded("Reproduction", (Command(notes.command_of(loaded)), Bullets(tuple(notes.origin(loaded))))),
    ]


def _contents(titles: Sequence[str]) -> str:
    """Return links to the sections of the page, and to the files beside it."""
    inside = " | ".join(f"[{name}](#{name.lower().replace(' ', '-')})" for name in titles)
    beside = " | ".join(f"[{name}]({path})" for path, name in LINKS)
    return f"{inside}\n\nFiles: {beside}"


def _answer(comparison: Comparison) -> tuple[Block, ...]:
    made: list[Block] = []
    for answer in comparison.answers:
        first, *others = answer.lines
        made += [Markup(f"**{escaped(first)}**"), Bullets(tuple(others))]
    return tuple(made)


def _claimed(comparison: Comparison) -> list[Section]:
    """Return the claims made before the runs, and the note that everything else is exploratory."""
    results = tested(comparison)
    if not results:
        return []
    lines = Bullets(tuple(registered.explained(results, comparison.loaded)))
    return [Section("Claims", (registered.table(results), lines)), Section("Exploratory", (registered.EXPLORATORY,))]


def _advice(comparison: Comparison) -> tuple[Block, ...]:
    margin, groups = comparison.loaded.margin, comparison.groups
    contests = [result.contest for result in comparison.claims if result.comparison is not None]
    lines = [line for contest in contests for line in recommendations(contest, groups, margin)]
    return (Bullets(tuple(lines)), Markup(ADVICE)) if lines else ()


def _figure(drawn: Drawn) -> Figure:
    """Return the picture; the same as PDF and SVG lie beside it."""
    return Figure(f"figures/{drawn.stem}.png", drawn.title, drawn.caption)


def _compared(comparison: Comparison, guard: Guard) -> tuple[Block, ...]:
    """Return the settings of each method, what all share, and the differences that the guard let pass."""
    groups, loaded = comparison.groups, comparison.loaded
    lines = [
        (group.name, ", ".join(f"{names.setting(key).short}={short(value)}" for key, value in settings.items()) or "-")
        for group in groups
        if not group.first.is_base and (settings := method_settings(group))
    ]
    headings = ("Method", "Hyper-parameters")
    facts = [*notes.shared(groups), notes.trained_on(groups), tuned.how(loaded)]
    differing = [*guard.notes, *without_base(groups), *remarks.lines(groups, loaded)]
    declared = f"Declared to vary: {', '.join(guard.declared) or 'nothing'}."
    equal = EQUAL if not [*guard.notes, *without_base(groups)] else f"{declared} Everything else is equal, except:"
    trained = sum(group.trained for group in groups)
    return (
        Bullets(tuple(fact for fact in facts if fact)),
        *([equal] if trained > 1 else []),
        Bullets(tuple(differing)),
        Folded("Hyper-parameters of each method", (text_table("Hyper-parameters", headings, lines, headings),)),
    )


def _statistics(comparison: Comparison) -> list[Block]:
    """Return the families of the answer, how they were tested; all pairs are in the appendix."""
    made: list[Block] = []
    for result in comparison.claims:
        for table in families(result):
            made += [Markup(f"#### {escaped(table.title)}"), table]
        made.append(Bullets(tuple(explained(result))))
    return made


def _costs(comparison: Comparison) -> list[Block]:
    """Return the trade-off of quality and cost, and methods at matched budgets."""
    made: list[Block] = []
    for result in comparison.claims:
        for table, text in (
            (frontiers(result, comparison.groups), FRONTIER),
            (matched(result), MATCHED),
            (matched_pairs(result), ""),
        ):
            if table:
                made += [Markup(f"#### {escaped(table.title)}"), table, text]
    return made


def _external(loaded: Loaded) -> list[Block]:
    if not loaded.external:
        return []
    differing = [str(difference) for difference in guard_external(loaded.external)]
    origins = ", ".join(dict.fromkeys(record.origin for record in loaded.external))
    made: list[Block] = [external_table(loaded.external), f"{origins}. {EXTERNAL}"]
    made.append(Bullets(tuple(external_remarks(loaded.external))))
    made += ["They differ in what was not meant to vary:", Bullets(tuple(differing))] if differing else []
    return made


def _failed(comparison: Comparison) -> tuple[Block, ...]:
    """Return every run without a result and every file that could not be read."""
    loaded, groups = comparison.loaded, comparison.groups
    failed = _failures(groups)
    paused = interrupted.lines(loaded)
    scored = (scored for group in groups for row in group.rows for scored in row.scored)
    damaged = list(dict.fromkeys([*loaded.unreadable, *(entry.problem for entry in scored if entry.problem)]))
    made: list[Block] = []
    made.append(Bullets(tuple(failed)) if failed or paused else "No failed runs.")
    made += ["Interrupted, and can go on:", Bullets(tuple(paused))] if paused else []
    made += ["Could not be read:", Bullets(tuple(damaged))] if damaged else []
    return tuple(made)


def _failures(groups: Sequence[Group]) -> list[str]:
    return [
        f"{group.label}, seed {row.seed}: {row.status or 'missing'}: {row.reason or 'no reason recorded'}"
        for group in groups
        for row in group.failed
    ]
