"""Details of a report: everything behind its body, once for `report.md`, the appendix, the page and the LaTeX tables.

Everything is computed from the records. A section without content is left out by whoever writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report.analysis import axes, external, multiverse, noise, speed, tested_claims, use, verdicts
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.tradeoff import across, frontiers, matched, matched_pairs
from harness.report.analysis.verdicts import explained, families
from harness.report.document import Block, Bullets, Command, Figure, Markup, Section
from harness.report.figures.canvas import Figure as Drawn
from harness.report.pages import compute, data_card, hyperparameters, notes, protocol, tuned
from harness.report.pages.summary import cost, losses, tasks

UPDATE = "[Shape of the updates](update.md): how much each method changed the weights, and in which directions."
MATCHED = "Equal budget: the last checkpoint within the budget of the cheapest method."
ACROSS = (
    "Mean, interquartile mean of the task means (four tasks or more) and average rank (1 is best) over target tasks "
    "(tasks treated as fixed; 95 % CI over items and seeds)."
)
EXTERNAL = (
    "Published results (single seed, different hardware and set-up); shown for reference, not ranked. The interval of "
    "an accuracy is Wilson's."
)


def sections(comparison: Comparison, figures: Sequence[Drawn] = (), update: bool = False) -> list[Section]:
    """Return the sections; with the figures beside that of the body, and a link to the page of the updates' shapes."""
    groups = comparison.groups
    together, served = across(groups), use.tables(groups)
    robust = multiverse.lines(multiverse.multiverse(comparison), comparison.names)
    variance, checked = noise.variance_tables(comparison), comparison.loaded.checks
    settings = (hyperparameters.shared(comparison), hyperparameters.by_method(comparison))
    checks = tuple(filter(None, (tested_claims.looks_line(comparison), noise.aa_line(noise.aa_test(comparison)))))
    return [
        Section("Statistical comparison", tuple(_statistics(comparison))),
        Section("Losses", (losses(groups),)),
        Section("Cost", tuple(_costs(comparison))),
        Section("Quality-cost trade-off", tuple(_trade_offs(comparison))),
        Section("Inference cost", (*served, use.TEXT) if served else ()),
        Section("All target tasks", (together, ACROSS) if together else ()),
        Section("Every task", tuple(tasks(groups))),
        Section("Robustness of the answer", (multiverse.TEXT, Bullets(tuple(robust))) if robust else ()),
        Section("Sources of variance", (*variance, noise.VARIANCE_TEXT) if variance else ()),
        Section("Figures", (*map(picture, figures), *([Markup(UPDATE)] if update else []))),
        Section("Hyper-parameters", tuple(table for table in settings if table)),
        Section("Prompt templates", tuple(hyperparameters.templates(comparison))),
        Section("Tuning", tuple(_tuning(comparison))),
        Section("Seeds", (compute.seeds(comparison),)),
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
    for place, result in enumerate(comparison.claims):
        yield from families(result)
        if pairs := verdicts.pairs(result, f"pairs-{place + 1}" if place else "pairs"):
            yield pairs
        yield Bullets(tuple(explained(result)))


def _costs(comparison: Comparison) -> Iterator[Block]:
    groups, attempts = comparison.groups, protocol.attempts(comparison)
    yield cost(groups)
    if attempts:
        total = sum(map(axes.device_seconds, attempts)) / axes.HOUR
        yield (
            f"In all {total:.2f} device hours in {len(attempts):,} attempts, those of tuning included, on "
            f"{', '.join(protocol.devices(attempts))}."
        )
        yield compute.compute(comparison)
    if rates := speed.table(groups):
        yield rates
    yield Bullets((*axes.timing_caveats(groups), *speed.unknown(groups)))


def _trade_offs(comparison: Comparison) -> Iterator[Block]:
    """Yield quality against every cost, and methods at matched budgets."""
    for result in comparison.claims:
        tables = (frontiers(result, comparison.groups), matched(result), matched_pairs(result))
        yield from (table for table in tables if table)
        yield MATCHED if tables[1] else ""


def _tuning(comparison: Comparison) -> Iterator[Block]:
    """Yield the trials with the choices, and the remarks on them; nothing for a sweep without stages."""
    if table := hyperparameters.searched(comparison):
        yield table
        yield Bullets(tuple(tuned.lines(comparison.loaded)))
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
    for scored in protocol.tasks(comparison):
        yield f"task {scored.task}: license {scored.record.provenance.get('license') or 'not recorded'}"
