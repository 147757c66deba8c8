"""Choosing among trials: from records alone, the same whenever it is asked."""

import dataclasses

import pytest

from harness.records import record, selection
from harness.records.selection import Edge, Look, Trial, beyond, choose, edges, trials

PROVENANCE = {"num_processes": 2}


def attempt(status="ok", reason="", seconds=2.0, started="2026-01-01T00:00:00", parameters=100, **changed):
    phase = record.Phase(seconds=seconds, peak_memory_bytes=None, peak_reserved_bytes=None, resident_bytes=None)
    print_ = record.Fingerprint(
        trained={}, trainable_parameters=parameters, expected_trainable_parameters=parameters, total_parameters=1000,
        saved_bytes=None,
    )  # fmt: skip
    made = record.Attempt(
        started_at=started, status=status, reason=reason,
        phases={"load": phase, "train": phase, "validate": phase, "evaluate": phase}, data=None, fingerprint=print_,
        training=None, peak_memory_bytes=None, weights_from=started if status == "ok" else None, provenance=PROVENANCE,
    )  # fmt: skip
    return dataclasses.replace(made, **changed)


def look(
    recipe, loss, *, lr=1e-4, seed=0, scale="1", status="ok", contestant="method=lora", stderr=0.01, attempts=None
):
    cell = record.Cell(
        overrides=("method=lora", f"lr_scale={scale}", "eval.test=never", f"seed={seed}"), method="lora",
        recipe_id=recipe, seed=seed, eval_ids=("v",), stage="tune", contestant=contestant,
    )  # fmt: skip
    if status == "missing":
        return Look(cell=cell, run=None, validation=None)
    reason = "" if status == "ok" else "it broke"
    run = record.RunRecord(
        schema=record.SCHEMA, recipe_id=recipe, seed=seed, method="lora", recipe={"train": {"lr": lr}}, config={},
        attempts=attempts or (attempt(status, reason),),
    )  # fmt: skip
    validation = record.EvaluationRecord(
        schema=record.SCHEMA, recipe_id=recipe, seed=seed, eval_id="v", evaluation={"kind": "heldout"},
        metrics={"loss": record.Metric(value=loss, stderr=stderr, higher_is_better=False)}, num_items=4, num_tokens=9,
        num_fewshot=None, seconds=1.0, weights_from=run.current.weights_from, provenance={},
    )  # fmt: skip
    return Look(cell=cell, run=run, validation=validation)


def tried(*looks):
    [found] = trials(looks, ["lr_scale"]).values()
    return found


def test_trials_are_gathered_by_contestant_and_recipe():
    looks = [
        look("a", 1.0), look("a", 1.2, seed=1), look("b", 2.0, scale="3"),
        look("c", 3.0, contestant="method=full"),
    ]  # fmt: skip
    found = trials(looks, ["lr_scale", "method.r"])
    assert [(name, [trial.recipe_id for trial in of]) for name, of in found.items()] == [
        ("method=lora", ["a", "b"]), ("method=full", ["c"]),
    ]  # fmt: skip
    first = found["method=lora"][0]
    assert first.loss == pytest.approx(1.1)
    assert first.standard_error == pytest.approx(0.1)  # the seeds' standard deviation, 0.1414, over the root of two
    assert found["method=lora"][1].standard_error == 0.01  # one seed: over the rows
    assert found["method=lora"][1].settings == {"lr_scale": "3"}


def test_cells_of_other_stages_are_no_trials():
    final = look("a", 1.0)
    final = dataclasses.replace(final, cell=dataclasses.replace(final.cell, stage="final"))
    assert trials([final], ["lr_scale"]) == {}


def test_the_lowest_validation_loss_is_chosen_and_it_is_said_of_how_many():
    made = choose("x", tried(look("a", 2.0), look("b", 1.5), look("c", 1.7)), "lowest_validation_loss")
    assert made == record.Choice(
        contestant="x", recipe_id="b", reason="the lowest validation loss, 1.5000, of 3 trials"
    )


