"""The referee on further faults and further clean results, of the kinds that people publish."""

import dataclasses
import json
import shutil
from itertools import product

import pyarrow
import pytest
from conftest import BASE, add_evaluation, add_run, evaluation
from pyarrow import parquet
from test_review import (
    CSV,
    TEX,
    TRAINER_ROWS,
    TUNED_DORA,
    TUNED_IA3,
    TUNED_LORA,
    change_record,
    kinds,
    of_method,
    peft_with,
    records_with,
    swap,
    trainer_with,
    write_peft,
    write_records,
    write_trainer,
)
from test_review import (
    reviewed as reviewed,
)

from harness.review.__main__ import main


def other_shots(folder):
    write_records(folder, kinds=(TUNED_LORA,))
    look = evaluation("arc_easy", limit=300, num_fewshot=5)
    for seed in (0, 1, 2):
        add_evaluation(add_run(folder, TUNED_DORA, seed), TUNED_DORA, look, seed)


def failed_method(folder):
    write_records(folder)
    for file in of_method(folder, "dora").glob("*/record.json"):
        content = json.loads(file.read_text())
        content["attempts"][-1] |= {"status": "diverged", "reason": "loss is NaN at step 7"}
        file.write_text(json.dumps(content))


def one_lost_seed(folder):
    write_records(folder)
    file = of_method(folder, "dora") / "seed-2" / "record.json"
    content = json.loads(file.read_text())
    content["attempts"][-1] |= {"status": "failed", "reason": "killed by SIGKILL"}
    file.write_text(json.dumps(content))


def copied(folder):
    """The scores and items of one method in the place of another's."""
    write_records(folder, kinds=(TUNED_LORA, TUNED_DORA))
    for source in of_method(folder, "lora").glob("seed-0/evaluations/*.json"):
        target = of_method(folder, "dora") / "seed-0" / "evaluations" / source.name
        metrics = json.loads(source.read_text())["metrics"]
        target.write_text(json.dumps(json.loads(target.read_text()) | {"metrics": metrics}))
        shutil.copyfile(source.with_suffix(".parquet"), target.with_suffix(".parquet"))


RECORDS = {
    "one run as two methods": (copied, "identical"),
    "schedule": (records_with("recipe.train.lr_scheduler_type", "constant"), "settings"),
    "length": (records_with("recipe.train.max_length", 2048), "settings"),
    "few-shot examples": (other_shots, "settings"),
    "a method that diverged": (failed_method, "status"),
    "one seed was lost": (one_lost_seed, "status"),
    "rate of full fine-tuning": (
        kinds(TUNED_LORA, dataclasses.replace(TUNED_IA3, lr=3e-6)),
        "rate",
    ),
}


def losses_of(seed):
    return [{"step": step, "train loss": 1 / step + seed / 1000} for step in (250, 500)]


def seeds_without_effect(folder):
    def change(name, row):
        seed = 0 if name == "dora" else row["run_info"]["train_config"]["seed"]
        row["train_info"]["metrics"] = [*losses_of(seed), *row["train_info"]["metrics"]]

    write_peft(folder, change=change)


PEFT = {
    "schedule": (peft_with("run_info.train_config.lr_scheduler", "linear"), "settings"),
    "batch": (peft_with("run_info.train_config.batch_size", 8), "settings"),
    "more than all": (peft_with("train_info.metrics.0.test accuracy", 1.02), "impossible"),
    "seeds without effect": (seeds_without_effect, "seeds"),
    "out of memory": (peft_with("train_info.status", "cuda_oom"), "status"),
}


def shots(parts):
    parts["results"]["n-shot"] = {"arc": 5}
    parts["results"]["configs"]["arc"]["num_fewshot"] = 5


def repeated(folder):
    """Two seeds of a method with one curve: a run that was copied."""
    write_trainer(folder)
    first, second = (folder / f"dora-seed{seed}" / "checkpoint-100" / "trainer_state.json" for seed in (0, 1))
    second.write_text(first.read_text())


