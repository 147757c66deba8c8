"""Recommendations whose right answer is known by construction, and the commands beside the report."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import scipy.optimize
from pyarrow import parquet

from harness.records import record
from harness.report.__main__ import main
from harness.report.analysis.claims import main_contests
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.recommend import Need, advise, options, recommendations, sentences
from harness.report.analysis.tradeoff import across, frontiers
from harness.report.data.groups import grouped
from harness.report.data.load import load
from harness.report.document import ALIKE
from harness.report.figures.bars import bars_of, gain_figure
from harness.report.figures.style import scale_of
from harness.report.pages import report, tables
from harness.report.writers import tabular
from tests.report.conftest import BASE, LORA, Kind, add_evaluation, add_run, evaluation, plain_text, shown

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "peft_method_comparison"
GIB = 2**30
ITEMS = 1000
# method -> right answers of 1,000, GiB, mergeable: the dear one is best, the middle one as good, the cheap one is not
METHODS = {"dear": (700, 40, True), "middle": (698, 20, False), "cheap": (600, 10, True)}


def _kind(name: str, peak: int) -> Kind:
    return dataclasses.replace(LORA, name=name, peak=peak * GIB)


def _add(runs, kind, right, mergeable, look, seed=0):
    """A run whose first `right` items are right, so that every difference is known exactly."""
    folder = add_run(runs, kind, seed)
    path = folder / "record.json"
    run = record.read(record.RunRecord, path)
    if run.measured.fingerprint:
        fingerprint = dataclasses.replace(run.measured.fingerprint, mergeable=mergeable)
        attempt = dataclasses.replace(run.current, fingerprint=fingerprint)
        record.write(dataclasses.replace(run, attempts=(attempt,)), path)
    scores = add_evaluation(folder, kind, look, seed)
    outcome = (np.arange(ITEMS) < right).astype(float)
    columns = {
        "item_id": [f"{i:04d}" for i in range(ITEMS)],
        "prompt_hash": [f"{look.num_fewshot}-{i}" for i in range(ITEMS)],
        "metric/acc": outcome,
    }
    parquet.write_table(pyarrow.table(columns), scores.with_suffix(".parquet"))
    metric = record.Metric(value=right / ITEMS, stderr=None, higher_is_better=True)
    found = record.read(record.EvaluationRecord, scores)
    record.write(dataclasses.replace(found, metrics={"acc": metric}, num_items=ITEMS), scores)
    return folder


@pytest.fixture
def known(runs):
    look = evaluation("arc_easy", limit=ITEMS)
    _add(runs, BASE, 500, None, look)
    for name, (right, peak, mergeable) in METHODS.items():
        for seed in range(3):
            _add(runs, _kind(name, peak), right, mergeable, look, seed)
    return runs


@pytest.fixture
def on_gpu(known):
    """The same runs on a GPU that held 5 GiB more than was allocated."""
    for path in known.glob("*/seed-*/record.json"):
        run = record.read(record.RunRecord, path)
        needed = run.peak_memory_bytes and run.peak_memory_bytes + 5 * GIB
        attempt = dataclasses.replace(run.current, required_memory_bytes=needed)
        record.write(dataclasses.replace(run, attempts=(attempt,)), path)
    return known


def test_a_memory_limit_is_for_what_a_gpu_must_have_and_not_for_what_was_allocated(on_gpu):
    assert _advise(on_gpu, tolerance=0.01, memory_bytes=26 * GIB).chosen.label == "middle"
    advice = _advise(on_gpu, tolerance=0.01, memory_bytes=24 * GIB)
    assert advice.chosen.label == "cheap", "20 GiB were allocated, and 25 GiB are needed"
    assert "15.0 GiB of a GPU" in sentences(advice)[0]
    assert "GPU mem." in [column.title for column in Comparison(load([on_gpu])).main_table.columns]


def test_what_a_gpu_must_have_stands_beside_what_was_allocated(on_gpu):
    from harness.report.pages.tables import cost
    from harness.report.writers.flat import flat

    needed = {line["Method"]: line["GPU memory needed (GiB)"] for line in shown(cost(grouped(load([on_gpu]).rows)))}
    assert needed["middle"] == "25.00"
    assert {row["method"]: row["required_memory_bytes"] for row in flat(load([on_gpu]).rows)}["middle"] == 25 * GIB


def test_the_first_figure_the_table_and_the_rule_speak_of_one_memory_on_a_gpu(on_gpu):
    comparison = Comparison(load([on_gpu]))
    bars = {bar.group.label: bar for bar in bars_of(comparison.claims[0], scale_of(comparison.contests[0]))}
    rows = {row["Method"]: row for row in shown(comparison.main_table)}
    assert {name: bar.memory for name, bar in bars.items()} == {
        name: f"{rows[name]['GPU mem. (GiB)']} GiB" for name in METHODS
    }
    assert bars["middle"].memory == "25.00 GiB"
    assert "Right: memory that the GPU must have." in gain_figure(comparison.claims[0]).caption
    assert "GPU mem.: what the GPU must have; time: that of training." in comparison.main_table.caption
    [section] = [one for one in report.body(comparison) if one.title == "Recommendation"]
    assert "the one that needs the least GPU memory is recommended" in section.blocks[1]


def test_runs_on_a_processor_have_no_column_of_a_gpu(known):
    from harness.report.pages.tables import cost
    from harness.report.writers.flat import columns

    assert "required_memory_bytes" not in cost(grouped(load([known]).rows)).keys
    assert "required_memory_bytes" not in columns(load([known]).rows)


def _advise(runs, **need):
    groups = grouped(load([runs]).rows)
    contest = main_contests(groups, None)[0]
    return advise(contest, options(contest, groups), Need(**need))


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        ({}, "dear"),
        ({"tolerance": 0.01}, "middle"),  # 0.2 points below, on two items of a thousand
        ({"tolerance": 0.2}, "cheap"),
        ({"tolerance": 0.01, "overhead": False}, "dear"),  # the middle one cannot be merged
        ({"memory_bytes": 24 * GIB}, "middle"),
        ({"memory_bytes": 24 * GIB, "overhead": False}, "cheap"),
        ({"memory_bytes": 5 * GIB}, "base"),
        ({"memory_bytes": GIB // 4}, None),
        ({"seconds": 1.0}, "base"),  # nothing is trained in a second
    ],
)
def test_the_right_answer_is_known_by_construction(known, need, expected):
    advice = _advise(known, **need)
    assert (advice.chosen.label if advice.chosen else None) == expected


def test_a_gap_that_these_items_do_not_show_is_not_given_up(runs):
    """Five items of a thousand decide nothing within half a point, so the dear method is kept."""
    look = evaluation("arc_easy", limit=ITEMS)
    for (name, right, peak), seed in itertools.product((("dear", 700, 40), ("cheap", 695, 10)), range(3)):
        _add(runs, _kind(name, peak), right, True, look, seed)
    assert _advise(runs, tolerance=0.005).chosen.label == "dear"
    assert _advise(runs, tolerance=0.015).chosen.label == "cheap"


def test_items_of_one_passage_and_the_level_of_a_look_count_as_in_the_verdicts(runs):
    """Twelve items of a thousand are lost, within two points: not so where they are one passage of fifty."""
    look = evaluation("arc_easy", limit=ITEMS)
    for (name, right, peak), seed in itertools.product((("dear", 700, 40), ("cheap", 688, 10)), range(3)):
        _add(runs, _kind(name, peak), right, True, look, seed)

    def chosen(level=0.05):
        groups = grouped(load([runs]).rows, level)
        contest = main_contests(groups, None)[0]
        return advise(contest, options(contest, groups), Need(tolerance=0.02)).chosen.label

    assert (chosen(), chosen(level=0.001)) == ("cheap", "dear")
    for path in runs.glob("*/seed-*/evaluations/*.parquet"):
        table = parquet.read_table(path)
        parquet.write_table(table.append_column("cluster", [[f"{i // 20}" for i in range(ITEMS)]]), path)
    assert chosen() == "dear"


def test_prompting_the_base_is_one_of_the_options(known):
    _add(known, BASE, 699, None, evaluation("arc_easy", limit=ITEMS, num_fewshot=5))
    groups = grouped(load([known]).rows)
    contest = main_contests(groups, None)[0]
    labels = {option.label for option in options(contest, groups)}
    assert len(labels) == 5
    advice = _advise(known, tolerance=0.01)
    assert "5-shot" in advice.chosen.label
    assert "5-shot" not in _advise(known, tolerance=0.01, overhead=False).chosen.label


def _simultaneous_ends(right, draws=100_000):
    """Return the simultaneous interval of the second of some scores minus the first, from their outcomes alone.

    The quantile is that of the largest |z| over all pairs, drawn with the covariance of the scores. An end is the
    difference at which a score test is just significant: a true difference d takes discordant items, which make the
    variance at least |d| / n - d^2 / n.
    """
    outcomes = np.array([np.arange(ITEMS) < count for count in right], dtype=float)
    covariance = np.cov(outcomes) / ITEMS
    drawn = np.random.default_rng(7).multivariate_normal(np.zeros(len(right)), covariance, size=draws)
    largest = np.zeros(draws)
    for a, b in itertools.combinations(range(len(right)), 2):
        error = np.sqrt(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])
        largest = np.maximum(largest, np.abs(drawn[:, a] - drawn[:, b]) / error)
    quantile, gap = np.quantile(largest, 0.95), (right[1] - right[0]) / ITEMS
    least = np.var(outcomes[1] - outcomes[0], ddof=1) / ITEMS + 1 / ITEMS**2  # with one discordant item more

    def excess(end):
        return abs(end - gap) - quantile * np.sqrt(max(least, abs(end) / ITEMS - end**2 / ITEMS))

    return scipy.optimize.brentq(excess, -0.1, gap), scipy.optimize.brentq(excess, gap, 0.1)


def test_the_words_hold_the_numbers(known):
    advice = _advise(known, tolerance=0.01, memory_bytes=50 * GIB)
    said = plain_text(" ".join(sentences(advice)))
    low, high = (f"{100 * end:+.1f}" for end in _simultaneous_ends((700, 698, 600, 500)))
    assert (low, high) == ("-1.0", "+0.2")
    assert said.startswith("Use middle: 69.8 % on ARC-Easy, 1,000 items; 20.0 GiB at the peak, 69.4 s")
    assert "dear has the best score (70.0 %" in said
    assert "middle is non-inferior with a margin of 1.0 points (adjusted p" in said
    assert f"difference -0.2 points, simultaneous 95 % CI {low} to {high})" in said
    groups = grouped(load([known]).rows)
    lines = recommendations(main_contests(groups, None)[0], groups, 0.01)
    assert [line.split(": ")[1].split(" (")[0] for line in lines] == ["middle", "dear", "cheap"]
    assert lines[0].startswith("No limit: ") and lines[1].startswith("No inference overhead: ")


def test_a_best_method_that_is_the_cheapest_too_has_no_cheaper_ones(runs):
    look = evaluation("arc_easy", limit=ITEMS)
    _add(runs, BASE, 500, None, look)
    for name, (right, peak) in {"first": (700, 10), "second": (600, 20)}.items():
        for seed in range(3):
            _add(runs, _kind(name, peak), right, True, look, seed)
    lines = Comparison(load([runs])).answer.lines
    assert lines[0].startswith("first is best on ARC-Easy")
    assert lines[2] == "No other method needs less memory."


@pytest.mark.parametrize(
    ("margin", "words"), [(0.01, "1 point"), (0.11, "11.0 points"), (0.021, "2.1 points"), (0.015, "1.5 points")]
)
def test_the_tolerance_is_written_out(known, margin, words):
    lines = Comparison(dataclasses.replace(load([known]), margin=margin)).answer.lines
    assert f"Cheapest that is not worse by more than {words}: middle (" in lines[2]


@pytest.mark.parametrize("alike", [True, False])
def test_methods_that_are_level_share_an_interval_or_it_is_said_whose_it_is(runs, alike):
    """700 of 1,000 either way: the one adds 200 to the base model's, the other wins 500 and loses 300."""
    look = evaluation("arc_easy", limit=ITEMS)
    _add(runs, BASE, 500, None, look)
    for name in ("first", "second"):
        for seed in range(3):
            folder = _add(runs, _kind(name, 10), 700, True, look, seed)
            if name == "second" and not alike:
                [path] = folder.glob("evaluations/*.parquet")
                columns = parquet.read_table(path).to_pydict()
                parquet.write_table(pyarrow.table({**columns, "metric/acc": columns["metric/acc"][::-1]}), path)
    [line, *_] = map(plain_text, Comparison(load([runs])).answer.lines)
    assert line.startswith("first and second ")
    assert (" CI of first +" in line) == (not alike)
    assert (" CI +" in line) == alike


