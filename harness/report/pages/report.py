"""`report.md`: the answer, the recommendation, one figure, the main table, what was compared, and the limits.

Its details are folded behind one line each, so that the body fits on two to three screens at any number of methods; the
appendix, the page and the LaTeX tables have them too. Everything is computed from the records. A section without
content is left out by whoever writes it.
"""

from collections.abc import Iterator, Sequence

from harness.records.untrusted import escaped
from harness.report import names
from harness.report.analysis import axes, contamination, external, multiverse, noise, remarks, tested_claims, verdicts
from harness.report.analysis.comparable import without_base
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.facts import METHOD_AND_RATE
from harness.report.analysis.recommend import recommendations
from harness.report.analysis.tested_claims import tested
from harness.report.analysis.tradeoff import across, frontiers, matched, matched_pairs
from harness.report.analysis.verdicts import explained, families
from harness.report.display import counted, lowered, quantity
from harness.report.document import Block, Bullets, Command, Figure, Markup, Section
from harness.report.figures.canvas import Figure as Drawn
from harness.report.pages import (
    conversion,
    data_card,
    examples,
    hyperparameters,
    notes,
    protocol,
    registered,
    setup,
    shared_rates,
    tables,
)
from harness.report.pages.tables import cost, losses, tasks
from harness.report.writers import prose
from harness.report.writers.markdown import section_text

ADVICE = (
    "Rule: of the methods within a limit that are non-inferior to the best of them (margin {margin}, one-sided 5 %, "
    "adjusted for all of them), the one {cheapest} is recommended. Methods not known to be mergeable "
    "count as adding inference overhead. The command harness report recommend accepts other limits."
)
ONE_SEED = "With one seed per method non-inferiority is not tested, and the best score is recommended."
EQUAL = "All settings other than the method's own hyper-parameters are identical."
COMPARED = ("Model", "Data", "Prompt format", "Training", "Tuning")  # paragraphs of the experimental setup
LINKS = (
    ("index.html", "interactive page"),
    ("appendix.md", "appendix"),
    ("setup.md", "experimental setup"),
    ("tables/", "tables"),
    ("figures/", "figures"),
    ("records.csv", "records"),
)

UPDATE = "[Shape of the updates](update.md): how much each method changed the weights, and in which directions."
MATCHED = "Equal budget: the last checkpoint within the budget of the cheapest method."
ACROSS = (
    "Mean, interquartile mean of the task means (four tasks or more) and average rank (1 is best) over target tasks "
    "(tasks treated as fixed; 95 % CI over items and seeds)."
)
EXTERNAL = (
    "Published results (single seed, different hardware and setup); shown for reference, not ranked. The interval of "
    "an accuracy is Wilson's."
)


def page(comparison: Comparison, figures: Sequence[Drawn] = (), update: bool = False) -> str:
    """Return `report.md`; with the figures, and a link to the page of the updates' shapes, if there is one.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary.
    """
    parts = (body(comparison, figures), details(comparison, figures[1:], update))
    return to_markdown(comparison, *parts)


def to_markdown(comparison: Comparison, opened: Sequence[Section], folded: Sequence[Section]) -> str:
    """Return the page of the sections of the body and of the details."""
    texts = {section.title: text for section in opened if (text := section_text(section))}
    behind = [text for section in folded if (text := section_text(section, folded=True))]
    contents = [*texts, *(["Details"] if behind else [])]
    question = comparison.loaded.sweep.question if comparison.loaded.sweep else None
    parts = [
        f"# {escaped(title(comparison))}",
        *([escaped(question)] if question else []),
        " | ".join(f"[{name}](#{name.lower().replace(' ', '-')})" for name in contents),
        f"Files: {' | '.join(f'[{name}]({path})' for path, name in LINKS)}",
        *texts.values(),
        *(["## Details", *behind] if behind else []),
    ]
    return "\n\n".join(parts) + "\n"


def title(comparison: Comparison) -> str:
    """Return the name of a sweep with a question, else the comparison: LoRA and DoRA on GSM8K with Qwen3-0.6B."""
    loaded, groups = comparison.loaded, comparison.groups
    if loaded.sweep and loaded.sweep.question:
        return loaded.sweep.name
    return names.title([group.first.record for group in groups if group.first.record])


