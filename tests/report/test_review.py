"""The referee: forty planted faults, each found, and twenty clean folders without one; PEFT's rows; the bounds."""

import dataclasses
import json
import random
from itertools import product
from pathlib import Path

import pytest
from conftest import BASE, DORA, FULL, IA3, LORA, add_evaluation, add_run, evaluation
from scipy.stats import binomtest

from harness.review.__main__ import main
from harness.stats.pairings import mcnemar_p, pairing_bounds

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "peft_method_comparison"
ITEMS = 1319


@pytest.fixture
def reviewed(capsys):
    """Review something, and return the exit code, the identifiers of its faults and the whole document."""

    def run(what, *words):
        code = main([str(what), "--json", *words])
        [found] = json.loads(capsys.readouterr().out)
        assert set(found) == {"what", "kind", "rows", "findings"}
        assert all(set(one) == {"check", "text", "rows", "severity"} for one in found["findings"])
        return code, [one["check"] for one in found["findings"] if one["severity"] == "fault"], found

    return run


# --- records of this project ---

TUNED_LORA = dataclasses.replace(LORA, lr=3e-4)
TUNED_DORA = dataclasses.replace(DORA, lr=5e-4, parameters=5_040_000)
TUNED_IA3 = dataclasses.replace(IA3, lr=3e-3)
GOOD_FULL = dataclasses.replace(FULL, lr=2e-5, skill=0.45, parameters=134_515_008)


def write_records(runs, kinds=(TUNED_LORA, TUNED_DORA, TUNED_IA3), seeds=(0, 1, 2), limit=300):
    """The base and methods with seeds, all alike but for the method."""
    look = evaluation("arc_easy", limit=limit)
    for kind, seed in [(BASE, 0), *product(kinds, seeds)]:
        add_evaluation(add_run(runs, kind, seed), kind, look, seed)
    return runs


def change_record(folder, path, value):
    """Change a value in every record of a method."""
    *parents, last = path.split(".")
    for file in folder.glob("*/record.json"):
        content = json.loads(file.read_text())
        node = content
        for key in parents:
            node = node[key]
        node[last] = value
        file.write_text(json.dumps(content))


def of_method(runs, name):
    [folder] = {p.parents[1] for p in runs.glob("*/*/record.json") if json.loads(p.read_text())["method"] == name}
    return folder


def records_with(path, value):
    def plant(folder):
        write_records(folder)
        change_record(of_method(folder, "dora"), path, value)

    return plant


def other_limit(folder):
    write_records(folder, kinds=(TUNED_LORA,))
    look = evaluation("arc_easy", limit=200)
    for seed in (0, 1, 2):
        add_evaluation(add_run(folder, TUNED_DORA, seed), TUNED_DORA, look, seed)


def edited_score(folder):
    write_records(folder)
    for file in of_method(folder, "lora").glob("seed-0/evaluations/*.json"):
        content = json.loads(file.read_text())
        content["metrics"]["acc"]["value"] += 0.05
        file.write_text(json.dumps(content))


def one_more_seed(folder):
    write_records(folder)
    add_evaluation(add_run(folder, TUNED_LORA, 3), TUNED_LORA, evaluation("arc_easy", limit=300), 3)


def half_a_record(folder):
    write_records(folder)
    file = next(iter(of_method(folder, "lora").glob("seed-0/evaluations/*.json")))
    file.write_text(file.read_text()[:100])


def kinds(*changed, **settings):
    return lambda folder: write_records(folder, kinds=changed, **settings)


OUR_FAULTS = {
    "steps": (records_with("recipe.train.max_steps", 120), "settings"),
    "batch": (records_with("recipe.train.global_batch_size", 16), "settings"),
    "weight decay": (records_with("recipe.train.weight_decay", 0.1), "settings"),
    "data": (records_with("recipe.data.content", "6b6b6b6b"), "settings"),
    "precision": (records_with("recipe.train.precision", "bf16"), "settings"),
    "items": (other_limit, "settings"),
    "rate": (kinds(dataclasses.replace(LORA, lr=0.3), TUNED_DORA), "rate"),
    "one rate": (
        kinds(*(dataclasses.replace(kind, lr=1e-3) for kind in (LORA, TUNED_DORA, IA3))),
        "one-rate",
    ),
    "scale": (
        kinds(
            dataclasses.replace(LORA, lr=5e-4),
            dataclasses.replace(TUNED_DORA, settings={"r": 16, "lora_alpha": 128, "target": "all_linear"}),
        ),
        "scale",
    ),
    "one seed": (kinds(TUNED_LORA, TUNED_DORA, seeds=(0,)), "seeds"),
    "unequal seeds": (one_more_seed, "seeds"),
    "an edited score": (edited_score, "contradicted"),
    "half a record": (half_a_record, "unreadable"),
}