TRAINER = {
    "version of a task": (trainer_with(lambda p: p["results"]["versions"].update(arc=2)), "settings"),
    "few-shot examples": (trainer_with(shots), "settings"),
    "epochs": (trainer_with(lambda p: p["state"].update(num_train_epochs=4)), "settings"),
    "seeds without effect": (repeated, "seeds"),
    "a score of zero": (
        trainer_with(lambda p: p["results"]["results"]["arc"].update({"acc,none": 0.0, "acc_stderr,none": 0.0})),
        "broken-run",
    ),
}

MANY = """Method,n,Seeds,LR,Tuned,Accuracy
LoRA,1319,1,3e-4,dev,47.2 (44.5 to 49.9)
full,1319,1,2e-5,dev,46.6 (43.9 to 49.3)
"""
TABLES = {
    "chosen on the test": (swap(CSV, ("3e-4,validation", "3e-4,test")), "chosen-on-test"),
    "interval turned around": (swap(MANY, ("(44.5 to 49.9)", "(49.9 to 44.5)")), "interval"),
    "interval of no such number of items": (swap(MANY, ("(44.5 to 49.9)", "(47.0 to 47.4)")), "error"),
    "below nothing": (swap(CSV, ("48.0", "-4.0"), ("49.7", "23.7")), "impossible"),
    "other shots": (
        swap(CSV, ("seeds,epochs", "seeds,shots"), ("5e-4,validation,3,2", "5e-4,validation,3,5")),
        "settings",
    ),
    "spread of one seed": (swap(CSV, ("3e-4,validation,3", "3e-4,validation,1")), "seeds"),
    "one row twice": (swap(CSV, ("DoRA,5e-4", "LoRA,3e-4")), "twice"),
    "items of one row": (
        swap("method,tuned,seeds,n,lr,acc,acc se\nlora,dev,2,200,3e-4,50.0,3.5\ndora,dev,2,100,5e-4,52.0,5.0\n"),
        "items",
    ),
    "bold that is not the best of a CSV's TeX": (
        swap(TEX, (r"\textbf{41.0}", r"\mathbf{41.0}"), ("40.2", "43.2"), suffix=".tex"),
        "bold",
    ),
}

FAULTS = [
    (kind, fault) for kind, faults in (("records", RECORDS), ("peft", PEFT), ("trainer", TRAINER)) for fault in faults
]
OF = {"records": RECORDS, "peft": PEFT, "trainer": TRAINER}


@pytest.mark.parametrize(("kind", "fault"), FAULTS, ids=" ".join)
def test_a_fault_in_a_folder_is_found(kind, fault, reviewed, tmp_path):
    plant, expected = OF[kind][fault]
    plant(tmp_path / "results")
    code, faults, found = reviewed(tmp_path / "results")
    assert code == 1
    assert expected in faults, found


@pytest.mark.parametrize("fault", TABLES)
def test_a_fault_in_a_table_is_found(fault, reviewed, tmp_path):
    plant, expected = TABLES[fault]
    code, faults, found = reviewed(plant(tmp_path))
    assert code == 1
    assert expected in faults, found


def test_there_are_fifteen_and_more():
    assert len(FAULTS) + len(TABLES) >= 25


# --- clean ---


def warmed_up(folder):
    """A rate that rises first, a best checkpoint by validation loss, and an older checkpoint beside the last one."""

    def change(name, parts):
        history = parts["state"]["log_history"]
        rate = TRAINER_ROWS[name][1]
        for entry in history:
            if "learning_rate" in entry:
                step = entry["step"]
                entry["learning_rate"] = rate * step / 20 if step < 20 else rate * (1 - step / 100) / 0.8
        parts["state"]["best_model_checkpoint"] = "checkpoint-100"
        parts["state"]["best_metric"] = 1.2

    write_trainer(folder, change=change)
    for run in sorted(folder.iterdir()):
        (run / "checkpoint-50").mkdir()
        state = json.loads((run / "checkpoint-100" / "trainer_state.json").read_text())
        state |= {"global_step": 50, "log_history": state["log_history"][:5]}
        (run / "checkpoint-50" / "trainer_state.json").write_text(json.dumps(state))


