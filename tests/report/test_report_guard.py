"""The guard: what refuses a table, what is let through and said, and which runs are kept apart."""

import dataclasses
import itertools
import json
import shutil

import pytest
from pyarrow import parquet

from harness.config.experiment import digest
from harness.records import record
from harness.report.__main__ import main
from harness.report.analysis.comparable import check, differences
from harness.report.analysis.facts import comparable_sets, effective_scale
from harness.report.data.groups import grouped
from harness.report.data.load import load
from tests.report.conftest import BASE, DORA, FULL, IA3, LOOKS, LORA, add_evaluation, add_run, build, evaluation

METHOD_AND_RATE = ("method", "train.lr")


def _runs(runs, kinds, looks=LOOKS, seed=0):
    for kind in kinds:
        folder = add_run(runs, kind, seed)
        for look in looks:
            add_evaluation(folder, kind, look, seed)


def _change(runs, method, recipe=None, attempt=None, seed=0):
    """Give the run of a method another recipe (with the identity that follows from it) or another attempt."""
    path = next(p for p in runs.glob(f"*/seed-{seed}/record.json") if json.loads(p.read_text())["method"] == method)
    run = record.read(record.RunRecord, path)
    settings = {**run.recipe, **(recipe(run.recipe) if recipe else {})}
    last = dataclasses.replace(run.current, **(attempt(run.current) if attempt else {}))
    changed = dataclasses.replace(run, recipe=settings, recipe_id=digest(settings), attempts=(last,))
    record.write(changed, path)
    folder = runs / changed.recipe_id / path.parent.name
    if folder != path.parent:
        folder.parent.mkdir(exist_ok=True)
        shutil.move(path.parent, folder)
        path.parent.parent.rmdir()
        for score in folder.glob("evaluations/*.json"):
            found = record.read(record.EvaluationRecord, score)
            record.write(dataclasses.replace(found, recipe_id=changed.recipe_id), score)
    return folder


def _train(**changes):
    return lambda recipe: {"train": {**recipe["train"], **changes}}


def _provenance(**changes):
    return lambda attempt: {"provenance": {**attempt.provenance, **changes}}


def _check(runs, declared=METHOD_AND_RATE, allowed=()):
    return check(grouped(load([runs]).rows), declared, allowed)


def _keys(found):
    return [one.key for one in found]


def test_methods_that_share_everything_pass(runs):
    _runs(runs, (BASE, LORA, IA3))
    guard = _check(runs)
    assert (guard.refused, guard.allowed, guard.remarks) == ((), (), ())
    assert _keys(guard.follows) == ["effective_scale"]  # 2 for LoRA, none for IA3: said, for the method was to vary
    assert str(guard.follows[0]) == "effective_scale: absent (ia3), 2 (lora)"


@pytest.mark.parametrize(
    ("key", "recipe", "attempt"),
    [
        ("train.weight_decay", _train(weight_decay=0.1), None),
        ("train.max_steps", _train(max_steps=90), None),
        ("train.lr_scheduler_type", _train(lr_scheduler_type="cosine"), None),
        ("train.loss_on", _train(loss_on="all"), None),
        ("train.max_length", _train(max_length=512), None),
        ("train.global_batch_size", _train(global_batch_size=16), None),
        ("train.precision", _train(precision="bf16"), None),
        ("data.content", lambda r: {"data": {**r["data"], "content": "66666666"}}, None),
        ("data.train", lambda r: {"data": {**r["data"], "train": [{"prompt": "{{ q }}"}]}}, None),
        ("model.content", lambda r: {"model": {**r["model"], "content": "77777777"}}, None),
        ("rows.content_sha256", None, lambda a: {"data": dataclasses.replace(a.data, content_sha256="6b" * 32)}),
        ("steps", None, lambda a: {"training": dataclasses.replace(a.training, losses=a.training.losses[:50])}),
        ("tokens.real", None, lambda a: {"training": dataclasses.replace(a.training, real_tokens=(215,) * 60)}),
        ("tokens.trained", None, lambda a: {"training": dataclasses.replace(a.training, trained_tokens=(9,) * 60)}),
        ("versions.torch", None, lambda a: {"provenance": {**a.provenance, "versions": {"torch": "2.9.0"}}}),
        ("device", None, _provenance(device="cuda")),
        ("device_name", None, _provenance(device_name="Another CPU")),
        ("num_processes", None, _provenance(num_processes=2)),
        ("num_nodes", None, _provenance(num_nodes=2)),
        ("sharding", None, _provenance(sharding="fsdp")),
    ],
)
def test_each_undeclared_difference_refuses_by_its_name(runs, key, recipe, attempt):
    _runs(runs, (BASE, LORA, IA3))
    _change(runs, "ia3", recipe, attempt)
    assert key in _keys(_check(runs).refused)
    guard = _check(runs, allowed=[key])
    assert key in _keys(guard.allowed)
    assert key not in _keys(guard.refused)