def test_equal_answers_have_no_error_of_zero(runs):
    """No item differs from the base model's: that is no certainty that none would."""
    look = evaluation("arc_easy", limit=ITEMS)
    for kind, right in ((BASE, 500), (_kind("same", 10), 500), (_kind("other", 10), 600)):
        _add(runs, kind, right, None if kind is BASE else True, look)
    [table] = tables.tasks(Comparison(load([runs])).ordered)
    deltas = {row["Method"]: row["Delta to base (points)"] for row in shown(table)}
    assert deltas == {"Base model": "\N{EN DASH}", "other": "+10.0 \N{PLUS-MINUS SIGN} 0.9", "same": "+0.0"}
    assert [note.text for note in table.notes] == [ALIKE]
    same = next(line for line in tabular.tabular(table).splitlines() if line.startswith("same"))
    assert same.count(r"\pm") == same.count(r"\phantom{\,{\scriptsize$\pm$") + 1, "the score alone has an error"
    assert [row["acc/difference_stderr"] for row in table.records()][-1] == 0.0, "data files keep the number"


def test_without_any_verdict_no_method_is_called_best(runs):
    """Two seeds of one method and one of the other: a seed variance is known, and yet too little of it."""
    look = evaluation("arc_easy", limit=ITEMS)
    _add(runs, BASE, 500, None, look)
    for name, right, seeds in (("first", 700, 1), ("second", 600, 2)):
        for seed in range(seeds):
            _add(runs, _kind(name, 10), right + seed, True, look, seed)
    comparison = Comparison(load([runs]))
    assert {pair.result.verdict for pair in comparison.claims[0].against_best} == {"no verdict"}
    assert not comparison.claims[0].about_runs
    assert comparison.answer.lines[0].startswith("first scored highest on ARC-Easy: 70.0")


