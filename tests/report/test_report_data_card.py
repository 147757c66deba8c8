"""The data card shows text of data sets, models and tokenizers, and does nothing with it."""

import dataclasses
import io
from types import SimpleNamespace

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from rich.console import Console

from harness.records import data_check, record
from harness.report.pages import data_card, setup

HOSTILE = (
    "` <img src=x onerror=alert(1)> [a](http://evil.example) | x | ``code`` www.evil.example me@evil.example\n# heading"
    "\n\x1b[31m\x1b]52;c;cHduZWQ=\x07 [/] [bold]"
)
KNOWN = {"h1", "h2", "p", "ul", "li", "strong", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}


@pytest.fixture
def check():
    near = data_check.Near(
        threshold=0.7, rows_looked_at=9, rows=9, found=1, across_validation=0, examples=(HOSTILE, HOSTILE)
    )
    return data_check.DataCheck(
        schema=record.SCHEMA, check_id="0123", data=HOSTILE, content=HOSTILE, model=HOSTILE, data_license=HOSTILE,
        model_license=HOSTILE, given_rows=9, train_rows=9, validation_rows=1, test_rows=1, removed={HOSTILE: 1},
        sources=(data_check.SourceRows(place=HOSTILE, rows=9, trained_on=9, license=HOSTILE),),
        problems=(data_check.Problem(kind="empty", rows=1, policy="drop", examples=(HOSTILE,)),), contradictions=(2, 5),
        near=near, ngram=13, shortest_ngram=5,
        overlaps=(data_check.Overlap(name=HOSTILE, items=1, items_found=1, items_without_words=0, train_rows_found=1,
                                    examples=(HOSTILE,)),),
        lengths=(data_check.Lengths(part=HOSTILE, rows=9, tokens=9, quantiles=(1, 1, 1, 1, 1), max_length=9,
                                   rows_over=0, tokens_over=0, bins=((1, 2, 9),)),),
        balance=data_check.Balance(answers=9, most_common=((HOSTILE, 1),), topics=((HOSTILE, 1),)),
        loss_on="completion", template=HOSTILE, tokenizer={"eos_token": HOSTILE, HOSTILE: "</s>"}, notices=(HOSTILE,),
        refusals=(HOSTILE,),
    )  # fmt: skip


def test_a_data_card_does_nothing_with_its_text(check):
    page = data_card.card(check)
    html = cmarkgfm.github_flavored_markdown_to_html(page, options=Options.CMARK_OPT_UNSAFE)
    assert {part.split(">")[0].split()[0] for part in html.split("<")[1:] if not part.startswith("/")} <= KNOWN
    assert html.count("<h1>") == 1
    assert all(sign.isprintable() or sign == "\n" for sign in page)
    link = data_card.links([check])
    assert cmarkgfm.github_flavored_markdown_to_html(link).count("<a ") == 1, "the card's own"


def test_a_data_card_has_the_terms_of_the_field_and_names_for_people(check):
    overlap = dataclasses.replace(check.overlaps[0], name="arc_easy")
    facts = {"tokens known": "49,152", "rows of the embedding": "49,152"}
    named = dataclasses.replace(
        check, data="science_qa", model="smollm2-135m", template=None, overlaps=(overlap,), tokenizer=facts
    )
    page = data_card.card(named)
    assert page.startswith("# Data card: ARC and OpenBookQA\n")
    assert "| ARC-Easy | 1 | 1 | 1 |" in page
    terms = ("Data quality", "Treatment", "Contaminated items", "Minimum", "Maximum", "vocabulary size: 49,152")
    assert all(term in page for term in (*terms, "base model: SmolLM2-135M-Instruct,", "none (plain text)"))
    assert not any(term in page for term in ("Found", "Done", "Least", "Most", "tokens known", "stand as they are"))


def test_a_terminal_obeys_nothing_of_a_data_check(check, tmp_path):
    text = io.StringIO()
    data_card.show(check, tmp_path / "card\x1b[31m.md", Console(file=text, width=120, color_system=None))
    assert "[/] [bold]" in " ".join(text.getvalue().split())
    assert all(sign.isprintable() or sign == "\n" for sign in text.getvalue())


def test_bins_of_lengths_do_not_overlap():
    """Bins are whole numbers: each ends below the next one, and the last one holds its own end."""
    bins = ((16, 25, 4), (25, 33, 2), (33, 40, 1))
    lengths = data_check.Lengths(part="train", rows=7, tokens=180, quantiles=(16, 24, 33, 40, 40), max_length=64,
                                 rows_over=0, tokens_over=0, bins=bins)  # fmt: skip
    ends = [line.split(" \u2588")[0] for line in data_card.histogram(lengths).splitlines()]
    assert ends == ["16 - 24", "25 - 32", "33 - 40"]


@pytest.mark.parametrize(
    ("found", "looked_at", "sentence"),
    [
        (0, 900, None),
        (1, 900, "Of 900 training and validation rows, 1 is a near duplicate of another (Jaccard"),
        (12, 900, "Of 900 training and validation rows, 12 are near duplicates of another (Jaccard"),
        (12, 800, "Of a sample of 800 training and validation rows, 12 are near duplicates of another (Jaccard"),
    ],
)
def test_the_page_says_among_which_rows_near_duplicates_were_counted(check, found, looked_at, sentence):
    near = data_check.Near(
        threshold=0.8, rows_looked_at=looked_at, rows=900, found=found, across_validation=0, examples=()
    )
    comparison = SimpleNamespace(records=[])
    said = [str(part) for part in setup._overlaps(comparison, dataclasses.replace(check, near=near))]
    told = [part for part in said if "near duplicate" in part]
    assert (len(told), all(sentence in part for part in told)) == (sentence is not None, True)