def test_a_method_that_replaces_code_of_the_libraries_differs_in_a_version_whatever_was_to_vary(runs):
    """The row of method=unsloth records unsloth's version: what is compared with it is another program as well."""
    _runs(runs, (BASE, LORA, IA3))
    _change(runs, "ia3", attempt=lambda a: {"provenance": _with_version(a.provenance, "unsloth", "2026.10.1")})
    guard = _check(runs)
    [confound] = [difference for difference in guard.refused if difference.key == "versions.unsloth"]
    assert str(confound) == "versions.unsloth: absent (base and lora), 2026.10.1 (ia3)"
    assert "versions.unsloth" in _keys(_check(runs, allowed=["versions.unsloth"]).allowed)


def _with_version(provenance, package, version):
    return {**provenance, "versions": {**provenance["versions"], package: version}}


def test_the_base_was_trained_by_no_process(runs):
    _runs(runs, (BASE, LORA, IA3))
    for name in ("lora", "ia3"):
        _change(runs, name, attempt=_provenance(num_processes=2))
    assert _check(runs).refused == ()


def test_master_weights_in_another_precision_are_said_beside_the_method(runs):
    _runs(runs, (BASE, LORA, IA3))
    half = {"layers.0.lora_A": ((16, 576), "bfloat16")}
    _change(runs, "ia3", attempt=lambda a: {"fingerprint": dataclasses.replace(a.fingerprint, trained=half)})
    assert "master_weights" in _keys(_check(runs).follows)
    assert "master_weights" in _keys(_check(runs, declared=["method.r", "method.target", "train.lr"]).refused)


def test_a_float32_copy_is_what_bfloat16_weights_are_held_in(runs):
    _runs(runs, (BASE, LORA, IA3))
    half = {"layers.0.lora_A": ((16, 576), "bfloat16")}
    with_copy = {"precision": "bf16_fp32_master"}
    _change(
        runs, "ia3", lambda r: {"method": {**r["method"], **with_copy}},
        lambda a: {"fingerprint": dataclasses.replace(a.fingerprint, trained=half)},
    )  # fmt: skip
    guard = _check(runs)
    assert "master_weights" not in _keys((*guard.follows, *guard.refused))


def test_a_key_that_one_side_does_not_have_is_a_difference(runs):
    _runs(runs, (BASE, LORA, IA3))
    _change(runs, "ia3", lambda r: {"train": {k: v for k, v in r["train"].items() if k != "weight_decay"}})
    found = [one for one in _check(runs).refused if one.key == "train.weight_decay"]
    assert str(found[0]) == "train.weight_decay: absent (ia3), 0 (lora)"