def test_frontiers_leave_out_who_is_beaten_in_both(known):
    _add(known, _kind("beaten", 45), 400, True, evaluation("arc_easy", limit=ITEMS))
    from harness.report.analysis.claims import claims

    groups = grouped(load([known]).rows)
    table = frontiers(claims(main_contests(groups, None)[0]), groups)
    memory = {line["Method"]: line["Peak memory"] for line in shown(table)}
    assert (memory["beaten"], memory["cheap"]) == ("0.00", "1.00*")
    assert across(groups) is None  # one task is not many


def test_one_seed_shows_no_method_to_be_non_inferior(runs):
    """Three hundred agreeing items and one seed: the statement would be about these weights."""
    look = evaluation("arc_easy", limit=ITEMS)
    for name, peak in (("dear", 40), ("cheap", 10)):
        _add(runs, _kind(name, peak), 700, True, look)
    advice = _advise(runs, tolerance=0.05)
    assert advice.chosen is advice.best
    assert "Non-inferiority is not claimed: each has one seed" in " ".join(sentences(advice))


@pytest.mark.parametrize(
    ("seeds", "right", "first", "second"),
    [
        (1, (700, 600), "dear scored highest on ARC-Easy in these runs: 70.0 %", "No other method ties with it."),
        (
            1,
            (700, 700),
            "cheap and dear scored highest on ARC-Easy in these runs: 70.0 %",
            "different from cheap: dear",
        ),
        (3, (700, 600), "dear is best on ARC-Easy: 70.0 %", "No other method ties with it."),
        (3, (700, 700), "cheap and dear scored highest on ARC-Easy: 70.0 %", "different from cheap: dear"),
    ],
)
def test_the_answer_names_all_that_are_level_and_speaks_of_runs_where_there_is_one_seed(
    runs, seeds, right, first, second
):
    look = evaluation("arc_easy", limit=ITEMS)
    _add(runs, BASE, 500, None, look)
    for (name, peak), score in zip((("dear", 40), ("cheap", 10)), right, strict=True):
        for seed in range(seeds):
            _add(runs, _kind(name, peak), score, True, look, seed)
    lines = [plain_text(line) for line in Comparison(load([runs])).answer.lines]
    assert lines[0].startswith(first) and second in lines[1]


