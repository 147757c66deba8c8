"""`report.md`: the answer, the recommendation, one figure, the main table, what was compared, and the limits.

Its details are folded behind one line each, so that the body fits on two to three screens at any number of methods.
A pure function of the records.
"""

from collections.abc import Iterator, Sequence

from harness.records.untrusted import escaped
from harness.report import names
from harness.report.analysis import remarks
from harness.report.analysis.comparable import without_base
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.recommend import recommendations
from harness.report.analysis.tested_claims import tested
from harness.report.document import Block, Bullets, Markup, Section
from harness.report.figures.canvas import Figure as Drawn
from harness.report.pages import compute, details, notes, registered, setup
from harness.report.writers import prose
from harness.report.writers.markdown import section_text

ADVICE = (
    "Among the methods within the limit and non-inferior to the best (margin = tolerance, one-sided 5 %, adjusted for "
    "all of them), the one with the lowest peak memory. Methods not known to be mergeable count as adding inference "
    "overhead. The command harness report recommend takes other limits."
)
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


def page(comparison: Comparison, figures: Sequence[Drawn] = (), update: bool = False) -> str:
    """Return `report.md`; with the figures, and a link to the page of the updates' shapes, if there is one.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary.
    """
    parts = (body(comparison, figures), details.sections(comparison, figures[1:], update))
    return to_markdown(comparison, *parts)


def to_markdown(comparison: Comparison, opened: Sequence[Section], folded: Sequence[Section]) -> str:
    """Return the page of the sections of the body and of the details."""
    shown = {section.title: text for section in opened if (text := section_text(section))}
    behind = [text for section in folded if (text := section_text(section, folded=True))]
    contents = [*shown, *(["Details"] if behind else [])]
    question = comparison.loaded.sweep.question if comparison.loaded.sweep else None
    parts = [
        f"# {escaped(title(comparison))}",
        *([escaped(question)] if question else []),
        " | ".join(f"[{name}](#{name.lower().replace(' ', '-')})" for name in contents),
        f"Files: {' | '.join(f'[{name}]({path})' for path, name in LINKS)}",
        *shown.values(),
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
        Section("Answer", tuple(_answer(comparison))),
        *_claimed(comparison),
        Section("Recommendation", tuple(_advice(comparison))),
        Section("Results", (*map(details.picture, figures[:1]), comparison.main_table)),
        Section("What was compared", tuple(_compared(comparison))),
        Section("Limitations", (Bullets(tuple(notes.limits(comparison.groups))),)),
        Section("Failed runs", tuple(_failed(comparison))),
    ]


def _answer(comparison: Comparison) -> Iterator[Block]:
    for answer in comparison.answers:
        first, *others = answer.lines
        yield Markup(f"**{escaped(first)}**")
        yield Bullets(tuple(others))


def _claimed(comparison: Comparison) -> Iterator[Section]:
    """Yield the claims made before the runs, and the note that everything else is exploratory."""
    if results := tested(comparison):
        lines = Bullets(tuple(registered.explained(results, comparison.loaded)))
        yield Section("Claims", (registered.table(results), lines))
        yield Section("Exploratory", (registered.EXPLORATORY,))


def _advice(comparison: Comparison) -> Iterator[Block]:
    contests = [result.contest for result in comparison.claims if result.comparison is not None]
    margin, groups = comparison.loaded.margin, comparison.groups
    lines = [line for contest in contests for line in recommendations(contest, groups, margin)]
    if lines:
        yield Bullets(tuple(lines))
        yield ADVICE


def _compared(comparison: Comparison) -> Iterator[Block]:
    """Yield what all methods share, and the differences that the guard let pass."""
    guard, groups = comparison.guard, comparison.groups
    paragraphs = [paragraph for paragraph in setup.paragraphs(comparison) if paragraph.title in COMPARED]
    yield Bullets(tuple(f"{paragraph.title}: {prose.plain(paragraph)}" for paragraph in paragraphs))
    differing = [*guard.notes(comparison.names), *without_base(groups)]
    if sum(group.trained for group in groups) > 1:
        declared = f"Declared to vary: {', '.join(guard.declared) or 'nothing'}."
        yield f"{declared} Everything else is equal, except:" if differing else EQUAL
    yield Bullets((*differing, *remarks.lines(groups, comparison.loaded)))


def _failed(comparison: Comparison) -> Iterator[Block]:
    """Yield every run without a result and every file that could not be read."""
    loaded = comparison.loaded
    failed, paused = compute.failures(comparison), remarks.interruptions(loaded)
    problems = (scored.problem for group in comparison.groups for row in group.rows for scored in row.scored)
    damaged = list(dict.fromkeys([*loaded.unreadable, *filter(None, problems)]))
    yield failed if failed.rows or paused else "No failed runs."
    if paused:
        yield "Interrupted, and can go on:"
        yield Bullets(tuple(paused))
    if damaged:
        yield "Could not be read:"
        yield Bullets(tuple(damaged))
