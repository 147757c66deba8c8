"""Confounds planted in records, one at a time: each is refused, shown or named, and nothing is said where none is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from harness.records import record
from harness.records.identity import digest
from harness.report.analysis import remarks
from harness.report.analysis.comparable import check
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from tests.report.conftest import BASE, IA3, LOOKS, LORA, add_evaluation, add_run

SEEDS = (0, 1)
REFUSED, SHOWN, NAMED = "refused", "shown", "named"
Change = Callable[[dict], None]


def build(runs: Path) -> None:
    """The base, and two methods with two seeds each."""
    for kind in (BASE, LORA, IA3):
        for seed in SEEDS if kind is not BASE else (0,):
            folder = add_run(runs, kind, seed)
            for look in LOOKS:
                add_evaluation(folder, kind, look, seed)


def run_of(runs: Path, method: str, seed: int = 0) -> Path:
    paths = runs.glob(f"*/seed-{seed}/record.json")
    return next(path for path in paths if json.loads(path.read_text())["method"] == method).parent


def change_run(runs: Path, method: str, change: Change, seeds=SEEDS) -> None:
    """Rewrite records, and move them to where their recipe belongs."""
    for seed in seeds:
        folder = run_of(runs, method, seed)
        found = json.loads((folder / "record.json").read_text())
        change(found)
        moved = runs / digest(found["recipe"]) / folder.name
        found["recipe_id"] = moved.parent.name
        record.write_text(json.dumps(found), folder / "record.json")
        if moved != folder:
            moved.parent.mkdir(exist_ok=True)
            shutil.move(folder, moved)
            for path in moved.glob("evaluations/*.json"):
                rewrite(path, put("recipe_id", value=moved.parent.name))


def change_look(runs: Path, method: str, task: str, change: Change, seeds=SEEDS) -> None:
    for seed in seeds:
        for path in (run_of(runs, method, seed) / "evaluations").glob("*.json"):
            if json.loads(path.read_text())["evaluation"]["task"].endswith(task):
                rewrite(path, change)


def rewrite(path: Path, change: Change) -> None:
    found = json.loads(path.read_text())
    change(found)
    record.write_text(json.dumps(found), path)


def put(*place, value) -> Change:
    """Set a value at a place; the place begins at the record, and `attempt` is the last one."""

    def change(found: dict) -> None:
        node = found
        for key in place[:-1]:
            node = node["attempts"][-1] if key == "attempt" else node[key]
        node[place[-1]] = value

    return change


def recipe(*place, value):
    return lambda runs: change_run(runs, "ia3", put("recipe", *place, value=value))


def attempt(*place, value, method="ia3", seeds=SEEDS):
    return lambda runs: change_run(runs, method, put("attempt", *place, value=value), seeds)


def config(*place, value):
    def change(found: dict) -> None:
        found["config"].setdefault(place[0], {})
        put("config", *place, value=value)(found)

    def other(found: dict) -> None:
        found["config"].setdefault(place[0], {})
        put("config", *place, value="as everybody")(found)

    def plant(runs: Path) -> None:
        change_run(runs, "lora", other)
        change_run(runs, "ia3", change)

    return plant


def looked(*place, value, task="arc_easy", method="ia3"):
    seeds = (0,) if method == "base" else SEEDS
    return lambda runs: change_look(runs, method, task, put(*place, value=value), seeds)


def training(name, of):
    """Change a tuple of the training: `of` makes it from the old one."""

    def change(found: dict) -> None:
        training = found["attempts"][-1]["training"]
        training[name] = of(training[name])

    return lambda runs: change_run(runs, "ia3", change)


def items(column, of, task="arc_easy", method="ia3"):
    """Change a column of the items."""

    def plant(runs: Path) -> None:
        for seed in (0,) if method == "base" else SEEDS:
            for path in (run_of(runs, method, seed) / "evaluations").glob("*.json"):
                if json.loads(path.read_text())["evaluation"]["task"].endswith(task):
                    table = parquet.read_table(path.with_suffix(".parquet")).to_pydict()
                    table[column] = of(table[column])
                    write_items(path, table)

    return plant


def write_items(path: Path, table: dict) -> None:
    import pyarrow

    parquet.write_table(pyarrow.table(table), path.with_suffix(".parquet"))


def versions(**changed):
    return {"peft": "0.19.0", "torch": "2.8.0", "transformers": "5.17.0", **changed}


def without_seed(method, seed):
    return lambda runs: shutil.rmtree(run_of(runs, method, seed))


def single_different_seeds(runs: Path) -> None:
    without_seed("lora", 0)(runs)
    without_seed("ia3", 1)(runs)


def diverged(runs: Path) -> None:
    def change(found: dict) -> None:
        found["attempts"][-1] |= {"status": "diverged", "reason": "no number", "training": None}

    change_run(runs, "ia3", change, (1,))


def attempts(count):
    def change(found: dict) -> None:
        last = found["attempts"][-1]
        earlier = [{**last, "started_at": f"2025-11-2{i}", "weights_from": f"2025-11-2{i}"} for i in range(count - 1)]
        found["attempts"] = [*earlier, last]

    return lambda runs: change_run(runs, "ia3", change, (0,))


def earlier(count):
    """The folders that `force=true` leaves, each with a score of the test."""

    def plant(runs: Path) -> None:
        folder = run_of(runs, "ia3")
        for number in range(1, count + 1):
            shutil.copytree(folder / "evaluations", folder / "earlier" / str(number))

    return plant


def copied_evaluation(runs: Path) -> None:
    """IA3's score is LoRA's: the file was copied."""
    source = run_of(runs, "lora") / "evaluations"
    for path in source.glob("*"):
        if json.loads((source / f"{path.stem}.json").read_text())["evaluation"]["task"] == "arc_easy":
            shutil.copy(path, run_of(runs, "ia3") / "evaluations" / path.name)


def edited_recipe(runs: Path) -> None:
    for seed in SEEDS:
        rewrite(run_of(runs, "ia3", seed) / "record.json", put("recipe", "method", "target", value="mlp"))


def renamed_evaluation(runs: Path) -> None:
    for seed in SEEDS:
        folder = run_of(runs, "ia3", seed) / "evaluations"
        path = folder / f"{LOOKS[2].eval_id}.json"
        rewrite(path, lambda found: found.update(eval_id="ffffffff"))


HALF = lambda values: values[: len(values) // 2]  # noqa: E731
# what is planted -> what becomes of it, and the key or the words that it is known by
PLANTS = {
    # the recipe
    "other weight decay": (recipe("train", "weight_decay", value=0.1), REFUSED, "train.weight_decay"),
    "other steps": (recipe("train", "max_steps", value=90), REFUSED, "train.max_steps"),
    "other epochs": (recipe("train", "epochs", value=2), REFUSED, "train.epochs"),
    "other batch": (recipe("train", "global_batch_size", value=16), REFUSED, "train.global_batch_size"),
    "other micro batch": (recipe("train", "micro_batch_size", value=4), REFUSED, "train.micro_batch_size"),
    "other length": (recipe("train", "max_length", value=512), REFUSED, "train.max_length"),
    "other schedule": (recipe("train", "lr_scheduler_type", value="cosine"), REFUSED, "train.lr_scheduler_type"),
    "other warm-up": (recipe("train", "warmup_steps", value=0.5), REFUSED, "train.warmup_steps"),
    "other clipping": (recipe("train", "max_grad_norm", value=0.1), REFUSED, "train.max_grad_norm"),
    "other precision": (recipe("train", "precision", value="bf16"), REFUSED, "train.precision"),
    "checkpointing": (recipe("train", "gradient_checkpointing", value=True), REFUSED, "train.gradient_checkpointing"),
    "loss on prompts": (recipe("train", "loss_on", value="all"), REFUSED, "train.loss_on"),
    "batches of like length": (recipe("train", "group_by_length", value=False), REFUSED, "train.group_by_length"),
    "other kernels": (recipe("train", "kernels", value={"liger": True}), REFUSED, "train.kernels.liger"),
    "packed rows": (recipe("train", "packing", value=True), REFUSED, "train.packing"),
    "early stopping": (
        recipe("train", "early_stopping", value={"patience": 3}), REFUSED, "train.early_stopping.patience",
    ),
    "an optimizer nobody thought of": (recipe("train", "optimizer", value="lion"), REFUSED, "train.optimizer"),
    "a part of the recipe nobody thought of": (recipe("reward", value={"model": "x"}), REFUSED, "reward.model"),
    "other data": (recipe("data", "content", value="66666666"), REFUSED, "data.content"),
    "fewer rows": (recipe("data", "max_rows", value=100), REFUSED, "data.max_rows"),
    "other split": (recipe("data", "validation_fraction", value=0.2), REFUSED, "data.validation_fraction"),
    "other prompts in training": (recipe("data", "train", value=[{"prompt": "{{q}}"}]), REFUSED, "data.train"),
    "duplicates kept": (recipe("data", "on_duplicate", value="keep"), REFUSED, "data.on_duplicate"),
    "other model": (recipe("model", "content", value="77777777"), REFUSED, "model.content"),
    "random weights": (recipe("model", "weights", value="random"), REFUSED, "model.weights"),
    # beside the recipe
    "a kinder rule of divergence": (config("train", "divergence_factor", value=30.0), REFUSED,
    "train.divergence_factor"),
    "patience with divergence": (config("train", "divergence_steps", value=90), REFUSED, "train.divergence_steps"),
    "another fallback": (config("train", "oom", value="none"), SHOWN, "train.oom"),
    "a setting of tomorrow": (config("train", "loader", value="other"), SHOWN, "train.loader"),
    # the machine and the program
    "other transformers": (attempt("provenance", "versions", value=versions(transformers="5.18")), REFUSED,
                           "versions.transformers"),
    "other torch": (attempt("provenance", "versions", value=versions(torch="2.9")), REFUSED, "versions.torch"),
    "a library more": (attempt("provenance", "versions", value=versions(liger="0.8")), REFUSED, "versions.liger"),
    "other device": (attempt("provenance", "device", value="cuda"), REFUSED, "device"),
    "other card": (attempt("provenance", "device_name", value="H200"), REFUSED, "device_name"),
    "other CUDA": (attempt("provenance", "cuda", value="13.0"), REFUSED, "cuda"),
    "other program": (attempt("provenance", "harness", value="0.2.0"), REFUSED, "harness"),
    "two processes": (attempt("provenance", "num_processes", value=2), REFUSED, "num_processes"),
    "two nodes": (attempt("provenance", "num_nodes", value=2), REFUSED, "num_nodes"),
    "sharded": (attempt("provenance", "sharding", value="fsdp"), REFUSED, "sharding"),
    "one seed on another machine": (attempt("provenance", "device_name", value="Other", seeds=(1,)), REFUSED,
                                    "device_name"),
    "the base on another machine": (attempt("provenance", "device_name", value="Other", method="base", seeds=(0,)),
                                    REFUSED, "device_name"),
    "other commit": (attempt("provenance", "commit", value="f" * 40), SHOWN, "commit"),
    "uncommitted changes": (attempt("provenance", "uncommitted_changes", value=True), SHOWN, "uncommitted_changes"),
    "other threads": (attempt("provenance", "threads", value=8), SHOWN, "threads"),
    # the course of the training
    "half the steps": (training("losses", HALF), REFUSED, "steps"),
    "fewer tokens": (training("real_tokens", lambda _: [200] * 60), REFUSED, "tokens.real"),
    "fewer trained tokens": (training("trained_tokens", lambda _: [9] * 60), REFUSED, "tokens.trained"),
    "rows seen": (training("sequences", lambda _: [8] * 59 + [4]), REFUSED, "tokens.rows_seen"),
    "a schedule that was not asked for": (training("learning_rates", lambda rates: [*rates[:-10], *[0.0] * 10]),
                                          REFUSED, "schedule_taken"),
    "a rate that was not asked for": (training("learning_rates", lambda rates: [10 * rate for rate in rates]), SHOWN,
                                      "rate_used_over_asked"),
    "weights of an earlier step": (training("kept_step", lambda _: 20), SHOWN, "kept_step"),
    "stopped early, unasked": (training("stopped_early_at", lambda _: 40), SHOWN, "stopped_early_at"),
    "rows that were trained on": (attempt("data", "content_sha256", value="6b" * 32), REFUSED, "rows.content_sha256"),
    "rows that were left out": (attempt("data", "removed_in_test", value=0), REFUSED, "rows.removed_in_test"),
    "rows of validation": (attempt("data", "validation_rows", value=99), REFUSED, "rows.validation_rows"),
    "another data check": (attempt("data", "check", value="c0ffee00"), SHOWN, "rows.check"),
    "other parameters than the formula's": (attempt("fingerprint", "expected_trainable_parameters", value=7), NAMED,
                                            "where the method's formula gives 7"),
    "resumed": (attempt("resumed_at_step", value=30, seeds=(0,)), NAMED,
                "resumed from a checkpoint at step 30: (IA)\u00b3 seed 0"),
    # the evaluation
    "evaluated with other transformers": (looked("provenance", "versions", value=versions(transformers="5.18")),
                                          REFUSED, "versions.transformers"),
    "evaluated on another card": (looked("provenance", "device_name", value="H200"), REFUSED, "device_name"),
    "validated on another card": (looked("provenance", "device_name", value="H200", task="validation"), REFUSED,
                                  "device_name"),
    "the base evaluated on another card": (looked("provenance", "device_name", value="H200", method="base"), REFUSED,
                                           "device_name"),
    "the base evaluated with another lm-eval": (looked("provenance", "lm_eval", value="0.4.9", method="base"), REFUSED,
                                                "eval.lm_eval"),
    "another task file": (looked("provenance", "task_config_sha256", value="ab"), REFUSED, "eval.task_config_sha256"),
    "another few-shot seed": (looked("provenance", "fewshot_seed", value=7), REFUSED, "eval.fewshot_seed"),
    "code run by another program": (looked("provenance", "code_run_by", value="x"), REFUSED, "eval.code_run_by"),
    "another commit at the evaluation": (looked("provenance", "commit", value="e" * 40), SHOWN, "commit"),
    "other few-shot examples": (looked("num_fewshot", value=5), REFUSED, "eval.num_fewshot"),
    "another backend": (looked("evaluation", "backend", value="hf"), REFUSED, "eval.backend"),
    "another precision of the evaluation": (looked("evaluation", "precision", value="bf16"), SHOWN, "not evaluated"),
    "a chat template": (looked("evaluation", "chat_template", value=True), REFUSED, "eval.chat_template"),
    "another batch": (looked("evaluation", "batch_size", value=1), SHOWN, "not evaluated"),
    "another role": (looked("evaluation", "role", value="retention"), REFUSED, "eval.role"),
    "another definition": (looked("evaluation", "definition", value="own"), REFUSED, "eval.definition"),
    "another limit": (looked("evaluation", "limit", value=50), REFUSED, "eval.limit"),
    "sampled text": (looked("evaluation", "sampling", value={"temperature": 1.0}), REFUSED,
                     "eval.sampling.temperature"),
    "merged weights": (looked("evaluation", "weights", value="merged"), SHOWN, "not evaluated"),
    "other prompts": (items("prompt_hash", lambda hashes: ["other"] * len(hashes)), REFUSED, "eval.items_and_prompts"),
    "other items": (items("item_id", lambda ids: [f"x{one}" for one in ids]), REFUSED, "eval.items_and_prompts"),
    "the base's prompts": (items("prompt_hash", lambda hashes: ["other"] * len(hashes), method="base"), REFUSED,
                           "eval.items_and_prompts"),
    "other answer tokens": (looked("num_tokens", value=3, task="test"), REFUSED, "eval.num_tokens"),
    "a metric that is better low": (looked("metrics", "acc", "higher_is_better", value=False), REFUSED,
                                    "eval.lower_is_better"),
    "another chance": (looked("metrics", "acc", "chance", value=0.5), REFUSED, "eval.chance.acc"),
    "a score that its items do not give": (looked("metrics", "acc", "value", value=0.9), NAMED, "the record says 0.9"),
    "a loss that its items do not give": (looked("metrics", "loss", "value", value=0.1, task="test"), NAMED,
                                          "the record says 0.1"),
    "items that do not give the score": (items("metric/acc", lambda values: [1.0] * len(values)), NAMED,
                                         "its items give 1"),
    "the base's score": (looked("metrics", "acc", "value", value=0.1, method="base"), NAMED, "the record says 0.1"),
    # seeds and repeats
    "two different single seeds": (single_different_seeds, REFUSED, "seed"),
    "a seed less": (without_seed("ia3", 1), SHOWN, "seeds"),
    "a seed that diverged": (diverged, NAMED, "1 of 2 seeds (50 %, 95 % interval 9 to 91 %) diverged"),
    "trained five times": (attempts(5), NAMED, "trained 5 times, and the last result is shown: (IA)\u00b3 seed 0"),
    "tested four times": (earlier(3), NAMED, "evaluated on the test sets 4 times"),
    "a score copied from another run": (copied_evaluation, NAMED, "left out"),
    "a recipe that was edited": (edited_recipe, NAMED, "the recipe in the record is not the one"),
    "an evaluation under another name": (renamed_evaluation, NAMED, "is the evaluation ffffffff"),
}  # fmt: skip
FEWEST = 60


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    runs = tmp_path_factory.mktemp("clean") / "runs"
    build(runs)
    return runs


def found_in(runs: Path) -> dict[str, list[str]]:
    """What the guard, the remarks and the loading say."""
    loaded = load([runs])
    guard = check(Comparison(loaded).groups, None)
    return {
        REFUSED: [one.key for one in guard.refused],
        SHOWN: [one.key for one in guard.remarks],
        NAMED: [*remarks.lines(Comparison(loaded).groups, loaded), *loaded.unreadable],
    }


def test_nothing_is_said_where_nothing_was_planted(clean):
    assert found_in(clean) == {REFUSED: [], SHOWN: [], NAMED: []}


def test_so_many_confounds_are_planted():
    assert len(PLANTS) >= FEWEST
    assert {fate for _, fate, _ in PLANTS.values()} == {REFUSED, SHOWN, NAMED}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_confound_is_refused_shown_or_named(clean, tmp_path, name):
    plant, fate, words = PLANTS[name]
    runs = tmp_path / "runs"
    shutil.copytree(clean, runs)
    plant(runs)
    found = found_in(runs)
    said = found[fate]
    assert words in said if fate != NAMED else any(words in line for line in said), found


def test_seeds_that_a_sweep_leaves_out_are_named(clean, tmp_path):
    """Cherry-picked: two seeds of each were run, and the sweep shows the first."""
    runs = tmp_path / "runs"
    shutil.copytree(clean, runs)
    looks = tuple(look.eval_id for look in LOOKS)
    cells = [
        record.Cell(
            overrides=(f"method={method}", "seed=0"), method=method, recipe_id=run_of(runs, method).parent.name, seed=0,
            eval_ids=looks,
        )
        for method in ("base", "lora", "ia3")
    ]  # fmt: skip
    sweep = record.SweepRecord(
        schema=record.SCHEMA, name="picked", question="Which is best?", command="python -m harness -m",
        cells=tuple(cells), already_done=(),
    )  # fmt: skip
    record.write(sweep, runs / "sweeps" / "picked" / "sweep.json")
    loaded = load([runs], "picked")
    assert remarks.lines(Comparison(loaded).groups, loaded) == [
        f"{method}: further seeds lie in the runs folder and are not part of this sweep: 1 (ok)"
        for method in ("LoRA", "(IA)\u00b3")
    ]


@pytest.mark.parametrize(("both", "passes"), [(True, True), (False, False)])
def test_one_rule_of_early_stopping_may_end_methods_at_different_steps(clean, tmp_path, both, passes):
    runs = tmp_path / "runs"
    shutil.copytree(clean, runs)

    def stopped(found: dict) -> None:
        found["recipe"]["train"]["early_stopping"] = {"patience": 3}
        training = found["attempts"][-1]["training"]
        for column in ("losses", "learning_rates", "real_tokens", "trained_tokens", "step_seconds"):
            training[column] = training[column][:40]
        training["stopped_early_at"] = 40

    change_run(runs, "ia3", stopped)
    if both:
        change_run(runs, "lora", put("recipe", "train", "early_stopping", value={"patience": 3}))
    refused = check(Comparison(load([runs])).groups, None).refused
    assert (not refused) is passes, refused