def test_a_task_without_a_score_above_chance_is_neither_averaged_nor_marked_with_a_best(runs):
    looks = (evaluation("arc_easy", limit=ITEMS), evaluation("openbookqa", limit=ITEMS))
    kinds = (BASE, _kind("dear", 40), _kind("cheap", 10))
    for look, scores in zip(looks, ((500, 700, 650), (240, 262, 255)), strict=True):
        for kind, right in zip(kinds, scores, strict=True):
            folder = _add(runs, kind, right, True if kind is not BASE else None, look)
            path = next(path for path in folder.glob("evaluations/*.json") if f'"{look.task}"' in path.read_text())
            scored = record.read(record.EvaluationRecord, path)
            error = (right * (ITEMS - right) / ITEMS**3) ** 0.5
            metric = dataclasses.replace(scored.metrics["acc"], chance=0.25, stderr=error)
            record.write(dataclasses.replace(scored, metrics={"acc": metric}), path)
    table = Comparison(load([runs])).main_table
    assert [column.title for column in table.columns[:3]] == ["Method", "ARC-e", "OBQA"]
    assert "Avg." not in [column.title for column in table.columns]
    emphasis = [[cell.emphasis for cell in row[1:3]] for row in table.rows if row[0].key != "base"]
    assert emphasis == [["best", ""], ["second", ""]]
    assert "OBQA is neither ranked nor averaged: no method scores above chance (one-sided 5 %)." in [
        str(note) for note in table.notes
    ]


