"""The checklists: an answer is the author's where no record can give it."""

import dataclasses

from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.pages import setup
from harness.report.pages.checklist import UNCOMMITTED, to_latex, to_markdown
from harness.report.writers import prose


def answer(page: str, question: str) -> str:
    """The answer to a question with its justification."""
    return page.partition(f"**{question}.**")[2].partition("**Answer: ")[2].partition("\n\n")[0]


def test_whether_terms_are_respected_is_for_the_author_to_say(tree):
    page = to_markdown(Comparison(load([tree], "methods")))
    for question in ("Licenses for existing assets", "B2"):
        assert answer(page, question).startswith("to be answered by the author.")
        assert "SmolLM2-135M-Instruct: Apache-2.0" in answer(page, question)
        assert "Whether their terms are respected is not in the records." in answer(page, question)


def test_runs_with_uncommitted_changes_cannot_be_called_reproducible(tree):
    question = "Experimental result reproducibility"
    loaded = load([tree], "methods")
    clean = answer(to_markdown(Comparison(loaded)), question)
    assert clean.startswith("Yes.")
    assert UNCOMMITTED not in clean
    first, *others = loaded.rows
    attempts = [
        dataclasses.replace(attempt, provenance={**attempt.provenance, "uncommitted_changes": True})
        for attempt in first.record.attempts
    ]
    row = dataclasses.replace(first, record=dataclasses.replace(first.record, attempts=tuple(attempts)))
    changed = Comparison(dataclasses.replace(loaded, rows=(row, *others)))
    assert answer(to_markdown(changed), question).startswith("to be answered by the author.")
    assert UNCOMMITTED in answer(to_markdown(changed), question)
    assert UNCOMMITTED in to_latex(changed)


def test_trials_that_have_read_the_test_are_named_in_the_checklist_as_in_the_setup(tuned_report):
    loaded = load([tuned_report.parent / "runs"], "tuned")
    read = dataclasses.replace(
        loaded, trials=tuple(dataclasses.replace(trial, test_reads=1) for trial in loaded.trials)
    )
    for given, words, setup_words in (
        (loaded, "only selected settings were tested", "The test sets were used only for the final runs"),
        (read, "other settings were evaluated on the test sets too", "other runs were evaluated on the test sets too"),
    ):
        comparison = Comparison(given)
        assert words in answer(to_markdown(comparison), "Experimental setting/details")
        assert setup_words in "".join(map(prose.plain, setup.paragraphs(comparison)))
