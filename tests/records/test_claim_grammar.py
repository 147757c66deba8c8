"""The grammar of claims: what each form means, and one clear error for whatever is none of them."""

import re

import pytest

from harness.records.claim_grammar import MEASURED, Difference, Range, Ratio, Selector, Term, parse, select

LORA, FULL, BASE = Selector("lora", best=True), Selector("full", best=True), Selector("base")


def test_a_difference_is_a_sum_of_cells_in_a_range():
    claim = parse("lora@best >= full@best - 0.01 on arc_easy/acc")
    assert claim == Difference(
        "lora@best >= full@best - 0.01 on arc_easy/acc",
        (Term(1.0, LORA), Term(-1.0, FULL)),
        Range(-0.01, None),
        "arc_easy/acc",
    )
    assert claim.cells == (LORA, FULL)


@pytest.mark.parametrize(
    ("text", "terms", "limits"),
    [
        ("lora > full on a/b", [(1, "lora"), (-1, "full")], Range(0.0, None, is_open=True)),
        ("lora < full + 2e-2 on a/b", [(1, "lora"), (-1, "full")], Range(None, 0.02, is_open=True)),
        ("lora == full +- 0.01 on a/b", [(1, "lora"), (-1, "full")], Range(-0.01, 0.01)),
        ("lora >= 0.6 on a/b", [(1, "lora")], Range(0.6, None)),
        ("0.6 <= lora on a/b", [(-1, "lora")], Range(None, -0.6)),
        (
            "full[data.mix.0.share=0.1] >= 0.5*full[data.mix=[]] + .5 * base on hellaswag/acc",
            [(1, "full[data.mix.0.share=0.1]"), (-0.5, "full[data.mix=[]]"), (-0.5, "base")],
            Range(0.0, None),
        ),
        ("-lora + full - base >= 1 - 3 on a/b", [(-1, "lora"), (1, "full"), (-1, "base")], Range(-2.0, None)),
        (
            "lora[r=64, target=[q_proj,v_proj]]@best > lora[r=16] on validation_loss",
            [(1, "lora[r=64, target=[q_proj,v_proj]]@best"), (-1, "lora[r=16]")],
            Range(0.0, None, is_open=True),
        ),
        ("qlora < lora on peak_memory_bytes", [(1, "qlora"), (-1, "lora")], Range(None, 0.0, is_open=True)),
        ("a < b on gsm8k/exact_match,strict-match", [(1, "a"), (-1, "b")], Range(None, 0.0, is_open=True)),
    ],
)
def test_every_form_of_a_difference(text, terms, limits):
    claim = parse(text)
    assert isinstance(claim, Difference)
    assert [(term.factor, str(term.cell)) for term in claim.terms] == terms
    assert claim.range == limits


@pytest.mark.parametrize("metric", MEASURED)
def test_a_ratio_is_of_what_is_measured(metric):
    claim = parse(f"lora@best / full@best in [1.2, 1.5] on {metric}")
    assert claim == Ratio(claim.text, LORA, FULL, Range(1.2, 1.5), metric)


def test_a_ratio_of_best_rates_has_no_metric():
    claim = parse("best_lr(lora[r=64]) / best_lr(full) in [5, 20]")
    assert claim == Ratio(claim.text, Selector("lora", (("r", "64"),)), Selector("full"), Range(5, 20), None)