def test_what_was_declared_passes_with_what_follows_from_it(runs):
    _runs(runs, (BASE, LORA))
    longer = dataclasses.replace(LORA, lr=2e-4)
    _runs(runs, (longer,))
    every = record.find_runs(runs)
    path = next(p for p in every if (json.loads(p.read_text())["recipe"]["train"] or {}).get("lr") == 2e-4)
    run = record.read(record.RunRecord, path)
    train = {**run.recipe["train"], "max_steps": 30, "lr": 3e-4}
    training = dataclasses.replace(
        run.training,
        losses=run.training.losses[:30],
        real_tokens=(214,) * 30,
        trained_tokens=(32,) * 30,
    )
    attempt = dataclasses.replace(run.current, training=training)
    record.write(dataclasses.replace(run, recipe={**run.recipe, "train": train}, attempts=(attempt,)), path)
    guard = _check(runs, declared=["train.max_steps"])
    assert guard.refused == ()
    assert set(_keys(guard.follows)) == {"steps", "tokens.real", "tokens.trained"}
    assert set(_keys(_check(runs).refused)) == {"train.max_steps", "steps", "tokens.real", "tokens.trained"}
    assert _keys(_check(runs, declared=["train"]).refused) == []


def test_where_the_numbers_come_from_is_said_and_refuses_nothing(runs):
    _runs(runs, (BASE, LORA, IA3))
    _change(runs, "ia3", attempt=_provenance(commit="f" * 40, cpu_cores=8))
    guard = _check(runs)
    assert guard.refused == ()
    assert _keys(guard.remarks) == ["commit", "cpu_cores"]


def test_memory_that_a_table_writes_alike_is_no_difference_and_another_is_said_in_words(runs):
    """Two starts of one machine report sizes that differ by a megabyte."""
    _runs(runs, (BASE, LORA, IA3))
    for method, size in (("base", 25_276_510_208), ("lora", 25_276_510_208), ("ia3", 25_275_990_016)):
        _change(runs, method, attempt=_provenance(memory_bytes=size))
    sizes = itertools.cycle((25_276_510_208, 25_275_990_016))
    for path, size in zip(sorted(runs.glob("*/seed-0/evaluations/*.json")), sizes, strict=False):
        found = record.read(record.EvaluationRecord, path)
        provenance = {**found.provenance, "memory_bytes": size}
        record.write(dataclasses.replace(found, provenance=provenance), path)
    assert _check(runs).remarks == ()
    _change(runs, "ia3", attempt=_provenance(memory_bytes=8 * 2**30))
    assert _check(runs).notes({})[-1] == "main memory: 23.5 GiB (base and lora), 8.0 GiB (ia3)"


def test_provenance_of_training_is_compared_between_trained_rows(runs):
    """The base model has no optimizer, and a loss computed in another precision is a result."""
    _runs(runs, (BASE, LORA, IA3))
    for method in ("lora", "ia3"):
        _change(runs, method, attempt=_provenance(optimizer={"name": "AdamW", "eps": 1e-8}))
    for number, path in enumerate(sorted(runs.glob("*/seed-0/evaluations/*.json"))):
        found = record.read(record.EvaluationRecord, path)
        provenance = {**found.provenance, "loss_in_bf16": float(number)}
        record.write(dataclasses.replace(found, provenance=provenance), path)
    assert _keys(_check(runs).remarks) == []
    _change(runs, "ia3", attempt=_provenance(optimizer={"name": "SGD", "momentum": 0.9}))
    guard = _check(runs)
    assert guard.refused == ()
    assert _keys(guard.remarks) == ["optimizer.eps", "optimizer.momentum", "optimizer.name"]
    assert "Optimizer: SGD (ia3), AdamW (lora)" in guard.notes({})


def test_the_base_must_have_been_looked_at_on_the_same_machine(runs):
    _runs(runs, (BASE, LORA, IA3))
    _change(runs, "base", attempt=_provenance(device_name="Another CPU"))
    assert _keys(_check(runs).refused) == ["device_name"]