def body(comparison: Comparison, figures: Sequence[Drawn] = ()) -> list[Section]:
    """Return the sections that a reader sees first."""
    return [
        *_claimed(comparison),
        Section("Answer", tuple(_answer(comparison))),
        Section("Recommendation", tuple(_advice(comparison))),
        Section("Results", (*map(picture, figures[:1]), comparison.main_table, *_at_shared_rates(comparison))),
        Section("What was compared", tuple(_compared(comparison))),
        Section(
            "Limitations",
            (
                Bullets(
                    (*contamination.lines(comparison), *notes.limits(comparison.groups, comparison.loaded.is_tuned))
                ),
            ),
        ),
        Section("Failed runs", tuple(_failed(comparison))),
    ]


def _answer(comparison: Comparison) -> Iterator[Block]:
    for answer in comparison.answers:
        first, *others = answer.lines
        yield Markup(f"**{escaped(first)}**")
        yield Bullets(tuple(others))


def _claimed(comparison: Comparison) -> Iterator[Section]:
    """Yield the claims made before the runs, and the note that everything else is exploratory.

    A registration without claims is shown too, with what was done otherwise since.
    """
    results, loaded = tested(comparison), comparison.loaded
    if results or loaded.registration:
        lines = Bullets(tuple(registered.explained(results, loaded)))
        table = [registered.table(results)] if results else []
        yield Section("Claims", (*table, lines))
        yield Section("Exploratory", (registered.EXPLORATORY,))


def _at_shared_rates(comparison: Comparison) -> Iterator[Block]:
    if lines := shared_rates.lines(comparison, hyperparameters.in_order(comparison)):
        yield Bullets(tuple(lines))


def _advice(comparison: Comparison) -> Iterator[Block]:
    contests = [result.contest for result in comparison.claims if result.comparison is not None]
    margin, groups = comparison.loaded.margin, comparison.groups
    lines = [line for contest in contests for line in recommendations(contest, groups, margin)]
    if lines:
        yield Bullets(tuple(lines))
        cheapest = "that needs the least GPU memory" if axes.on_gpu(groups) else "with the lowest peak memory"
        rule = ADVICE.format(margin=contests[0].gain_shown(margin, signed=False), cheapest=cheapest)
        yield f"{rule} {ONE_SEED}" if any(result.about_runs for result in comparison.claims) else rule


def _compared(comparison: Comparison) -> Iterator[Block]:
    """Yield what all methods share, and the differences that the guard let pass."""
    guard, groups = comparison.guard, comparison.groups
    paragraphs = [paragraph for paragraph in setup.paragraphs(comparison) if paragraph.title in COMPARED]
    yield Bullets(tuple(f"{paragraph.title}: {prose.plain(paragraph)}" for paragraph in paragraphs))
    differing = [*guard.notes(comparison.names), *without_base(groups)]
    if sum(group.trained for group in groups) > 1:
        meant = ", ".join(dict.fromkeys(lowered(names.fact(key)) for key in guard.declared))
        declared = f"Declared to vary: {meant or 'nothing'}. Everything else is equal"
        own = all(key in METHOD_AND_RATE or key.startswith("method.") for key in guard.declared)
        yield f"{declared}, except:" if differing else EQUAL if own else f"{declared}."
    yield Bullets((*differing, *remarks.lines(groups, comparison.loaded)))


def _failed(comparison: Comparison) -> Iterator[Block]:
    """Yield every run without a result and every file that could not be read."""
    loaded = comparison.loaded
    failed, paused = tables.failures(comparison), remarks.interruptions(loaded)
    problems = (scored.problem for group in comparison.groups for row in group.rows for scored in row.scored)
    damaged = list(dict.fromkeys([*loaded.unreadable, *filter(None, problems)]))
    yield failed if failed.rows or paused else "No failed runs."
    if paused:
        yield "Interrupted, and can go on:"
        yield Bullets(tuple(paused))
    if damaged:
        yield "Could not be read:"
        yield Bullets(tuple(damaged))