def two_tasks(folder):
    for kind, seed in [(BASE, 0), *product((TUNED_LORA, TUNED_DORA), (0, 1, 2))]:
        run = add_run(folder, kind, seed)
        for task, limit in (("arc_easy", 300), ("hellaswag", 200)):
            add_evaluation(run, kind, evaluation(task, limit=limit), seed)


def equal_scores(folder):
    """Two methods with the same scores, right on other items."""
    two_tasks(folder)
    for source in of_method(folder, "lora").glob("seed-*/evaluations/*.json"):
        target = of_method(folder, "dora") / source.parents[1].name / "evaluations" / source.name
        metrics = json.loads(source.read_text())["metrics"]
        target.write_text(json.dumps(json.loads(target.read_text()) | {"metrics": metrics}))
        table = parquet.read_table(source.with_suffix(".parquet")).to_pydict()
        turned = {name: values[::-1] if name.startswith("metric/") else values for name, values in table.items()}
        parquet.write_table(pyarrow.table(turned), target.with_suffix(".parquet"))


def declared_repeats(folder):
    """Another machine with the same packages is no difference beside the method."""
    write_records(folder, kinds=(TUNED_LORA, TUNED_IA3), seeds=range(4))
    change_record(of_method(folder, "lora"), "config.runs_dir", "/elsewhere")


def rslora_tuned(folder):
    def change(name, row):
        if name == "dora":
            row["run_info"]["peft_config"] = {"peft_type": "LORA", "use_rslora": True, "r": 64, "lora_alpha": 64}
            row["run_info"]["train_config"]["optimizer_kwargs"]["lr"] = 5e-5

    write_peft(folder, names=("lora", "dora"), change=change)


CLEAN_FOLDERS = {
    "warm-up and checkpoints": warmed_up,
    "two tasks": two_tasks,
    "equal scores on other items": equal_scores,
    "another folder": declared_repeats,
    "rsLoRA at a rate of its own": rslora_tuned,
}
CLEAN_TABLES = {
    "costs beside scores": (
        "method,lr,tuned,seeds,params (M),memory GiB,train time (h),GSM8K,GSM8K std\n"
        "LoRA,3e-4,dev,3,41.9,20.8,0.6,47.2,1.4\nDoRA,5e-4,dev,3,43.3,22.9,0.7,48.0,1.3\n",
        ".csv",
    ),
    "scores that are no shares": (
        "method,lr,tuned,seeds,n,ROUGE-L,ROUGE-L std,BLEU,BLEU std,MT-Bench,MT-Bench std\n"
        "LoRA,3e-4,dev,3,80,41.37,0.31,17.21,0.22,6.32,0.05\nDoRA,5e-4,dev,3,80,41.42,0.29,17.33,0.25,6.41,0.07\n",
        ".csv",
    ),
    "the base and signs of percent": (
        "Method,Seeds,LR,Tuned,n,Accuracy\nBase model,,,,1319,41.2% (38.5 to 43.9)\n"
        "LoRA,4,3e-4,dev,1319,47.2% (45.4 to 49.0)\nDoRA,4,5e-4,dev,1319,47.9% (46.1 to 49.7)\n",
        ".csv",
    ),
    "missing cells and subscripts": (
        r"""\begin{tabular}{l c c S[table-format=2.1] c}
\toprule
\multicolumn{1}{l}{Method} & Seeds & Learning rate & MMLU & GSM8K ($n = 1{,}319$) \\
\cmidrule(lr){4-5}
LoRA ($r=16$) & 3 & 3e-4 & $51.6_{\pm 0.4}$ & \underline{47.2} $\pm$ 1.4 \\
DoRA ($r=16$) & 3 & 5e-4 & --- & \textbf{48.0} $\pm$ 1.3 \\
\bottomrule
\end{tabular}
""",
        ".tex",
    ),
    "thousands and headings with n": (
        'method,lr,tuned,seeds,"GSM8K (n = 1,319)","MMLU (n = 14,042)"\n'
        "LoRA,3e-4,validation,2,47.2 +- 1.4,51.6 +- 0.4\nIA3,3e-3,validation,2,44.1 +- 1.4,50.2 +- 0.4\n",
        ".csv",
    ),
}