MALFORMED = {
    "": "no comparison in it; allowed are A >= B, A <= B, A > B, A < B, A == B +- MARGIN",
    "lora is good": "no comparison in it",
    "lora > full": "it says not on which metric: end it with on METRIC, such as on arc_easy/acc",
    "lora > full on": "it says not on which metric",
    "lora > full on accuracy": "on accuracy: no such metric; allowed are validation_loss, test_loss, <task>/<metric>",
    "lora > on a/b": "one side is empty; a side is a sum of cells and numbers",
    "> lora on a/b": "one side is empty",
    "lora == full on a/b": "== needs a margin above zero behind +-",
    "lora == full +- 0 on a/b": "== needs a margin above zero behind +-",
    "lora == full +- x on a/b": "== needs a margin above zero behind +-",
    "lora full > base on a/b": '"full": + or - is needed between two parts of a sum',
    "lora > full > base on a/b": '"> base": + or - is needed between two parts of a sum',
    "0.5 full > base on a/b": '"full": + or - is needed between two parts of a sum',
    "lora > 2 * on a/b": '"": a cell is needed here: a method, as in lora, lora[r=64] or lora@best',
    "lora > %full on a/b": '"%full": a cell is needed here',
    "lora@worst > full on a/b": "@worst is not known; @best is the recipe that the rule chose",
    "lora[r] > full on a/b": '"[r]": r is not setting=value, as in lora[r=64]',
    "lora[] > full on a/b": '"[]": an empty part is not setting=value',
    "lora[r=64 > full on a/b": "no comparison in it",
    "1 > 2 on a/b": "it names no cell",
    "lora + full > base on tokens_per_second": "tokens_per_second is measured a run: compare two cells",
    "lora / full in [1.2, 1.5] on arc_easy/acc": "a ratio is of best_lr(A) / best_lr(B), or on one of",
    "lora / full in [1.2, 1.5]": "a ratio is of best_lr(A) / best_lr(B), or on one of",
    "lora / full in [1.2] on train_seconds": "a ratio needs its range as in [5, 20]",
    "lora / full in [-1, 2] on train_seconds": "a ratio needs its range as in [5, 20]",
    "lora / full in [2, 1] on train_seconds": "[2, 1]: the lower end comes first",
    "lora in [1, 2] on train_seconds": '"lora": a ratio is of two cells, A / B',
    "a / b / c in [1, 2] on train_seconds": '"a / b / c": a ratio is of two cells',
    "a + b / c in [1, 2] on train_seconds": '"+ b": nothing may stand behind the cell a in a ratio',
    "best_lr(lora) / full in [5, 20]": "best_lr stands on one side only",
    "best_lr(lora) / best_lr(full) in [5, 20] on a/b": "best learning rates are those of the validation loss",
    "best_lr(lora) > best_lr(full)": "a ratio needs its range as in [5, 20]",
    "best_lr() / best_lr(full) in [5, 20]": '"": a cell is needed here',
}


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_claim_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match=re.escape(MALFORMED[text])) as refused:
        parse(text)
    assert str(refused.value).startswith(f'claim "{text}": ')
    assert "\n" not in str(refused.value)


CELLS = [
    ("base", ("method=base",)),
    ("lora", ("method=lora", "method.r=16", "target=all_linear")),
    ("lora", ("method=lora", "method.r=64", "target=all_linear")),
    ("lora", ("method=lora", "method.r=64", "target='re:.*q_proj'")),
    ("full", ("method=full",)),
]


@pytest.mark.parametrize(
    ("cell", "place"),
    [("base", 0), ("lora[r=16]", 1), ("lora[method.r=16.0]", 1), ("lora[r=64, target=all_linear]", 2), ("full", 4)],
)
def test_a_cell_is_selected_by_its_settings(cell, place):
    assert select(parse(f"{cell} > 0 on a/b").cells[0], CELLS) == place


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("dora", "dora: no cell has the method dora; there are base, lora, full"),
        ("lora", "lora: 3 cells of lora match; select one by its settings, as in lora[r=64]: method=lora method.r=16"),
        ("lora[r=8]", "lora[r=8]: no cell of lora matches; select one of them: method=lora method.r=16"),
        ("lora[rank=16]", "lora[rank=16]: no cell of lora matches"),
    ],
)
def test_a_cell_that_is_not_the_only_one_is_refused(cell, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        select(parse(f"{cell} > 0 on a/b").cells[0], CELLS)