def test_equal_losses_are_decided_by_the_rate_and_then_by_the_id():
    looks = [look("c", 1.5, lr=3e-4), look("b", 1.5, lr=1e-4), look("a", 1.5, lr=1e-4), look("d", 2.0, lr=1e-5)]
    for order in (looks, looks[::-1]):
        made = choose("x", tried(*order), "lowest_validation_loss")
        assert made.recipe_id == "a"
        assert made.reason.endswith("tied with 2 more: the lowest rate")


def test_what_failed_counts_as_a_trial_and_is_never_chosen():
    looks = [
        look("a", 0.1, status="diverged"),
        look("b", 1.5),
        look("c", 0.2, status="oom"),
        look("d", 0, status="missing"),
    ]
    made = choose("x", tried(*looks), "lowest_validation_loss")
    assert made.recipe_id == "b"
    assert made.reason == "the lowest validation loss, 1.5000, of 4 trials, 1 diverged, 1 missing, 1 oom"


def test_nothing_is_chosen_where_every_trial_failed():
    made = choose("x", tried(look("a", 1, status="diverged"), look("b", 1, status="failed")), "lowest_validation_loss")
    assert made.recipe_id is None
    assert made.reason == "none of 2 trials completed, 1 diverged, 1 failed"


def test_a_trial_needs_every_seed():
    found = tried(look("a", 1.0), look("a", 1.0, seed=1, status="diverged"), look("b", 2.0), look("b", 2.0, seed=1))
    assert [trial.status for trial in found] == ["diverged", "ok"]
    assert found[0].reason == "it broke"
    assert choose("x", found, "lowest_validation_loss").recipe_id == "b"


def test_a_validation_of_older_weights_does_not_count():
    stale = look("a", 1.0)
    stale = dataclasses.replace(stale, validation=dataclasses.replace(stale.validation, weights_from="before"))
    assert tried(stale)[0].status == "missing"


TOKENS = (3, 5, 2, 8, 6, 4)
HARD = (2.1, 0.4, 3.0, 1.2, 0.7, 1.9)  # nats per token of each row: the rows differ far more than two trials do


def with_rows(name, shifts, parameters, seed=0):
    """A look whose rows are harder for it by so many nats per token."""
    rows = {f"row{i}": ((h + s) * t, t) for i, (h, s, t) in enumerate(zip(HARD, shifts, TOKENS, strict=True))}
    loss = sum(nats for nats, _ in rows.values()) / sum(TOKENS)
    made = look(name, loss, seed=seed, stderr=0.4, attempts=(attempt(parameters=parameters),))
    return dataclasses.replace(made, rows=lambda: rows)


def test_one_standard_error_takes_the_smallest_model_that_is_as_good_on_the_same_rows():
    looks = [
        with_rows("best", (0,) * 6, 1000),
        with_rows("small", (0.3, -0.2, 0.1, -0.1, 0.2, -0.1), 10),
        with_rows("smaller and worse", (0.11, 0.09, 0.1, 0.1, 0.1, 0.1), 1),
    ]
    best, small, worse = tried(*looks)
    assert small.loss - best.loss < selection.paired_standard_error(small, best)
    # within one error of the loss itself, 0.4 nats, and many errors of the difference away
    assert 0.4 > worse.loss - best.loss > 20 * selection.paired_standard_error(worse, best)
    made = choose("x", [best, small, worse], "one_standard_error")
    assert made.recipe_id == "small"
    assert "the smallest of 2 within one standard error" in made.reason


def test_the_paired_error_is_that_of_a_ratio_and_seeds_are_added():
    import numpy as np

    shifts = [(0.3, -0.2, 0.1, -0.1, 0.2, -0.1), (0.1, 0.2, 0.0, -0.3, 0.1, 0.4)]
    looks = [with_rows("a", (0,) * 6, 1, seed) for seed in (0, 1)]
    looks += [with_rows("b", shift, 1, seed) for seed, shift in enumerate(shifts)]
    a, b = tried(*looks)
    tokens = np.array(TOKENS)
    gaps = np.array(shifts) * tokens
    mean_gap = gaps.mean(axis=0)
    residual = mean_gap - mean_gap.sum() / tokens.sum() * tokens
    rows = 6 / 5 * (residual**2).sum() / tokens.sum() ** 2
    seeds = (gaps.sum(axis=1) / tokens.sum()).var(ddof=1) / 2
    assert selection.paired_standard_error(b, a) == pytest.approx(float(np.sqrt(rows + seeds)))