@pytest.mark.parametrize("fault", OUR_FAULTS)
def test_a_fault_in_our_records_is_found(fault, reviewed, tmp_path):
    plant, expected = OUR_FAULTS[fault]
    runs = tmp_path / "runs"
    plant(runs)
    code, faults, _ = reviewed(runs)
    assert code == 1
    assert expected in faults


OUR_CLEAN = [
    (TUNED_LORA, TUNED_DORA),
    (TUNED_LORA, TUNED_IA3),
    (TUNED_LORA, TUNED_DORA, TUNED_IA3),
    (TUNED_IA3, GOOD_FULL),
    (TUNED_LORA, TUNED_DORA, TUNED_IA3, GOOD_FULL),
]


@pytest.mark.parametrize("number", range(5))
def test_clean_records_raise_no_alarm(number, reviewed, tmp_path):
    runs = write_records(tmp_path / "runs", OUR_CLEAN[number], seeds=range(3 + number))
    code, faults, found = reviewed(runs)
    assert (code, faults) == (0, []), found


# --- result files of PEFT's method comparison ---

TRAIN = {
    "model_id": "org/model", "dtype": "bfloat16", "max_steps": 5000, "batch_size": 4, "lr_scheduler": "cosine",
    "optimizer_type": "AdamW", "query_template": "Question: {query}",
}  # fmt: skip
PEFT_ROWS = {
    "lora": ({"peft_type": "LORA", "r": 32, "lora_alpha": 64}, 3e-4, 640),
    "dora": ({"peft_type": "LORA", "use_dora": True, "r": 32, "lora_alpha": 64}, 5e-4, 633),
    "ia3": ({"peft_type": "IA3"}, 5e-3, 600),
    "full": (None, 1e-5, 622),
}