def test_seeds_of_one_row_are_compared_too(runs):
    _runs(runs, (BASE, LORA))
    _runs(runs, (LORA,), seed=1)
    _change(runs, "lora", attempt=_provenance(device_name="Another CPU"), seed=1)
    found = _check(runs).refused
    assert [str(one) for one in found if one.key == "device_name"] == [
        "device_name: Some CPU (base and lora seed 0), Another CPU (lora seed 1)"
    ]


def test_tasks_asked_in_another_way_refuse(runs):
    _runs(runs, (BASE, LORA, IA3))
    folder = next(p.parent for p in record.find_runs(runs) if json.loads(p.read_text())["method"] == "ia3")
    (folder / "evaluations" / f"{LOOKS[2].eval_id}.json").unlink()
    add_evaluation(folder, IA3, evaluation("arc_easy", limit=50))
    found = _check(runs).refused
    assert {str(one).split(":")[0] for one in found} == {
        "arc_easy eval.limit", "arc_easy eval.num_items", "arc_easy eval.items_and_prompts",
    }  # fmt: skip
    assert _check(runs, declared=[*METHOD_AND_RATE, "eval.limit"]).refused == ()


def test_other_prompts_under_one_name_refuse(runs):
    _runs(runs, (BASE, LORA, IA3))
    folder = next(p.parent for p in record.find_runs(runs) if json.loads(p.read_text())["method"] == "ia3")
    items = folder / "evaluations" / f"{LOOKS[2].eval_id}.parquet"
    table = parquet.read_table(items)
    parquet.write_table(table.set_column(1, "prompt_hash", [["other"] * table.num_rows]), items)
    assert _keys(_check(runs).refused) == ["eval.items_and_prompts"]


def test_the_command_refuses_with_one_message_and_a_way_out(runs, tmp_path, capsys):
    build(runs)
    _change(runs, "ia3", attempt=_provenance(device_name="Another CPU"))
    asked = [str(runs), "--sweep", "methods", "--out", str(tmp_path / "out"), "--terminal"]
    assert main(asked) == 3
    said = capsys.readouterr()
    assert "device_name: Some CPU (base, lora lr=3e-4 and dora), Another CPU (ia3)" in said.err
    assert "--allow device_name" in said.err
    assert "oom Full fine-tuning" in said.out
    assert not (tmp_path / "out").exists()
    assert main([*asked, "--allow", "device_name"]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Not declared, allowed: device: Some CPU" in text


def test_runs_of_no_sweep_are_parted_into_sets(runs, tmp_path, capsys):
    _runs(runs, (BASE, LORA, IA3))
    add_run(runs, FULL, 0, "oom", "too large")
    _runs(runs, (DORA,))
    _change(runs, "dora", _train(max_steps=90))
    sets = comparable_sets(load([runs]))
    assert [[row.method for row in one.rows] for one in sets] == [["base", "dora"], ["base", "full", "ia3", "lora"]]
    assert main([str(runs), "--reports-dir", str(tmp_path / "reports")]) == 0
    assert len(list(tmp_path.glob("reports/runs-*/report.md"))) == 2
    assert main([str(runs), "--out", str(tmp_path / "one")]) == 2
    assert "make 2 sets" in capsys.readouterr().err
    assert main([str(runs), "--out", str(tmp_path / "one"), "--allow", "train.max_steps,steps"]) == 0


def test_the_scale_of_a_low_rank_update():
    assert effective_scale({"r": 16, "lora_alpha": 32}) == 2
    assert effective_scale({"r": 64, "lora_alpha": 16, "use_rslora": True}) == 2
    assert effective_scale({"r": 256}) is None


def test_differences_name_every_value_and_its_rows():
    facts = {"a": {"x": "1", "y": "2"}, "b": {"x": "1"}, "c": {"x": "3", "y": "2"}}
    assert [str(one) for one in differences(facts)] == ["x: 1 (a and b), 3 (c)", "y: 2 (a and c), absent (b)"]