def test_without_rows_only_the_best_is_within_one_standard_error():
    looks = [look("best", 1.0), look("small", 1.001, attempts=(attempt(parameters=1),))]
    assert choose("x", tried(*looks), "one_standard_error").recipe_id == "best"


def test_every_rule_of_the_schema_is_there_and_has_a_text():
    from typing import get_args

    from harness.config.sweep_file import Rule

    assert set(get_args(Rule)) == set(selection.RULES) == set(selection.RULE_TEXTS)
    assert len(selection.RULES) == 2


@pytest.mark.parametrize(
    ("best", "expected"), [("0.3", "lowest"), ("1", None), ("3", None), ("10", "highest")]
)  # fmt: skip
def test_the_best_value_at_an_end_of_its_grid_is_an_edge(best, expected):
    looks = [look(f"r{s}", 1.0 if s == best else 2.0, scale=s) for s in ("1", "10", "0.3", "3")]
    found = edges(tried(*looks), f"r{best}")
    assert [edge.side for edge in found] == ([expected] if expected else [])
    if found:
        assert found[0].tried == (0.3, 1.0, 3.0, 10.0)


@pytest.mark.parametrize(("status", "is_edge"), [("ok", False), ("diverged", False), ("failed", True), ("oom", True),
                                                  ("skipped", True), ("missing", True)])  # fmt: skip
def test_only_a_result_or_a_divergence_closes_an_edge(status, is_edge):
    looks = [look("a", 2.0, scale="1"), look("b", 1.0, scale="3"), look("c", 5.0, scale="10", status=status)]
    found = edges(tried(*looks), "b")
    assert [(edge.side, edge.unproven) for edge in found] == ([("highest", (10.0,))] if is_edge else [])
    assert [beyond(edge) for edge in found] == ([10.0] if is_edge else [])  # it is tried again first


def test_what_has_no_end_is_no_edge():
    assert edges(tried(look("a", 1.0)), "a") == []  # one value
    assert edges(tried(look("a", 1.0, scale="0"), look("b", 2.0, scale="0.1")), "a") == []  # nothing lies below zero
    assert edges(tried(look("a", 1.0, scale="mlp"), look("b", 2.0, scale="all_linear")), "a") == []  # no numbers


def test_a_grid_goes_on_as_it_began():
    def after(side, *values):
        return beyond(Edge(setting="x", value="", side=side, tried=values))

    assert after("highest", 0.3, 1.0, 3.0, 10.0) == 30
    assert after("lowest", 0.1, 0.3, 1.0, 3.0) == 0.03
    assert after("highest", 4.0, 16.0, 64.0) == 256
    assert after("lowest", 1.0, 2.0) == 0.5
    assert after("highest", 0.0, 0.1, 0.2) == pytest.approx(0.3)


def test_the_cost_is_of_every_attempt_that_trained():
    again = attempt(started="later", weights_from="2026-01-01T00:00:00")  # evaluates weights that are there
    found = tried(look("a", 1.0, attempts=(attempt("oom", "full", seconds=1.0), attempt(), again)))
    assert found[0].device_seconds == 2 * (3 * 1.0 + 3 * 2.0)  # two processes; reading the test is not tuning


def test_choosing_is_a_function_of_the_records_alone():
    looks = [look(name, loss) for name, loss in (("a", 2.0), ("b", 1.5), ("c", 1.7))]
    made = {
        choose("x", tried(*order), "lowest_validation_loss") for order in (looks, looks[::-1], looks[1:] + looks[:1])
    }
    assert len(made) == 1
    assert isinstance(tried(*looks)[0], Trial)