def write_peft(folder, names=("lora", "dora", "ia3"), seeds=(0, 1, 2), change=lambda name, row: None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in product(names, seeds):
        config, rate, right = PEFT_ROWS[name]
        row = {
            "run_info": {
                "created_at": "2026", "peft_branch": "main", "peft_config": dict(config) if config else None,
                "train_config": {**TRAIN, "seed": seed, "optimizer_kwargs": {"lr": rate, "weight_decay": 0.1}},
            },
            "train_info": {
                "status": "success",
                "metrics": [{"test accuracy": (right + 3 * seed) / ITEMS, "forgetting": 0.1, "step": 5000}],
            },
            "meta_info": {
                "model_info": {}, "dataset_info": {"gsm8k": {}}, "package_info": {"peft": "0.19"}, "system_info": {},
            },
        }  # fmt: skip
        change(name, row)
        (folder / f"{name}-{seed}.json").write_text(json.dumps(row))
    return folder


def peft_with(path, value, who="dora", **settings):
    def change(name, row):
        if name != who:
            return
        *parents, last = path.split(".")
        node = row
        for key in parents:
            node = node[int(key) if key.isdigit() else key]
        node[last] = value

    return lambda folder: write_peft(folder, change=change, **settings)


def shared_rate(folder):
    def change(name, row):
        row["run_info"]["train_config"]["optimizer_kwargs"]["lr"] = 1e-3

    write_peft(folder, change=change)


def rslora(folder):
    def change(name, row):
        row["run_info"]["train_config"]["optimizer_kwargs"]["lr"] = 3e-4
        if name == "dora":
            row["run_info"]["peft_config"] = {"peft_type": "LORA", "use_rslora": True, "r": 64, "lora_alpha": 64}

    write_peft(folder, names=("lora", "dora"), change=change)


def half_a_file(folder):
    write_peft(folder)
    file = folder / "lora-0.json"
    file.write_text(file.read_text()[:200])


PEFT_FAULTS = {
    "weight decay": (peft_with("run_info.train_config.optimizer_kwargs.weight_decay", 0.0), "settings"),
    "300 steps": (peft_with("run_info.train_config.max_steps", 300), "settings"),
    "another model": (peft_with("run_info.train_config.model_id", "org/other"), "settings"),
    "another precision": (peft_with("run_info.train_config.dtype", "float32"), "settings"),
    "another prompt": (peft_with("run_info.train_config.query_template", "{query}"), "settings"),
    "rate": (peft_with("run_info.train_config.optimizer_kwargs.lr", 1e-4, "ia3"), "rate"),
    "one rate": (shared_rate, "one-rate"),
    "scale of rsLoRA": (rslora, "scale"),
    "failed": (peft_with("train_info.status", "failed"), "status"),
    "zero": (peft_with("train_info.metrics.0.test accuracy", 0.0), "broken-run"),
    "no share of the items": (peft_with("train_info.metrics.0.test accuracy", 0.4804, seeds=(0,)), "impossible"),
    "one seed": (peft_with("run_info.peft_branch", "main", seeds=(0,)), "seeds"),
    "half a file": (half_a_file, "unreadable"),
}


@pytest.mark.parametrize("fault", PEFT_FAULTS)
def test_a_fault_in_results_of_peft_is_found(fault, reviewed, tmp_path):
    plant, expected = PEFT_FAULTS[fault]
    plant(tmp_path / "results")
    code, faults, _ = reviewed(tmp_path / "results")
    assert code == 1
    assert expected in faults


PEFT_CLEAN = (("lora", "dora"), ("lora", "ia3"), ("lora", "dora", "ia3"), ("full", "ia3"), tuple(PEFT_ROWS))


@pytest.mark.parametrize("number", range(5))
def test_clean_results_of_peft_raise_no_alarm(number, reviewed, tmp_path):
    folder = write_peft(tmp_path / "results", PEFT_CLEAN[number], seeds=range(3 + number))
    code, faults, found = reviewed(folder)
    assert (code, faults) == (0, []), found


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="PEFT's published rows are not on this machine")
def test_the_published_rows_of_peft(reviewed):
    code, faults, found = reviewed(PUBLISHED)
    assert code == 1
    assert set(faults) == {"settings", "scale", "rate", "one-rate", "seeds", "broken-run", "no-interval"}
    texts = {one["check"]: one["text"] for one in found["findings"]}
    assert "weight_decay" in texts["settings"]
    assert "rank64-rslora is scaled by 8" in texts["scale"]
    notes = [one["text"] for one in found["findings"] if one["severity"] == "note"]
    assert sum("significant however the items are paired" in note for note in notes) == 5
    assert sum("significant only if the two disagree on at most" in note for note in notes) == 5


# --- folders of transformers' Trainer ---