@pytest.mark.parametrize("name", CLEAN_FOLDERS)
def test_a_clean_folder_raises_no_alarm(name, reviewed, tmp_path):
    CLEAN_FOLDERS[name](tmp_path / "results")
    code, faults, found = reviewed(tmp_path / "results")
    assert (code, faults) == (0, []), found


@pytest.mark.parametrize("name", CLEAN_TABLES)
def test_a_clean_table_raises_no_alarm(name, reviewed, tmp_path):
    text, suffix = CLEAN_TABLES[name]
    path = tmp_path / f"table{suffix}"
    path.write_text(text)
    code, faults, found = reviewed(path)
    assert (code, faults) == (0, []), found


def test_there_are_eight_and_more():
    assert len(CLEAN_FOLDERS) + len(CLEAN_TABLES) >= 9


BLOCKS = r"""\begin{tabular}{@{}l l cc@{}}
\toprule
& & \multicolumn{2}{c}{Accuracy ($n=500$)} \\
\cmidrule(l){3-4}
Method & Seeds & GSM8K & MATH \\
\midrule
\multicolumn{4}{l}{\textit{Llama-3.2-1B}} \\
\multirow{1}{*}{LoRA} & 3 & 40.0 $\pm$ 2.2 & \textbf{20.4} $\pm$ 1.8 \\
DoRA & 3 & \textbf{41.0} $\pm$ 2.2 & 20.2 $\pm$ 1.8 \\
\midrule
\multicolumn{4}{l}{\textit{Llama-3.2-3B}} \\
LoRA & 3 & 61.4 $\pm$ 2.2 & 33.0 $\pm$ 2.1 \\
DoRA & 3 & \textbf{62.0} $\pm$ 2.2 & \textbf{34.0} $\pm$ 2.1 \\
\bottomrule
\end{tabular}
"""
COLUMN = (
    "model,method,lr,tuned,seeds,acc,acc std\nllama,LoRA,3e-4,dev,3,40.0,0.4\nllama,DoRA,5e-4,dev,3,41.0,0.5\n"
    "qwen,LoRA,3e-4,dev,3,61.4,0.3\nqwen,DoRA,5e-4,dev,3,62.0,0.4\n"
)


@pytest.mark.parametrize(
    ("text", "suffix", "names"),
    [(BLOCKS, ".tex", ("Llama-3.2-1B", "Llama-3.2-3B")), (COLUMN, ".csv", ("llama", "qwen"))],
)
def test_rows_are_compared_within_their_base_model(text, suffix, names, tmp_path, capsys):
    path = tmp_path / f"table{suffix}"
    path.write_text(text)
    code = main([str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["what"] for one in found] == [f"{path} ({name})" for name in names]
    assert [one["rows"] for one in found] == [["LoRA", "DoRA"]] * 2
    assert (code, [f for one in found for f in one["findings"] if f["severity"] == "fault"]) == (0, [])


def test_methods_on_different_bases_are_no_two_tables(reviewed, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("base,method,seeds,acc,acc std\nllama,LoRA,3,40.0,0.4\nqwen,DoRA,3,41.0,0.5\n")
    code, faults, found = reviewed(path)
    assert (code, "settings" in faults) == (1, True), found