def test_scores_at_chance_and_unreadable_answers_are_not_ranked(known):
    def changed(**fields):
        for path in known.glob("*/seed-*/record.json"):
            if '"cheap"' in path.read_text():
                scores = next(path.parent.glob("evaluations/*.json"))
                found = record.read(record.EvaluationRecord, scores)
                metric = dataclasses.replace(found.metrics["acc"], chance=fields.get("chance"))
                unparsable = fields.get("num_unparsable", found.num_unparsable)
                record.write(dataclasses.replace(found, metrics={"acc": metric}, num_unparsable=unparsable), scores)
        return main_contests(grouped(load([known]).rows), None)[0]

    contest = changed(chance=0.6)
    assert [group.label for group, _ in contest.left_out] == ["cheap"]
    assert contest.left_out[0][1].startswith("at chance: 0.600")
    assert [group.label for group in contest.ranked] == ["dear", "middle"]
    assert "could not be read" in changed(num_unparsable=900).left_out[0][1]


def test_random_weights_have_costs_and_no_scores(known, tmp_path):
    for path in known.glob("*/seed-*/record.json"):
        run = record.read(record.RunRecord, path)
        model = {**run.recipe["model"], "weights": "random"}
        record.write(dataclasses.replace(run, recipe={**run.recipe, "model": model}), path)
    groups = grouped(load([known]).rows)
    assert main_contests(groups, None) == []
    assert main([str(known), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "The weights are random" in text
    assert "70.0" not in text
    assert "40.00" in text


def test_the_recommend_command(known, capsys):
    assert main(["recommend", str(known), "--memory", "24GiB", "--tolerance", "1.0"]) == 0
    assert capsys.readouterr().out.startswith("Use middle: 69.8")
    assert main(["recommend", str(known), "--memory", "24GiB", "--tolerance", "1.0", "--no-overhead"]) == 0
    assert capsys.readouterr().out.startswith("Use cheap: 60.0")
    assert main(["recommend", str(known), "--primary", "nosuch/acc"]) == 2
    assert "--primary nosuch/acc: no such column; there is " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--memory", "lots"], ["--memory", "24"], ["--time", "90"], ["--time", "3 fortnights"], ["--tolerance", "-1"]],
)
def test_wrong_limits_are_exit_code_2(known, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["recommend", str(known), *words])
    assert ended.value.code == 2


def test_the_power_command_says_what_could_be_seen(capsys):
    assert main(["power", "--items", "1319", "--seeds", "3", "--effect", "3"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 methods, 3 seeds each, 1,319 items: one comparison detects .* \d\.\d points", said)
    assert re.search(r"80% power needs \d+ seeds per method", said)
    assert re.search(r"Next \(.*\): .*twice the items: \d\.\d points", said)
    assert main(["power", "--items", "1319", "--seeds", "3", "--methods", "12"]) == 0
    assert re.search(r"Adjusted for all 66 pairs \(family-wise error 5 %\): \d\.\d points", capsys.readouterr().out)
    assert main(["power", "--items", "1319", "--seeds", "1", "--effect", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "No number of seeds" in said
    assert "trained models, not methods" in said
    assert main(["power", "--items", "1319", "--seeds", "2"]) == 2
    assert "take three seeds" in capsys.readouterr().err
    assert main(["power", "--seeds", "2"]) == 2
    assert "--from RUNS" in capsys.readouterr().err
    assert main(["power", "--items", "1", "--seeds", "3"]) == 2


@pytest.mark.parametrize("word", ["--items", "--seeds", "--methods"])
@pytest.mark.parametrize("number", ["0", "-3", "2.5", "many"])
def test_a_design_of_no_whole_number_is_refused_and_not_taken_for_none_given(word, number, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["power", "--items", "1319", "--seeds", "3", f"{word}={number}"])
    assert ended.value.code == 2
    assert f"argument {word}: {number!r} is not a whole number, one or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["power", "--effect=-1"], "'-1' is not a number above zero"),
        (["power", "--effect=nan"], "'nan' is not a number above zero"),
        (["power", "--effect=0"], "'0' is not a number above zero"),
        (["power", "--effect=inf"], "'inf' is not a number above zero"),
        (["power", "--disagreement=nan"], "'nan' is not a number above zero"),
        (["power", "--seed-deviation=nan"], "'nan' is not a number, zero or more"),
        (["power", "--disagreement=0"], "'0' is not a number above zero"),
        (["power", "--seed-deviation=-0.1"], "'-0.1' is not a number, zero or more"),
        (["power", "--rerun-disagreement=some"], "'some' is not a number, zero or more"),
        (["power", "--power=1.2"], "'1.2' is not between 0.05, the level of the test, and 1"),
        (["power", "--power=high"], "'high' is not a number above zero"),
        (["runs", "--margin=-0.01"], "'-0.01' is not a number above zero"),
        (["runs", "--price=free"], "'free' is not a number above zero"),
        (["pack", "mine", "--margin=-0.01"], "'-0.01' is not a number above zero"),
        (["pack", "mine", "--price=-2"], "'-2' is not a number above zero"),
        (["import-lm-eval", "logs", "--margin=nan"], "'nan' is not a number above zero"),
        (["recommend", "runs", "--tolerance=-1"], "'-1' is not a number, zero or more"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_every_command(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_power_command_takes_noise_and_hours_from_finished_runs(known, capsys):
    assert main(["power", "--from", str(known), "--seed-deviation", "0.5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 methods, 3 seeds each, 1,000 items")
    assert "measured on arc_easy (acc)" in said
    assert "most per hour first" in said
    assert "h of runs" in said


@pytest.mark.parametrize("task", ["test", "arc_easy"])
def test_noise_that_was_measured_is_in_the_metrics_unit_and_never_planned_as_zero(runs, capsys, task):
    kinds = [BASE, *(dataclasses.replace(LORA, name=name) for name in ("first", "second", "third"))]
    for kind in kinds:
        for seed in (0,) if kind is BASE else (0, 1, 2):
            add_evaluation(add_run(runs, kind, seed), kind, evaluation(task), seed)
    assert main(["power", "--from", str(runs)]) == 0
    said = capsys.readouterr().out
    deviation = re.search(r"deviate by ([\d.e-]+)( points)? between seeds", said)
    assert deviation
    assert float(deviation[1]) > 0
    assert "upper 80 % limit on" in said
    assert "with 4 degrees of freedom; the estimate is " in said
    assert (deviation[2] is None) is ("points" not in said) is (task == "test")
    assert main(["power", "--from", str(runs), "--json"]) == 0
    record_of = json.loads(capsys.readouterr().out)
    assert 0 <= record_of["seed_deviation_estimate"] < record_of["seed_deviation"]


def test_a_loss_of_single_seeds_takes_no_default_of_accuracies(runs, capsys):
    for kind in (BASE, LORA, dataclasses.replace(LORA, name="other")):
        add_evaluation(add_run(runs, kind), kind, evaluation("test"))
    assert main(["power", "--from", str(runs)]) == 2
    assert "give --rerun-disagreement and --seed-deviation" in capsys.readouterr().err
    words = ["--rerun-disagreement", "0.001", "--seed-deviation", "0.02", "--seeds", "3"]
    assert main(["power", "--from", str(runs), *words]) == 0
    assert "deviate by 0.02 between seeds beyond that (given)" in capsys.readouterr().out


def _published(name, method, rate, **optimizer):
    """An excerpt in the form of PEFT's result files."""
    return {
        "run_info": {
            "created_at": "2026-01-01T00:00:00+00:00", "total_time": 10.0, "experiment_name": name, "error_msg": "",
            "peft_branch": "main",
            "train_config": {"model_id": "some/model", "max_steps": 5000, "optimizer_type": "AdamW",
                             "optimizer_kwargs": {"lr": rate, **optimizer}, "seed": 0},
            "peft_config": {"peft_type": method, "r": 32, "lora_alpha": 64} if method else None,
        },
        "train_info": {
            "status": "success", "num_trainable_params": 9, "num_total_params": 99, "file_size": 1000,
            "accelerator_memory_max": 2**30,
            "metrics": [{"step": 250, "train time": 2.0}, {"step": 5000, "test accuracy": 0.48, "forgetting": 0.05,
                                                           "train total tokens": 4000}],
        },
        "meta_info": {"model_info": {"sha": "a"}, "dataset_info": {"gsm8k": {"sha": "b"}},
                      "package_info": {"peft-version": "0.19"}, "system_info": {"accelerator": "L40S"}},
    }  # fmt: skip


def test_an_import_names_by_itself_what_was_silently_changed(known, tmp_path, capsys):
    folder = tmp_path / "published"
    folder.mkdir()
    rows = {"lora": ("LORA", 1e-4, {"weight_decay": 0.1}), "dora": ("LORA", 1e-4, {"weight_decay": 0.1}),
            "vera": ("VERA", 1e-3, {}), "full": (None, 1e-5, {})}  # fmt: skip
    for name, (method, rate, optimizer) in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(_published(name, method, rate, **optimizer)))
    (folder / "broken.json").write_text("{}")
    assert main(["import-peft", str(folder), "--out", str(known)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("4 rows read from")
    assert "train_config.optimizer_kwargs.weight_decay: 0.1 (dora and lora), absent (full and vera)" in said.out
    assert said.out.count("\n  ") == 1  # nothing else differs that was not meant to
    assert "broken.json: not a result file" in said.err
    assert main([str(known), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    section = text.split("<summary>Published results</summary>")[1].split("</details>")[0]
    row = "| lora | LORA | success | 0.050 | 48.0 (45.3 to 50.7) |"
    assert row in section.replace("\N{NO-BREAK SPACE}", " ")
    assert "shown for reference, not ranked" in section
    assert "optimizer_kwargs.weight\\_decay" in section or "optimizer_kwargs.weight_decay" in section
    assert not re.search(r"\bvera\b", text.split("<summary>Published results</summary>")[0], re.IGNORECASE)
    assert main(["import-peft", str(tmp_path / "nowhere")]) == 2


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="PEFT's published result files are not beside the repository")
def test_the_published_files_are_read_whole(tmp_path, capsys):
    assert main(["import-peft", str(PUBLISHED), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{len(list(PUBLISHED.glob('*.json')))} rows read")
    assert [line.split(":")[0].strip() for line in said.splitlines() if line.startswith("  ")] == [
        "train_config.optimizer_kwargs.weight_decay"
    ]
    row = json.loads((tmp_path / "external" / "lora--llama-3.2-3B-rank32.json").read_text())
    assert row["scores"]["gsm8k/accuracy"]["value"] == pytest.approx(0.478, abs=0.001)
    assert row["train_seconds"] == pytest.approx(585, abs=3)