TRAINER_ROWS = {
    "lora": ({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": "org/model"}, 3e-4),
    "dora": (
        {"peft_type": "LORA", "use_dora": True, "r": 16, "lora_alpha": 32, "base_model_name_or_path": "org/model"},
        5e-4,
    ),
    "ia3": ({"peft_type": "IA3", "base_model_name_or_path": "org/model"}, 3e-3),
}


def write_trainer(folder, names=("lora", "dora"), seeds=(0, 1, 2), change=lambda name, parts: None):
    for name, seed in product(names, seeds):
        config, rate = TRAINER_ROWS[name]
        history = [
            {
                "step": step,
                "loss": 2.0 - step / 100 + seed / 1000 + len(name) / 500,
                "learning_rate": rate * (1 - step / 100),
            }
            for step in range(0, 100, 10)
        ]
        state = {
            "global_step": 100, "max_steps": 100, "num_train_epochs": 1, "train_batch_size": 8,
            "best_model_checkpoint": None, "log_history": [*history, {"step": 100, "eval_loss": 1.2}],
        }  # fmt: skip
        value = (60 + seed + len(name)) / 100
        results = {
            "results": {"arc": {"acc,none": value, "acc_stderr,none": (value * (1 - value) / 99) ** 0.5}},
            "configs": {"arc": {}}, "versions": {"arc": 1}, "n-samples": {"arc": {"original": 100, "effective": 100}},
        }  # fmt: skip
        parts = {"state": state, "config": dict(config), "results": results}
        change(name, parts)
        run = folder / f"{name}-seed{seed}"
        (run / "checkpoint-100").mkdir(parents=True)
        (run / "checkpoint-100" / "trainer_state.json").write_text(json.dumps(parts["state"]))
        (run / "adapter_config.json").write_text(json.dumps(parts["config"]))
        (run / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps(parts["results"]))
    return folder


def trainer_with(edit, who="dora", **settings):
    def change(name, parts):
        if name == who:
            edit(parts)

    return lambda folder: write_trainer(folder, change=change, **settings)


def constant(parts):
    for entry in parts["state"]["log_history"]:
        if "learning_rate" in entry:
            entry["learning_rate"] = 5e-4


def at_rate(rate):
    def change(name, parts):
        for entry in parts["state"]["log_history"]:
            if "learning_rate" in entry:
                entry["learning_rate"] *= rate / TRAINER_ROWS[name][1]

    return change


def larger_alpha(folder):
    def change(name, parts):
        at_rate(4e-4)(name, parts)
        if name == "dora":
            parts["config"]["lora_alpha"] = 128

    write_trainer(folder, change=change)


def read_test(parts):
    parts["state"]["best_model_checkpoint"] = "checkpoint-100"
    parts["state"]["log_history"].append({"step": 100, "eval_test_accuracy": 0.5})


TRAINER_FAULTS = {
    "steps": (trainer_with(lambda p: p["state"].update(max_steps=50, global_step=50)), "settings"),
    "batch": (trainer_with(lambda p: p["state"].update(train_batch_size=16)), "settings"),
    "schedule": (trainer_with(constant), "settings"),
    "another base": (trainer_with(lambda p: p["config"].update(base_model_name_or_path="org/other")), "settings"),
    "rate": (lambda folder: write_trainer(folder, names=("lora", "ia3"), change=at_rate(3e-4)), "rate"),
    "one rate": (lambda f: write_trainer(f, names=tuple(TRAINER_ROWS), change=at_rate(1e-3)), "one-rate"),
    "scale": (larger_alpha, "scale"),
    "one seed": (lambda folder: write_trainer(folder, seeds=(0,)), "seeds"),
    "unfinished": (trainer_with(lambda p: p["state"].update(global_step=60)), "unfinished"),
    "no number": (trainer_with(lambda p: p["state"]["log_history"].append({"loss": float("nan")})), "diverged"),
    "rising loss": (trainer_with(lambda p: p["state"]["log_history"].append({"loss": 9.0})), "diverged"),
    "test read": (trainer_with(read_test), "chosen-on-test"),
    "items": (trainer_with(lambda p: p["results"]["n-samples"]["arc"].update(effective=50)), "items"),
}


@pytest.mark.parametrize("fault", TRAINER_FAULTS)
def test_a_fault_in_runs_of_a_trainer_is_found(fault, reviewed, tmp_path):
    plant, expected = TRAINER_FAULTS[fault]
    plant(tmp_path / "outputs")
    code, faults, _ = reviewed(tmp_path / "outputs")
    assert code == 1
    assert expected in faults


TRAINER_CLEAN = (("lora", "dora"), ("lora", "ia3"), ("dora", "ia3"), tuple(TRAINER_ROWS), ("ia3", "lora"))


@pytest.mark.parametrize("number", range(5))
def test_clean_runs_of_a_trainer_raise_no_alarm(number, reviewed, tmp_path):
    folder = write_trainer(tmp_path / "outputs", TRAINER_CLEAN[number], seeds=range(3 + number))
    code, faults, found = reviewed(folder)
    assert (code, faults) == (0, []), found


# --- tables ---

CSV = """method,lr,tuned,seeds,epochs,GSM8K,GSM8K std,MMLU,MMLU std,average
LoRA,3e-4,validation,3,2,47.2,1.4,51.6,0.4,49.4
DoRA,5e-4,validation,3,2,48.0,1.3,51.4,0.4,49.7
(IA)3,3e-3,validation,3,2,44.1,1.4,50.2,0.4,47.2
"""
TEX = r"""
\begin{table}
\begin{tabular}{lcccc}
\toprule
Method & Seeds & LR & HumanEval ($n=164$) $\uparrow$ & MBPP ($n=500$) $\uparrow$ \\
\midrule
Full & 1 & 2e-5 & 31.1 $\pm$ 3.6 & 40.2 $\pm$ 2.2 \\
LoRA & 1 & 3e-4 & \textbf{33.5} $\pm$ 3.7 & \textbf{41.0} $\pm$ 2.2 \\
\bottomrule
\end{tabular}
\end{table}
"""
TEX = TEX.replace(" & 1 & ", " & 5 & ").replace("31.1", "31.0").replace("33.5", "33.4")


def table(text, suffix=".csv", **replaced):
    def plant(folder):
        folder.mkdir(exist_ok=True)
        changed = text
        for old, new in replaced.get("swap", ()):
            assert old in changed
            changed = changed.replace(old, new)
        path = folder / f"table{suffix}"
        path.write_text(changed)
        return path

    return plant


def swap(text, *pairs, suffix=".csv"):
    return table(text, suffix, swap=pairs)


TABLE_FAULTS = {
    "no such number": (swap(TEX, ("& 5 &", "& 1 &"), ("33.4", "33.3"), suffix=".tex"), "impossible"),
    "above all": (swap(CSV, ("48.0", "148.0")), "impossible"),
    "two units": (swap(CSV, (",48.0,", ",0.480,")), "units"),
    "average": (swap(CSV, ("49.7", "50.9")), "average"),
    "bold": (
        swap(TEX, (r"\textbf{33.4}", "33.4"), ("31.0", r"\textbf{31.0}"), suffix=".tex"),
        "bold",
    ),
    "error of one run": (swap(TEX, ("& 5 &", "& 1 &"), ("3.6", "0.6"), ("31.0", "31.1"), suffix=".tex"), "error"),
    "interval": (swap(CSV, ("GSM8K std", "x"), (",48.0,1.3", ",48.0 (48.9 to 51.0),")), "interval"),
    "the same twice": (swap(CSV, ("48.0,1.3,51.4", "47.2,1.3,51.6"), ("49.7", "49.4")), "identical"),
    "unequal seeds": (swap(CSV, ("5e-4,validation,3", "5e-4,validation,5")), "seeds"),
    "one seed": (swap(CSV, ("validation,3,", "validation,1,")), "seeds"),
    "epochs": (swap(CSV, ("5e-4,validation,3,2", "5e-4,validation,3,4")), "settings"),
    "no intervals": (lambda folder: _bare(folder), "no-interval"),
    "rate": (swap(CSV, ("3e-4,validation", "3e-1,"), (",validation", ",")), "rate"),
    "chosen on test": (
        swap(CSV, (",validation", ","), ("DoRA,5e-4", "LoRA,1e-3"), ("(IA)3,3e-3", "LoRA,1e-4")),
        "chosen-on-test",
    ),
    "zero": (swap(CSV, (",48.0,", ",0.0,"), ("49.7", "25.7")), "broken-run"),
}


def _bare(folder):
    folder.mkdir(exist_ok=True)
    path = folder / "table.csv"
    path.write_text("method,seeds,n,GSM8K\nLoRA,3,1319,47.2\nDoRA,3,1319,48.0\n")
    return path


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_fault_in_a_table_is_found(fault, reviewed, tmp_path):
    plant, expected = TABLE_FAULTS[fault]
    code, faults, _ = reviewed(plant(tmp_path))
    assert code == 1
    assert expected in faults


TABLE_CLEAN = [
    (CSV, ".csv", []),
    (CSV, ".csv", ["--items", "GSM8K=1319", "--items", "MMLU=14042"]),
    (CSV.replace(",", "\t"), ".tsv", []),
    (TEX, ".tex", []),
    ("Method,n,Seeds,Accuracy\nbase,1319,,41.2 [38.5; 43.9]\nLoRA,1319,4,\n", ".csv", []),
]
TABLE_CLEAN[4] = (
    "Method,n,Seeds,LR,Tuned,Accuracy\nLoRA,1319,4,3e-4,dev,0.472 (0.445 to 0.499)\n"
    "full,1319,4,2e-5,dev,0.466 (0.439 to 0.493)\n",
    ".csv",
    [],
)


@pytest.mark.parametrize("number", range(5))
def test_a_clean_table_raises_no_alarm(number, reviewed, tmp_path):
    text, suffix, words = TABLE_CLEAN[number]
    path = tmp_path / f"table{suffix}"
    path.write_text(text)
    code, faults, found = reviewed(path, *words)
    assert (code, faults) == (0, []), found


def test_the_faults_and_the_clean_folders_are_counted():
    assert len(OUR_FAULTS) + len(PEFT_FAULTS) + len(TRAINER_FAULTS) + len(TABLE_FAULTS) >= 40
    assert len(OUR_CLEAN) + len(PEFT_CLEAN) + len(TRAINER_CLEAN) + len(TABLE_CLEAN) == 20


# --- bounds ---


@pytest.mark.parametrize("items", [7, 12, 30])
def test_bounds_hold_over_every_pairing(items):
    drawn = random.Random(items)
    for _ in range(12):
        a, b = drawn.randint(0, items), drawn.randint(0, items)
        found = pairing_bounds(a, b, items)
        every = {}
        for both in range(max(0, a + b - items), min(a, b) + 1):
            ours, theirs = a - both, b - both
            total = ours + theirs
            every[total] = binomtest(min(ours, theirs), total).pvalue if total else 1.0
            assert mcnemar_p(ours, theirs) == pytest.approx(every[total])
        assert found.lowest == pytest.approx(min(every.values()))
        assert found.highest == pytest.approx(max(every.values()))
        reached = [total for total, p in every.items() if p <= 0.05]
        assert found.most_discordant == (max(reached) if reached else None)


def test_what_a_difference_can_mean_without_its_items():
    near = pairing_bounds(round(0.479 * ITEMS), round(0.468 * ITEMS), ITEMS)
    assert near.lowest < 0.05 < near.highest
    assert near.most_discordant / ITEMS < 0.05  # two runs that agree on fewer items are not told apart by this
    assert pairing_bounds(620, 615, ITEMS).most_discordant is None  # five items can never be significant
    assert pairing_bounds(900, 600, ITEMS).highest < 0.05


def test_a_cell_may_be_long_and_a_table_of_another_encoding_is_named(tmp_path, capsys):
    (tmp_path / "long.csv").write_text(f"method,notes,accuracy,n\nlora,{'a' * 200_000},50.0,100\n")
    assert main([str(tmp_path / "long.csv")]) in (0, 1)
    (tmp_path / "wide.csv").write_text("method,accuracy\nlora,50.0\n", encoding="utf-16")
    assert main([str(tmp_path / "wide.csv")]) == 2
    assert f"{tmp_path / 'wide.csv'}: not UTF-8" in capsys.readouterr().err


def test_a_share_of_an_item_is_no_impossible_score(reviewed, tmp_path):
    """MC2 of TruthfulQA is a mean of probabilities, which no number of right answers gives."""

    def change(name, parts):
        parts["results"]["results"]["arc"]["acc,none"] = 0.4523417
        parts["results"]["configs"] = {"arc": {"process_results": "def process_results_mc2(doc, results): ..."}}

    assert "impossible" not in reviewed(write_trainer(tmp_path / "outputs", change=change))[1]


@pytest.mark.parametrize("history", [5, [{"loss": None}], [{"loss": 1.0, "learning_rate": "x"}, 3]])
def test_a_history_without_numbers_is_no_traceback(history, reviewed, tmp_path):
    change = lambda name, parts: parts["state"].update(log_history=history)  # noqa: E731
    assert reviewed(write_trainer(tmp_path / "outputs", change=change))[0] in (0, 1)


def test_headings_of_several_lines_and_numbers_that_are_none(reviewed, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text('\ufefflr,method,"ARC\neasy",n\n1e-6,lora,47.2,1e400\nnan,dora,48.2,inf\n', encoding="utf-8")
    _, faults, document = reviewed(table, "--items", "ARC easy=1000")
    assert "rate" in faults
    assert any("ARC easy" in entry["text"] for entry in document["findings"])
    assert not any("nan" in entry["text"] for entry in document["findings"])


def test_what_is_nothing_to_review_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "nothing to review" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("method,lr\nlora,1\n")
    assert main([str(tmp_path / "a.csv")]) == 2
    assert "no column of it holds scores; its heading is method, lr" in capsys.readouterr().err