def details(comparison: Comparison, figures: Sequence[Drawn] = (), update: bool = False) -> list[Section]:
    """Return the sections; with the figures beside that of the body, and a link to the page of the updates' shapes."""
    groups = comparison.ordered
    together, served = across(groups), tables.inference_tables(groups)
    robust = multiverse.lines(multiverse.multiverse(comparison), comparison.names)
    variance, checked = noise.variance_tables(comparison), comparison.loaded.checks
    clean = contamination.table(comparison)
    settings = (hyperparameters.shared(comparison), hyperparameters.by_method(comparison))
    checks = tuple(filter(None, (tested_claims.looks_line(comparison), noise.aa_line(noise.aa_test(comparison)))))
    return [
        Section("Statistical comparison", tuple(_statistics(comparison))),
        Section("Losses", (losses(groups),)),
        Section("Cost", tuple(_costs(comparison))),
        Section("Quality-cost trade-off", tuple(_trade_offs(comparison))),
        Section("Inference cost", (*served, tables.INFERENCE_TEXT) if served else ()),
        Section("Converted adapters", tuple(conversion.blocks(groups))),
        Section("All target tasks", (together, ACROSS) if together else ()),
        Section("Every task", (tables.TASKS_TEXT, *every) if (every := tasks(groups)) else ()),
        Section("Example answers", tuple(examples.blocks(comparison))),
        Section("Contamination", (clean, Bullets(tuple(contamination.lines(comparison)))) if clean else ()),
        Section("Robustness of the answer", (multiverse.TEXT, Bullets(tuple(robust))) if robust else ()),
        Section("Sources of variance", (*variance, noise.VARIANCE_TEXT) if variance else ()),
        Section("Figures", (*map(picture, figures), *([Markup(UPDATE)] if update else []))),
        Section("Hyper-parameters", tuple(table for table in settings if table)),
        Section("Prompt templates", tuple(hyperparameters.templates(comparison))),
        Section("Tuning", tuple(_tuning(comparison))),
        Section("Seeds", (tables.seeds(comparison),)),
        Section("Published results", tuple(_external(comparison))),
        Section("Data", (Bullets(tuple(data_card.lines(checked))), Markup(data_card.links(checked)))),
        Section("Metrics and statistics", (Bullets((*notes.definitions(groups), *notes.looks(groups), *checks)),)),
        Section("Reproduction", (Command(notes.command_of(comparison.loaded)), Bullets(tuple(_origin(comparison))))),
    ]


def picture(drawn: Drawn) -> Figure:
    """Return a drawn figure as a block; the same as PDF and SVG lie beside it."""
    return Figure(f"figures/{drawn.stem}.png", drawn.title, drawn.caption)


def _statistics(comparison: Comparison) -> Iterator[Block]:
    """Yield the families of the answer, every pair, and how they were tested."""
    for result in comparison.claims:
        yield from families(result)
        if pairs := verdicts.pairs(result):
            yield pairs
        yield Bullets(tuple(explained(result)))


def _costs(comparison: Comparison) -> Iterator[Block]:
    groups, attempts = comparison.ordered, comparison.attempts
    yield cost(groups)
    if attempts:
        total = sum(map(axes.device_seconds, attempts)) / axes.HOUR
        yield (
            f"In total {quantity(total)} device hours in {counted(len(attempts), 'attempt')}, tuning included, on "
            f"{', '.join(protocol.devices(attempts))}."
        )
        yield tables.compute(comparison)
    if rates := tables.speed_table(groups):
        yield rates
    yield Bullets((*axes.timing_caveats(groups), *tables.without_mfu(groups)))


def _trade_offs(comparison: Comparison) -> Iterator[Block]:
    """Yield quality against every cost, and methods at matched budgets."""
    for result in comparison.claims:
        compared = (frontiers(result, comparison.groups), matched(result), matched_pairs(result))
        yield from (table for table in compared if table)
        yield MATCHED if compared[1] else ""


def _tuning(comparison: Comparison) -> Iterator[Block]:
    """Yield the trials with the choices, and the remarks on them; nothing for a sweep without stages."""
    if table := hyperparameters.searched(comparison):
        yield table
        yield Bullets(tuple(hyperparameters.tuning_lines(comparison.loaded)))
        tuned = hyperparameters.in_order(comparison)
        if shared := shared_rates.table(comparison, tuned):
            yield shared
            yield Bullets(tuple(shared_rates.remarks(tuned)))
        yield Markup("Every trial is in [tuning.csv](tuning.csv).")


def _external(comparison: Comparison) -> Iterator[Block]:
    records = comparison.loaded.external
    if not records:
        return
    yield external.table(records)
    yield f"{', '.join(dict.fromkeys(record.origin for record in records))}. {EXTERNAL}"
    yield Bullets(tuple(external.remarks(records)))
    if differing := external.guard(records):
        yield "They differ in what was not meant to vary:"
        yield Bullets(tuple(map(str, differing)))


def _origin(comparison: Comparison) -> Iterator[str]:
    """Yield where the runs come from, and the license of each task's own data."""
    yield from notes.origin(comparison.loaded)
    yield from dict.fromkeys(
        f"task {names.task(scored.task).display}: license {scored.record.provenance.get('license') or names.UNKNOWN}"
        for scored in comparison.tasks
    )
