"""Logs of lm-eval as a comparison: those that it writes here, those of older versions, and what others lack."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from harness.records.items import text_hash
from harness.records.record import EvaluationRecord, RunRecord, find_runs, read
from harness.report import load
from harness.report.__main__ import main
from harness.report.data.lm_eval_logs import find_logs
from harness.stats import compare_methods

HERE = Path(__file__).parent
OLDER = HERE / "lm_eval_logs"
MODELS = (
    "base:org/model:0.55:0",
    "mine:org/model:0.65:0:/some/mine-seed0/final", "mine:org/model:0.66:1:/some/mine-seed1/final",
    "yours:org/model:0.8:0:/some/yours-seed0/final", "yours:org/model:0.8:1:/some/yours-seed1/final",
)  # fmt: skip


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    """What `lm_eval --log_samples` writes here for five models on two tasks."""
    folder = tmp_path_factory.mktemp("lm-eval")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, str(HERE / "lm_eval_writer.py"), str(folder), *MODELS],
        capture_output=True, text=True, env=environment, cwd=folder, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(folder.rglob("results_*.json"))) == len(MODELS)
    return folder


@pytest.fixture
def imported(tmp_path, capsys):
    """Import folders with options, and return exit code, output, errors and the runs folder."""

    def run(*words):
        runs = tmp_path / "runs"
        code = main(
            ["import-lm-eval", *map(str, words), "--out", str(runs), "--reports-dir", str(tmp_path / "reports")]
        )
        told = capsys.readouterr()
        return code, told.out, told.err, runs

    return run


def records_of(runs):
    return {(one.method, one.seed): one for one in (read(RunRecord, path) for path in find_runs(runs))}


def outcomes(folder, task, metric, selection="none"):
    [file] = folder.rglob(f"samples_{task}_*.jsonl")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [one[metric] for one in entries if one["filter"] == selection]


def test_two_folders_become_a_table_with_verdicts(logs, imported, tmp_path):
    code, out, err, runs = imported(logs / "base", logs / "yours")
    assert (code, err) == (0, "")
    assert "yours" in out
    assert "report: " in out
    report = tmp_path / "reports" / "lm-eval"
    for name in ("report.md", "index.html", "tables/main.tex", "setup.tex", "records.csv", "appendix.tex"):
        assert (report / name).is_file(), name
    assert set(records_of(runs)) == {("base", 0), ("yours", 0), ("yours", 1)}
    assert "were trained elsewhere" in (report / "setup.md").read_text()
    assert "trained elsewhere, on data and with settings that are unknown" in (report / "report.md").read_text()
    assert "None" not in (report / "setup.md").read_text()


def test_scores_pairs_and_p_values_are_those_of_the_logs(logs, imported):
    [mine] = [folder for folder in (logs / "mine").iterdir() if "seed0" in folder.name]
    _, _, _, runs = imported(logs / "base", f"one={mine}", "--primary", "numbers/acc")
    comparison = load(runs, "lm-eval")
    [pair] = comparison.claims[0].against_base
    assert {group.label for group in comparison.groups} == {"base", "one"}
    a, b = outcomes(mine, "numbers", "acc"), outcomes(logs / "base", "numbers", "acc")
    assert len(a) == len(b) == 60
    assert pair.result.difference == pytest.approx(sum(a) / 60 - sum(b) / 60)
    assert pair.result.scope == "runs"
    values = {"one": np.array([a]), "base": np.array([b])}
    alone = compare_methods(values, baseline="base", deterministic=("base",)).families["baseline"].pairs[0]
    assert pair.result.p == pytest.approx(alone.p)
    assert 0.2 < pair.result.p / ttest_rel(a, b).pvalue < 5


def test_every_score_is_the_mean_of_its_items_and_lm_evals(logs, imported):
    _, _, _, runs = imported(logs / "base", logs / "mine", logs / "yours")
    comparison = load(runs, "lm-eval")
    checked = 0
    for row in comparison.loaded.rows:
        for scored in row.scored:
            for name in ("acc", "acc_norm", "exact_match,strict", "exact_match,loose"):
                if name in scored.record.metrics:
                    assert scored.items.outcomes[name].mean() == pytest.approx(scored.record.metrics[name].value)
                    checked += 1
    assert checked == 5 * 4
    assert {
        row.record.metrics["acc"].chance
        for r in comparison.loaded.rows
        for row in r.scored
        if "acc" in row.record.metrics
    } == {1 / 3}


def test_items_are_paired_by_their_document_whatever_their_order(logs, imported, tmp_path):
    shuffled = shutil.copytree(logs / "yours", tmp_path / "yours")
    for file in shuffled.rglob("samples_*.jsonl"):
        entries = [json.loads(line) for line in file.read_text().splitlines()][::-1]
        places = sorted({one["doc_id"] for one in entries})
        entries = [{**one, "doc_id": places[-1] - one["doc_id"]} for one in entries]
        file.write_text("".join(json.dumps(one) + "\n" for one in entries))
    _, _, _, runs = imported(logs / "base", logs / "yours", "--name", "straight")
    _, _, _, runs = imported(logs / "base", shuffled, "--name", "shuffled")
    one, other = (load(runs, name).claims[0].against_base[0].result for name in ("straight", "shuffled"))
    assert (one.p, one.difference) == (other.p, other.difference)


def test_the_base_of_all_adapters_is_found_and_may_be_named(logs, imported):
    _, out, _, runs = imported(logs / "base", logs / "mine", "--json")
    found = json.loads(out)
    assert set(found) == {"runs", "report", "base", "answers"}
    assert (found["runs"], Path(found["report"]).is_file()) == (str(runs), True)
    assert found["base"] == "org/model"
    assert found["answers"][0]["base"] is not None
    assert records_of(runs)["base", 0].recipe["model"] == {"name": "org/model"}
    code, _, err, _ = imported(logs / "base", logs / "mine", "--base", "other")
    assert (code, err) == (2, "harness.report: --base other: no such model; there is org/model, mine\n")


def test_seeds_come_from_a_pattern(logs, imported):
    _, _, _, runs = imported(f"a={logs / 'mine'}", f"b={logs / 'yours'}")
    assert set(records_of(runs)) == {("a", 0), ("a", 1), ("b", 0), ("b", 1)}
    code, _, err, _ = imported(f"a={logs / 'mine'}", f"b={logs / 'yours'}", "--seed-pattern", "(nothing)")
    assert code == 2
    assert "a stands for several models" in err
    assert "/some/mine-seed0/final" in err
    for pattern in ("seed", "(a)(b)", "("):
        code, _, err, _ = imported(logs / "mine", "--seed-pattern", pattern)
        assert (code, "--seed-pattern" in err) == (2, True)


@pytest.mark.parametrize("version", ["0.4.2", "0.4.3"])
def test_logs_of_older_versions_are_paired_with_those_of_today(version, logs, imported):
    assert len(find_logs(OLDER / version)) == 2
    code, _, err, runs = imported(
        f"then={OLDER / version / 'mine'}", f"base={logs / 'base'}", "--primary", "numbers/acc"
    )
    assert (code, err) == (0, "")
    comparison = load(runs, "lm-eval")
    [pair] = comparison.claims[0].against_base
    assert pair.result.difference > 0
    by_filter = {
        name: metric.value
        for path in runs.rglob("evaluations/*.json")
        if (score := read(EvaluationRecord, path)).evaluation["task"] == "said"
        for name, metric in score.metrics.items()
    }
    assert set(by_filter) == {"exact_match,strict", "exact_match,loose"}


def test_hashes_are_computed_as_lm_eval_does(logs):
    [log] = find_logs(OLDER / "0.4.3" / "base")
    entries = log.samples("said")
    assert len(entries) == 120
    for one in entries:
        assert one["doc_hash"] == text_hash(json.dumps(one["doc"], indent=2, ensure_ascii=False))
    assert {one["filter"] for one in entries} == {"strict", "loose"}


def _replaced(folder, pattern, old, new):
    for file in folder.rglob(pattern):
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new))


def _as_file(folder):
    shutil.rmtree(folder)
    folder.write_text("no folder")


BROKEN = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no such folder"),
    "nothing in it": (lambda folder: [p.unlink() for p in folder.rglob("*.*") if p.is_file()], "no results of lm-eval"),
    "no results": (lambda folder: [p.unlink() for p in folder.rglob("results_*")], "samples and no results_*.json"),
    "no samples": (lambda folder: [p.unlink() for p in folder.rglob("samples_*")], "the items of numbers are missing"),
    "half a results file": (lambda folder: _cut(folder, "results_*"), "the JSON breaks off or is damaged"),
    "half a samples file": (lambda folder: _cut(folder, "samples_numbers*"), "damaged, a sample is no JSON"),
    "fewer samples": (lambda folder: _lines(folder, 10), "10 items, and the results are of 60"),
    "a file": (_as_file, "is a file; give the folder"),
    "empty samples": (lambda folder: _lines(folder, 0), "no samples"),
    "results without scores": (
        lambda folder: _replaced(folder, "results_*", '"results": {', '"results": [], "other": {'),
        "no results",
    ),
    "deeply nested results": (
        lambda folder: next(folder.rglob("results_*")).write_text("[" * 200_000),
        "the JSON breaks off or is damaged",
    ),
    "no outcome": (lambda folder: _without(folder, "doc"), "sample 1 has no doc"),
}


def _cut(folder, pattern):
    [file] = folder.rglob(pattern)
    file.write_text(file.read_text()[:-200])


def _lines(folder, number):
    [file] = folder.rglob("samples_numbers*")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:number]))


def _without(folder, key):
    [file] = folder.rglob("samples_numbers*")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: v for k, v in one.items() if k != key}) + "\n" for one in entries))


@pytest.mark.parametrize("fault", BROKEN)
def test_a_refusal_says_what_is_missing(fault, logs, imported, tmp_path):
    broken = shutil.copytree(logs / "base", tmp_path / "broken")
    change, expected = BROKEN[fault]
    change(broken)
    code, _, err, runs = imported(broken, logs / "mine")
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not runs.exists()


def test_other_prompts_or_limits_are_refused_by_name(logs, imported, tmp_path):
    other = shutil.copytree(logs / "yours", tmp_path / "other")
    for file in other.rglob("samples_numbers*"):
        file.write_text(file.read_text().replace("Which number is", "Which  number is"))
    code, _, err, _ = imported(logs / "mine", other)
    assert code == 3
    assert "numbers eval.items_and_prompts" in err


def test_another_version_of_a_task_or_other_tasks_are_refused_by_name(logs, imported, tmp_path):
    other = shutil.copytree(logs / "yours", tmp_path / "other")
    for file in other.rglob("results_*"):
        content = json.loads(file.read_text())
        content["versions"] = dict.fromkeys(content["versions"], 9.0)
        file.write_text(json.dumps(content))
    code, _, err, _ = imported(logs / "mine", other)
    assert code == 3
    assert "task_versions" in err
    assert "9.0" in err


def test_models_without_a_common_task_are_refused(logs, imported, tmp_path):
    places = []
    for name, dropped in (("base", "said"), ("yours", "numbers")):
        places.append(shutil.copytree(logs / name, tmp_path / name))
        for file in places[-1].rglob("results_*"):
            content = json.loads(file.read_text())
            for part in content.values():
                if isinstance(part, dict):
                    part.pop(dropped, None)
            file.write_text(json.dumps(content))
    code, _, err, runs = imported(*places)
    assert code == 2
    assert "no task is in the logs of two models" in err
    assert "numbers" in err and "said" in err
    assert not runs.exists()


def test_one_folder_given_twice_is_refused(logs, imported):
    code, _, err, _ = imported(f"base={logs / 'base'}", f"mine={logs / 'base'}")
    assert code == 2
    assert "the same log" in err


def test_one_model_alone_is_nothing_to_compare(logs, imported):
    code, _, err, _ = imported(logs / "base")
    assert (code, "give the logs of at least two models" in err) == (2, True)


def test_nothing_heavy_is_imported(logs, tmp_path):
    script = (
        "import sys; from harness.report.__main__ import main\n"
        f"words = [{str(logs / 'base')!r}, {str(logs / 'mine')!r}, '--out', 'r', '--reports-dir', 'p']\n"
        "code = main(['import-lm-eval', *words])\n"
        "heavy = {'torch', 'transformers', 'peft', 'hydra', 'lm_eval', 'datasets'}\n"
        "sys.exit(code or ' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
