"""Timings that were taken in company are marked wherever they are shown."""

import dataclasses
import io

from rich.console import Console

from harness.records import record
from harness.records.record import Conditions
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages.report import details, page
from harness.report.writers import terminal
from harness.report.writers.flat import flat
from harness.report.writers.markdown import to_markdown
from tests.report.conftest import BASE, DORA, LORA, add_run


def disturbed(path):
    """Rewrite a record as if its training had been timed in company."""
    run = record.read(record.RunRecord, path)
    current = run.current
    seen = Conditions(cpu_cores=2, other_cpu_cores=1.25)
    train = dataclasses.replace(current.phases["train"], conditions=seen, energy_joules=321.0)
    phases = {**current.phases, "train": train}
    attempts = (*run.attempts[:-1], dataclasses.replace(current, phases=phases))
    record.write(dataclasses.replace(run, attempts=attempts), path)


def test_a_doubtful_timing_is_marked_on_the_page_in_the_appendix_the_terminal_and_the_table(runs):
    for kind in (BASE, LORA, DORA):
        add_run(runs, kind)
    clean = page(Comparison(load([runs])))
    assert "Timing caveat" not in clean
    path = next(p for p in record.find_runs(runs) if record.read(record.RunRecord, p).method == "dora")
    disturbed(path)
    loaded = load([runs])
    said = "Timing caveat: other processes kept part of the processor busy: "
    assert said in page(Comparison(loaded))
    assert "1.25 of 2 cores in train" in page(Comparison(loaded))
    assert said in to_markdown("Appendix", details(Comparison(loaded)))
    shown = io.StringIO()
    terminal.show(Comparison(loaded), console=Console(file=shown, width=100))
    assert "Timing caveats" in shown.getvalue()
    doubtful = [line for line in flat(loaded.rows) if line["timing_warnings"]]
    assert [(line["method"], line["train_energy_joules"]) for line in doubtful] == [("dora", 321.0)]
