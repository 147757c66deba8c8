"""Claims on top of a report: every outcome with its interval, what would decide it, and every deviation."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tuned_tree

from harness.records import claim_grammar, record, registration
from harness.records.claim_grammar import Range, Selector
from harness.records.record import ClaimRecord, Looks
from harness.records.registration import EXCLUSIONS, Registration
from harness.report.analysis import claim_words, tested_claims
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.tested_claims import judge
from harness.report.data.load import load
from harness.report.pages.registered import deviations, explained, table
from harness.report.pages.report import page
from harness.stats.contrast import Contrast

CLAIMS = (
    "lora@best > base on arc_easy/acc",
    "prompt@best >= full@best - 0.01 on arc_easy/acc",
    "lora == dora +- 0.2 on arc_easy/acc",
    "lora - 0.5 * full >= 0.5 * base - 0.1 on arc_easy/acc",
    "lora >= dora on test_loss",
    "lora / full in [0.03, 0.04] on trainable_parameters",
    "full / lora in [1.5, 3] on peak_memory_bytes",
    "lora / full in [1.2, 1.5] on tokens_per_second",
    "vera > base on arc_easy/acc",
    "best_lr(lora) / best_lr(full) in [5, 20]",
    "lora > base on piqa/nosuch",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tuned_tree.build(tmp_path_factory.mktemp("claims") / "runs")


def loaded_with(runs, claims=CLAIMS, **changes):
    loaded = load([runs], "tuned")
    records = tuple(ClaimRecord(claim=text, source=None, note=None) for text in claims)
    sweep = replace(loaded.sweep, claims=records)
    return replace(loaded, sweep=sweep, **changes)


def registered(loaded, **changes):
    """The registration that fits the tree."""
    sweep = loaded.sweep
    made = Registration(
        schema=record.SCHEMA, name="tuned", registered_at="2025-11-01T00:00:00.000+00:00", digest="",
        question=sweep.question, primary=sweep.primary, claims=sweep.claims, margin=None, level=0.05,
        families=("claims",), rule=sweep.tuning.rule, tuned=sweep.tuning.settings, tuning_seeds=sweep.tuning.seeds,
        final_seeds=sweep.tuning.final_seeds, looks=None, exclusions=EXCLUSIONS, arguments=("sweep=tuned",),
        cells=tuple(cell for cell in sweep.cells if cell.stage == "tune"), contents={}, code="0",
        made_with={**{k: v for k, v in tuned_tree.provenance().items()
                      if k in ("harness", "commit", "uncommitted_changes", "versions")}},
    )  # fmt: skip
    made = replace(made, **changes)
    return replace(made, digest=registration.digest_of(made))


@pytest.mark.parametrize(
    ("limits", "interval", "outcome"),
    [
        (Range(-0.01, None), (-0.005, 0.02), "confirmed"),
        (Range(-0.01, None), (-0.01, 0.02), "confirmed"),
        (Range(0.0, None, is_open=True), (0.0, 0.02), "undecided"),
        (Range(0.0, None, is_open=True), (-0.02, 0.0), "refuted"),
        (Range(0.0, None), (-0.02, 0.0), "undecided"),
        (Range(None, 0.01), (0.02, 0.03), "refuted"),
        (Range(-0.01, 0.01), (-0.009, 0.01), "confirmed"),
        (Range(-0.01, 0.01), (0.005, 0.02), "undecided"),
        (Range(5, 20), (3, np.inf), "undecided"),
        (Range(5, 20), (21, np.inf), "refuted"),
    ],
)
def test_an_interval_judges_a_range(limits, interval, outcome):
    assert judge(limits, interval) == outcome


WORDS = {  # a claim -> what it says, and of what
    "lora == dora +- 0.01 on arc_easy/acc": ("LoRA within 1 point of DoRA", "ARC-Easy accuracy, points"),
    "ia3@best == full@best +- 0.025 on arc_easy/acc_norm": (
        "(IA)\u00b3 within 2.5 points of full fine-tuning", "ARC-Easy length-normalized accuracy, points",
    ),
    "lora > dora on piqa/acc": ("LoRA above DoRA", "PIQA accuracy, points"),
    "lora >= dora on piqa/acc": ("LoRA not below DoRA", "PIQA accuracy, points"),
    "lora < dora on test_loss": ("LoRA below DoRA", "test loss (nats per token)"),
    "lora <= dora on piqa/acc": ("LoRA not above DoRA", "PIQA accuracy, points"),
    "lora >= dora - 0.01 on piqa/acc": ("LoRA at most 1 point below DoRA", "PIQA accuracy, points"),
    "lora > dora - 0.01 on piqa/acc": ("LoRA less than 1 point below DoRA", "PIQA accuracy, points"),
    "lora >= dora + 0.01 on piqa/acc": ("LoRA at least 1 point above DoRA", "PIQA accuracy, points"),
    "lora > dora + 0.01 on piqa/acc": ("LoRA more than 1 point above DoRA", "PIQA accuracy, points"),
    "lora <= dora + 0.01 on general_text/loss": (
        "LoRA at most 0.01 above DoRA", "General text loss (nats per token)",
    ),
    "lora < dora - 0.01 on validation_loss": ("LoRA more than 0.01 below DoRA", "validation loss (nats per token)"),
    "lora == dora + 0.05 +- 0.02 on piqa/acc": (
        "LoRA between 3 points and 7 points above DoRA", "PIQA accuracy, points",
    ),
    "lora[use_rslora=true, r=64] > lora[r=64, target=attention] on my_task/score": (
        "LoRA (r=64, rsLoRA) above LoRA (r=64, target=attention)", "my_task score",
    ),
    "full[data.mix.0.share=0.1] >= 0.5 * full + 0.5 * base on hellaswag/acc": (
        "Full fine-tuning (share=0.1) \u2265 0.5 \u00d7 full fine-tuning + 0.5 \u00d7 base model",
        "HellaSwag accuracy, points",
    ),
    "lora - 0.5 * full < 0.5 * base - 0.1 on piqa/acc": (
        "LoRA < 0.5 \u00d7 full fine-tuning + 0.5 \u00d7 base model \u2212 10 points", "PIQA accuracy, points",
    ),
    "lora >= 0.4 on piqa/acc": ("LoRA \u2265 40 points", "PIQA accuracy, points"),
    "lora + dora - full == 0.1 +- 0.2 on piqa/acc": (
        "LoRA + DoRA \u2212 full fine-tuning between \u221210 points and 30 points", "PIQA accuracy, points",
    ),
    "best_lr(lora[r=4]) / best_lr(full) in [5, 20]": (
        "LoRA (r=4) 5 to 20 times full fine-tuning", "best learning rate",
    ),
    "vera / lora in [0, 0.1] on trainable_parameters": ("VeRA at most 0.1 times LoRA", "trained parameters"),
    "qlora / lora in [1.05, 2] on tokens_per_second": ("QLoRA 1.05 to 2 times LoRA", "tokens per second"),
}  # fmt: skip


@pytest.mark.parametrize("text", WORDS)
def test_a_claim_is_shown_in_words_with_the_names_of_its_methods(text):
    claim = claim_grammar.parse(text)
    assert (claim_words.text(claim), claim_words.metric(claim)) == WORDS[text]


@pytest.mark.parametrize(
    ("claim", "value", "interval", "outcome", "expected"),
    [
        ("lora > dora on piqa/acc", 0.0412, (0.0212, 0.0612), "confirmed", ("4.1", "2.1 to 6.1")),
        ("lora > dora on piqa/acc", 0.019, (0.0004, 0.0376), "confirmed", ("1.90", "0.04 to 3.76")),
        ("lora == dora +- 0.01 on piqa/acc", -0.001, (-0.00999, 0.008), "confirmed", ("-0.10", "-1.00 to 0.80")),
        ("lora == dora +- 0.01 on piqa/acc", -0.001, (-0.0101, 0.008), "undecided", ("-0.10", "-1.01 to 0.80")),
        ("lora < dora on test_loss", -0.01234, (-0.02, -0.005), "confirmed", ("-0.0123", "-0.0200 to -0.0050")),
        ("lora / full in [5, 20]", 4.3421, (0.0, np.inf), "undecided", ("4.342", "0 to unbounded")),
        ("lora / full in [0, 1]", 0.0363109, (0.0363109, 0.0363109), "confirmed", ("0.03631", "0.03631 to 0.03631")),
        ("lora > dora on piqa/acc", None, None, "undecided", ("-", "-")),
        ("lora > dora on piqa/acc", 0.0412, None, "undecided", ("4.120", "-")),
    ],
)  # fmt: skip
def test_numbers_are_in_the_unit_of_the_metric_and_the_outcome_can_be_seen_by_them(
    claim, value, interval, outcome, expected
):
    text = claim if " on " in claim else f"{claim} on tokens_per_second"
    parsed = claim_grammar.parse(text)
    evidence = tested_claims.Evidence(value, interval)
    assert interval is None or judge(parsed.range, interval) == outcome
    line = table([tested_claims.Tested(ClaimRecord(claim=text, source=None, note=None), parsed, outcome, evidence)])
    cells = dict(zip(line.keys, line.rows[0], strict=True))
    shown = [re.sub("[\N{MINUS SIGN}\N{EN DASH}]", "-", cells[key].text) for key in ("estimate", "interval")]
    assert tuple(shown) == expected


def test_every_form_is_tested_on_the_records(runs):
    results = {one.record.claim: one for one in tested_claims.tested(Comparison(loaded_with(runs)))}
    assert list(results) == list(CLAIMS)
    outcomes = {text: one.outcome for text, one in results.items()}
    assert outcomes == {
        CLAIMS[0]: "confirmed", CLAIMS[1]: "refuted", CLAIMS[2]: "confirmed", CLAIMS[3]: "confirmed",
        CLAIMS[4]: "confirmed",
        CLAIMS[5]: "confirmed", CLAIMS[6]: "confirmed", CLAIMS[7]: "refuted", CLAIMS[8]: "undecided",
        CLAIMS[9]: "undecided", CLAIMS[10]: "undecided",
    }  # fmt: skip
    why = {text: one.evidence.why for text, one in results.items()}
    assert why[CLAIMS[7]] == "1 of the runs were timed in company and do not count"
    assert why[CLAIMS[8]].startswith("no run of VeRA completed")
    assert why[CLAIMS[9]] == "one tuning seed shows nothing of the noise between seeds"
    assert why[CLAIMS[10]] == "lora has no score in piqa/nosuch"


def test_a_claim_waits_for_the_final_runs_of_what_was_tuned(runs):
    """Between its stages a sweep has trials, and final runs of some contestants or of none."""
    loaded = loaded_with(runs)
    for waiting in ({"lora"}, {row.method for row in loaded.rows}):
        some = replace(loaded, rows=tuple(row for row in loaded.rows if row.method not in waiting))
        why = {one.record.claim: one.evidence.why for one in tested_claims.tested(Comparison(some))}
        assert why[CLAIMS[0]] == "no final run of LoRA has been made"
        assert why[CLAIMS[9]] == "one tuning seed shows nothing of the noise between seeds"  # trials alone


def test_a_trial_that_failed_for_its_memory_says_nothing_of_its_rate(runs):
    """Infinitely bad is a rate at which a trial diverged."""
    loaded = loaded_with(runs)
    lora = [row for row in loaded.trials if row.method == "lora"]

    def profile(status):
        run = lora[0].record
        ended = replace(run, attempts=(replace(run.current, status=status, reason="so"),))
        rows = tuple(replace(row, record=ended) if row is lora[0] else row for row in loaded.trials)
        comparison = Comparison(replace(loaded, trials=rows))
        return tested_claims._profile(Selector("lora"), comparison)[0]

    assert len(profile("diverged").rates) == len(lora)
    assert [losses is None for losses in profile("diverged").losses].count(True) == 1
    assert len(profile("oom").rates) == len(lora) - 1
    assert all(losses is not None for losses in profile("oom").losses)


def test_values_are_those_of_the_items(runs):
    loaded = loaded_with(runs)
    results = {one.record.claim: one.evidence for one in tested_claims.tested(Comparison(loaded))}
    scores = {group.label.partition(" ")[0]: group for group in Comparison(loaded).groups if group.ok}

    def acc(name):
        [scored] = [one for one in scores[name].evaluations.values() if one[0].task == "arc_easy"]
        return np.mean([one.record.metrics["acc"].value for one in scored])

    assert results[CLAIMS[0]].value == pytest.approx(acc("lora") - acc("base"))
    assert results[CLAIMS[3]].value == pytest.approx(acc("lora") - 0.5 * acc("full") - 0.5 * acc("base"), abs=2e-3)
    assert results[CLAIMS[5]].value == pytest.approx(4_884_480 / 134_515_008)
    assert results[CLAIMS[5]].interval == pytest.approx((4_884_480 / 134_515_008,) * 2)


def test_one_adjustment_covers_all_claims(runs):
    alone, among = (
        tested_claims.tested(Comparison(loaded_with(runs, CLAIMS[:count])))[0].evidence.interval for count in (1, 11)
    )
    assert among[0] < alone[0] < alone[1] < among[1]


def test_an_undecided_claim_says_what_would_decide_it(runs):
    [one] = tested_claims.tested(Comparison(loaded_with(runs, ("lora >= dora + 0.005 on arc_easy/acc",))))
    assert one.outcome == "undecided"
    assert one.evidence.narrower.startswith("about ") or "times the seeds and the items" in one.evidence.narrower
    assert any(word in one.evidence.narrower for word in ("seeds", "items"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.01, "nothing: the value lies on the bound itself"),
        (0.01 + 1e-17, "nothing: the value lies on the bound itself"),
        (0.010001, "more than 100 times the seeds and the items: the value lies close to the bound"),
        (0.005, "16 times the seeds and the items"),
    ],
)
def test_a_value_at_its_bound_asks_for_no_number_of_items_that_nobody_has(value, expected):
    result = Contrast(value, (value - 0.02, value + 0.02), "", 6e-5, 1e-5, 5, 400)
    needed = tested_claims._needed(Range(-0.01, 0.01), result)
    assert needed.startswith(expected)
    assert all(int(number.replace(",", "")) <= 40_000 for number in re.findall(r"[\d,]+", needed))


def test_the_report_opens_with_them_and_heads_the_rest_exploratory(runs):
    text = page(Comparison(loaded_with(runs)))
    assert text.index("## Claims") < text.index("## Exploratory") < text.index("## Answer")
    section = text[text.index("## Claims") : text.index("## Exploratory")].replace("&#8288;", "")
    assert all(claim_words.text(claim_grammar.parse(text)).replace("*", "\\*") in section for text in CLAIMS)
    assert "Not registered: nothing shows that these claims are older than the results." in section
    assert "## Claims" not in page(Comparison(loaded_with(runs, ())))
    assert "## Exploratory" not in page(Comparison(loaded_with(runs, ())))


def test_a_registered_question_without_deviations_says_so(runs):
    loaded = loaded_with(runs)
    made = registered(loaded)
    loaded = replace(loaded, registration=made)
    rerun = [line for line in deviations(loaded) if not line.startswith("test read twice")]
    assert rerun == []
    text = page(Comparison(loaded))
    assert f"Registered at 2025-11-01T00:00:00.000+00:00, sha256 {made.digest}" in text.replace("\\", "")


DEVIATIONS = {
    "question": ({"question": "Other?"}, "question: registered Other?, now Which method?"),
    "primary": ({"primary": "piqa/acc"}, "primary: registered piqa/acc, now arc_easy/acc"),
    "margin": ({"margin": 0.02}, "margin: registered 0.02, now nothing"),
    "claims": ({"claims": ()}, "claims: registered [], now [lora@best > base"),
    "rule": ({"rule": "one_standard_error"}, "rule: registered one_standard_error, now lowest_validation_loss"),
    "tuned": ({"tuned": ("method.r",)}, "tuned: registered [method.r], now [lr_scale]"),
    "tuning seeds": ({"tuning_seeds": (7,)}, "tuning seeds: registered [7], now [0]"),
    "a seed more": ({"final_seeds": (0, 1, 2, 3, 4)}, "final seeds added: 5"),
    "a seed less": ({"final_seeds": (0, 1, 2, 3, 4, 5, 6)}, "final seeds left out: 6"),
    "looks": ({"looks": (3, 6)}, "looks: registered [3; 6], now nothing"),
    "late": ({"registered_at": "2026-01-01T00:00:00.000+00:00"}, "begun before the registration of 2026-01-01"),
    "commit": ({"made_with": {"commit": "f" * 40}}, "commit ffff"),
    "version": ({"made_with": {**tuned_tree.provenance(), "versions": {"peft": "0.18.0"}}}, "peft 0.18.0 -> 0.19.0: "),
    "cells": ({"cells": ()}, "cells added: "),
}


@pytest.mark.parametrize("kind", DEVIATIONS)
def test_every_deviation_is_listed(runs, kind):
    changes, line = DEVIATIONS[kind]
    loaded = loaded_with(runs)
    loaded = replace(loaded, registration=registered(loaded, **changes))
    found = [one for one in deviations(loaded) if one.startswith(line)]
    assert len(found) == 1, deviations(loaded)
    assert "No deviation" not in page(Comparison(loaded))


@pytest.mark.parametrize(
    ("exact", "said"), [(0.2, 1), (3.2, 4), (10, 10), (12.1, 13), (99.2, 100), (1330, 1400), (5204, 5300)]
)
def test_seeds_and_items_that_would_decide_are_rounded_up_to_two_digits(exact, said):
    assert tested_claims._about(exact) == said


def test_runs_that_deviate_in_the_same_things_are_one_line(runs):
    """All of them are counted and not named; the commit has twelve digits."""
    loaded = loaded_with(runs)
    then = {**tuned_tree.provenance(), "commit": "f" * 40, "uncommitted_changes": True, "program": None}
    lines = deviations(replace(loaded, registration=registered(loaded, made_with=then)))
    [line] = [line for line in lines if "commit" in line]
    made = [row for row in (*loaded.rows, *loaded.trials) if row.record]
    assert re.fullmatch(rf"commit f{{12}} -> \w{{1,12}}, uncommitted changes yes -> no: all {len(made)} runs", line)


def test_another_evaluation_of_the_same_runs_is_listed(runs):
    loaded = loaded_with(runs)
    cells = tuple(replace(cell, eval_ids=("other",)) for cell in loaded.sweep.cells)
    found = deviations(replace(loaded, registration=registered(loaded, cells=cells)))
    assert [line for line in found if line.startswith("evaluations changed (tasks, limits or prompts): ")], found
    assert not [line for line in found if line.startswith("cells ")]


@pytest.mark.parametrize("now", [(), CLAIMS[:1]])
def test_a_registration_without_claims_is_shown_with_its_deviations(runs, now):
    loaded = loaded_with(runs, now)
    loaded = replace(loaded, registration=registered(loaded, claims=(), question="Other?"))
    text = " ".join(page(Comparison(loaded)).replace("\\", "").split())
    assert "No claims were written down." in text
    assert "Deviation: question: registered Other?, now Which method?." in text
    assert ("Deviation: claims: registered [], now [" in text) == bool(now)


def test_a_test_that_was_read_twice_is_listed(runs):
    loaded = loaded_with(runs)
    loaded = replace(loaded, registration=registered(loaded))
    said = "test read twice, since it was trained again: Full fine-tuning"
    assert [line for line in deviations(loaded) if line.startswith(said)]


def test_looks_that_stopped_early_are_no_deviation(runs):
    loaded = loaded_with(runs)
    tuning = replace(loaded.sweep.tuning, looks=Looks(first=3, most=8, methods=5))
    loaded = replace(loaded, sweep=replace(loaded.sweep, tuning=tuning))
    made = registered(loaded, looks=(3, 8), final_seeds=(0, 1, 2, 3, 4, 5, 6, 7))
    assert not [line for line in deviations(replace(loaded, registration=made)) if "seeds" in line or "looks" in line]


def test_a_registration_that_was_changed_by_hand_is_named(tmp_path):
    runs = tuned_tree.build(tmp_path / "runs")
    loaded = loaded_with(runs)
    file = registration.path(runs, "tuned")
    record.write(registered(loaded), file)
    assert load([runs], "tuned").registration == registered(loaded)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "level": 0.2}))
    again = load([runs], "tuned")
    assert again.registration is None
    assert any("changed since it was registered" in line for line in again.unreadable)


def test_an_evaluation_with_another_version_is_listed(runs):
    """The weights are those of the registered version; their test was read with another one."""
    loaded = loaded_with(runs)
    loaded = replace(loaded, registration=registered(loaded))
    row = next(row for row in loaded.rows if row.record and row.scored and not row.is_base)
    scored = row.scored[-1]
    provenance = {**scored.record.provenance, "versions": {**scored.record.provenance["versions"], "peft": "0.20.0"}}
    other = replace(scored, record=replace(scored.record, provenance=provenance))
    rows = tuple(replace(r, scored=(*r.scored[:-1], other)) if r is row else r for r in loaded.rows)
    before, after = (set(deviations(one)) for one in (loaded, replace(loaded, rows=rows)))
    assert after - before == {f"peft 0.19.0 -> 0.20.0: {row.title}"}


@pytest.mark.parametrize(
    ("made_with", "is_said"),
    [
        ({}, False),
        ({"uncommitted_changes": True}, True),
        ({"commit": None, "uncommitted_changes": None}, True),
        ({"uncommitted_changes": True, "program": "0123456789abcdef"}, False),
    ],
)
def test_a_registration_without_a_commit_says_what_it_does_not_see(runs, made_with, is_said):
    loaded = loaded_with(runs)
    made = registered(loaded)
    made = replace(made, made_with={**made.made_with, **made_with})
    lines = explained([], replace(loaded, registration=made))
    told = [line for line in lines if "without a commit of its code" in line or "which are not known" in line]
    assert len(told) == is_said
    if is_said and made.made_with["commit"]:
        assert told == [
            f"It was registered at commit {made.made_with['commit']} with uncommitted changes, which are not known."
        ]


@pytest.mark.parametrize(
    ("claim", "quantity"),
    [
        ("best_lr(lora) / best_lr(full) in [5, 20]", "The best learning rate is the lowest point of a parabola"),
        ("lora > full on arc_easy/p_right", "The probability of the right answer is a softmax"),
        ("lora > full on arc_easy/p_right_norm", "The probability of the right answer is a softmax"),
        ("lora > full on arc_easy/acc", None),
        ("lora > full on test_loss", None),
    ],
)
def test_a_quantity_that_papers_define_in_several_ways_is_defined(runs, claim, quantity):
    loaded = loaded_with(runs, (claim,))
    lines = explained(tested_claims.tested(Comparison(loaded)), loaded)
    defined = [line for line in lines if line.startswith(("The best learning rate is", "The probability of the right"))]
    assert [line[: len(quantity or "")] for line in defined] == ([quantity] if quantity else [])


def test_options_of_the_report_are_deviations(runs):
    loaded = loaded_with(runs)
    loaded = replace(loaded, registration=registered(loaded))
    before = deviations(loaded)
    assert [line for line in deviations(replace(loaded, margin=0.05)) if line not in before] == [
        "margin: registered nothing, now 0.05"
    ]
    assert [line for line in deviations(replace(loaded, allowed=("train.weight_decay",))) if line not in before] == [
        "undeclared differences allowed by an option of the report (--allow): train.weight_decay"
    ]
    stated = replace(loaded, sweep=replace(loaded.sweep, margin=0.02), margin=0.02)
    assert deviations(replace(stated, registration=registered(stated, margin=0.02))) == before
