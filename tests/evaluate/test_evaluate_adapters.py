"""Adapters that plain PEFT saved: recognized, scored on one base that stays in memory, and compared by one command."""

import json
import shutil

import pytest
from pyarrow import parquet

from harness.evaluate import __main__ as command
from harness.records import record
from harness.records.record import RunRecord
from harness.run import adapters_asked, foreign
from tests.bench.adapters import TASK

ITEMS = 40
KINDS = ("lora", "dora", "pissa", "ia3", "prompt", "prefix", "vera")


def config_of(kind):
    import peft

    lora = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 8}
    return {
        "lora": lambda: peft.LoraConfig(**lora),
        "dora": lambda: peft.LoraConfig(**lora, use_dora=True),
        "pissa": lambda: peft.LoraConfig(**lora, init_lora_weights="pissa"),
        "ia3": lambda: peft.IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "vera": lambda: peft.VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=8),
    }[kind]()


def save_adapter(kind, base, folder, seed=0):
    """What plain PEFT writes, with weights that are none of its initial ones."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config_of(kind))
    trained = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
                trained += parameter.numel()
    model.save_pretrained(folder)
    return trained


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory):
    """Kind -> (folder, number of trained parameters); two seeds of the first."""
    folder = tmp_path_factory.mktemp("adapters")
    found = {kind: (folder / kind, save_adapter(kind, tiny_model, folder / kind)) for kind in KINDS}
    for seed in (1, 2):
        save_adapter("lora", tiny_model, folder / f"other-seed{seed}", seed)
    return found


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with a task of its own."""
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"question": f"Say {chr(97 + i % 26)}{i}:", "choices": ["a b", "c", "dd"], "answer": i % 3}
        for i in range(ITEMS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "letters.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return folder


@pytest.fixture
def scored(task, tmp_path):
    def run(*words, runs="runs"):
        own = ["--tasks", "letters", f"eval.include_path={task}", "eval=standard"]
        place = ["--runs-dir", str(tmp_path / runs), "--reports-dir", str(tmp_path / "reports")]
        code = command.main([*map(str, words), *own, *place])
        return code, tmp_path / runs

    return run


def records_of(runs):
    return {(one.method, one.seed): one for one in (record.read(RunRecord, path) for path in record.find_runs(runs))}


def items_of(runs, run):
    [path] = (runs / run.recipe_id / f"seed-{run.seed}").glob("evaluations/*.parquet")
    table = parquet.read_table(path).to_pydict()
    return {name: table[name] for name in ("item_id", "loglikelihoods", "metric/acc")}


def test_two_folders_become_a_table_with_verdicts(adapters, scored, tmp_path, capfd):
    code, runs = scored(adapters["lora"][0], adapters["ia3"][0])
    out = capfd.readouterr().out
    assert code == 0
    found = records_of(runs)
    assert set(found) == {("base", 0), ("lora", 0), ("ia3", 0)}
    for kind in ("lora", "ia3"):
        run = found[kind, 0]
        assert (run.origin, run.recipe["data"], run.recipe["train"]) == ("PEFT adapter", None, None)
        assert (run.config["data"], run.config["train"], run.current.training, run.current.data) == (None,) * 4
        assert run.current.fingerprint.trainable_parameters == adapters[kind][1]
    assert "lora (LoRA, r=4)" in out
    [page] = (tmp_path / "reports").glob("adapters-*/report.md")
    text = page.read_text()
    assert "trained elsewhere, on data and with settings that are unknown" in text
    assert "Loss computed on" not in text
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("evaluations/*")}
    assert before
    assert scored(adapters["lora"][0], adapters["ia3"][0])[0] == 0  # and nothing is scored again
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("evaluations/*")} == before


def test_scores_on_a_resident_base_are_those_of_one_process_each_to_the_bit(adapters, scored, capfd):
    folders = [adapters[kind][0] for kind in KINDS]
    code, runs = scored(*folders)
    assert code == 0
    together = records_of(runs)
    different = set()
    for kind in KINDS:
        code, alone = scored(adapters[kind][0], runs=f"alone-{kind}")
        assert code == 0
        run = records_of(alone)[kind, 0]
        assert items_of(alone, run) == items_of(runs, together[kind, 0]), kind
        different.add(repr(items_of(alone, run)["loglikelihoods"]))
    assert len(different) == len(KINDS)
    capfd.readouterr()


def test_an_adapter_that_cannot_be_attached_fails_alone(adapters, scored, tmp_path, capfd):
    """First, between others and last: those after it are scored as without it, those before it keep what is known."""
    from safetensors.torch import load_file, save_file

    broken = []
    for name in ("first", "between", "last"):
        broken.append(shutil.copytree(adapters["lora"][0], tmp_path / name))
        path = broken[-1] / "adapter_model.safetensors"
        save_file({key: t for key, t in load_file(path).items() if "layers.1" not in key}, path)
    good = {kind: adapters[kind][0] for kind in ("lora", "ia3")}
    code, runs = scored(broken[0], good["lora"], broken[1], good["ia3"], broken[2])
    assert code == 1
    found = records_of(runs)
    assert len(found) == 6
    for name in ("first", "between", "last"):
        attempt = found[name, 0].current
        assert attempt.status == "failed"
        assert attempt.reason.startswith(f"{name}: its adapter_model.safetensors lacks tensors that")
    assert scored(*good.values(), runs="alone")[0] == 0
    alone = records_of(tmp_path / "alone")
    for kind in good:
        assert (found[kind, 0].current.status, found[kind, 0].current.reason) == ("ok", "")
        assert found[kind, 0].current.fingerprint == alone[kind, 0].current.fingerprint
        assert items_of(runs, found[kind, 0]) == items_of(tmp_path / "alone", alone[kind, 0])
    capfd.readouterr()


def test_the_base_is_loaded_once_and_again_only_after_it_was_changed(adapters, tiny_model):
    from transformers import AutoModelForCausalLM

    from harness.run.swapped import Resident

    resident = Resident(lambda: AutoModelForCausalLM.from_pretrained(tiny_model).requires_grad_(False))
    loads = []
    for kind in ("lora", "dora", "ia3", "prompt", "prefix", "vera", "pissa", "lora"):
        method = foreign.method_of(foreign.read(adapters[kind][0], kind))
        resident.take_back(method.restore(resident.base(), adapters[kind][0]))
        loads.append(resident.loads)
    assert loads == [1, 1, 1, 1, 1, 1, 1, 2], "only what PiSSA's initialization left behind is given up"


def test_seeds_of_one_adapter_are_one_row(adapters, scored, capfd):
    folder = adapters["lora"][0].parent
    code, runs = scored(folder / "other-seed1", folder / "other-seed2", f"mine={adapters['dora'][0]}")
    assert code == 0
    found = records_of(runs)
    assert set(found) == {("base", 0), ("other", 1), ("other", 2), ("mine", 0)}
    assert found["other", 1].recipe_id == found["other", 2].recipe_id
    assert found["mine", 0].recipe["method"] == {
        "name": "mine", "type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": True,
        "target_modules": ["q_proj", "v_proj"], "init_lora_weights": True,
    }  # fmt: skip
    capfd.readouterr()


def _config(**changed):
    def plant(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return plant


def _file(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _changed(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file(dict(change(name, tensor) for name, tensor in load_file(path).items()), path)


def _renamed(folder, old, new):
    _changed(folder, lambda name, tensor: (name.replace(old, new), tensor))


def _wider(folder):
    """Weights for a base whose hidden states have a number more."""
    import torch

    _changed(folder, lambda name, tensor: (name, tensor if "lora_B" in name else torch.cat([tensor, tensor[:, :1]], 1)))


WRONG = {
    "another type": (
        "lora",
        _config(peft_type="VERA"),
        "peft_type is VERA, and its tensors (lora_A) are those of LORA",
    ),
    "no DoRA": ("lora", _config(use_dora=True), "use_dora says DoRA, and it has no magnitudes"),
    "DoRA": ("dora", _config(use_dora=False), "use_dora says plain LoRA, and it has DoRA's magnitudes"),
    "another rank": ("lora", _config(r=16), "r is 16, and base_model.model"),
    "another family": ("ia3", _config(peft_type="LORA"), "peft_type is LORA, and its tensors (ia3_l) are those of IA3"),
    "a pickle": ("lora", _pickle, "its weights are a pickle, adapter_model.bin"),
    "no weights": ("lora", lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors beside"),
    "no header": ("lora", _file("adapter_model.safetensors", b"x" * 40), "no safetensors file"),
    "half a configuration": ("lora", _file("adapter_config.json", b'{"peft_type": "LO'), "cannot be read"),
    "no type": ("lora", _config(peft_type=None), "names no peft_type"),
    "a module": ("lora", _config(megatron_config={"a": 1}, megatron_core="os"), "names Python modules to import"),
    "no base": ("lora", _config(base_model_name_or_path=None), "names no base model; give it: --base MODEL"),
    "an unknown type": ("lora", _config(peft_type="NOSUCH"), "peft_type is NOSUCH"),
    "a huge configuration": (
        "lora",
        _file("adapter_config.json", b'{"a": "' + b"x" * (11 * 2**20) + b'"}'),
        "bytes, which is no configuration of an adapter",
    ),
    "a deep configuration": ("lora", _file("adapter_config.json", b"[" * 200_000), "cannot be read"),
    "layers that the base lacks": (
        "lora",
        lambda folder: _renamed(folder, "layers.1.", "layers.7."),
        "q_proj.lora_A.weight, and the base has no model.layers.7.self_attn.q_proj; give its own: --base MODEL",
    ),
    "another width": (
        "lora",
        lambda folder: _wider(folder),
        "and model.layers.0.self_attn.q_proj of the base has 64 in",
    ),
    "a prompt of another width": ("prompt", lambda folder: _wider(folder), "its prompt has 65 numbers for each token"),
    "a base elsewhere": ("lora", _config(base_model_name_or_path="/nowhere"), "/nowhere is not here; give it: --base"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_adapter_that_is_not_what_it_says_it_is_is_named(fault, adapters, scored, tmp_path, capfd):
    kind, plant, expected = WRONG[fault]
    folder = shutil.copytree(adapters[kind][0], tmp_path / "wrong")
    plant(folder)
    code, runs = scored(folder)
    err = capfd.readouterr().err
    assert code == 2
    assert expected in err
    assert not runs.exists() or not records_of(runs)


def test_another_base_is_given_by_its_name(adapters, scored, tiny_model, tmp_path, capfd):
    folder = shutil.copytree(adapters["lora"][0], tmp_path / "moved")
    _config(base_model_name_or_path="/nowhere")(folder)
    code, runs = scored(folder, "--base", tiny_model)
    assert code == 0
    assert set(records_of(runs)) == {("base", 0), ("moved", 0)}
    capfd.readouterr()


def test_a_configuration_of_the_base_beside_an_adapter_makes_no_model_of_it(
    adapters, scored, tiny_model, tmp_path, capfd
):
    """Some trainers write both, and transformers would load such a folder as a model with the adapter in it."""
    folder = shutil.copytree(adapters["lora"][0], tmp_path / "both")
    shutil.copyfile(tiny_model / "config.json", folder / "config.json")
    code, runs = scored(folder)
    assert code == 0, capfd.readouterr().err
    assert set(records_of(runs)) == {("base", 0), ("both", 0)}
    assert records_of(runs)["both", 0].origin == "PEFT adapter"
    capfd.readouterr()


def test_a_folder_of_adapters_names_those_in_it(adapters, scored, tmp_path, capfd):
    """PEFT saves an adapter with a name of its own in a folder of this name."""
    shutil.copytree(adapters["lora"][0], tmp_path / "mine" / "german")
    assert scored(tmp_path / "mine")[0] == 2
    place = tmp_path / "mine"
    assert f"{place}: no adapter itself; give one of those in it: {place / 'german'}" in capfd.readouterr().err


def test_two_adapters_of_one_name_are_refused(adapters, scored, tmp_path, capfd):
    places = [shutil.copytree(adapters["lora"][0], tmp_path / name / "final") for name in ("a", "b")]
    assert scored(*(f"same={place}" for place in places))[0] == 2
    assert "are both same: give one a name" in capfd.readouterr().err


@pytest.mark.parametrize("other", [("a", None, "adapters/a"), ("a", 0, "adapters/a-seed-0")])
def test_two_words_for_one_run_are_refused(other):
    """The command would wait for the claim of the run that it holds itself, without an end."""
    from types import SimpleNamespace

    given = [
        SimpleNamespace(identifier=name, name=name, seed=seed, place=place)
        for name, seed, place in (("a", None, "adapters/a"), other)
    ]
    with pytest.raises(ValueError, match=rf"adapters/a and {other[2]} are both a( with seed 0)?: give one a name"):
        adapters_asked.check_names(given)
    adapters_asked.check_names([given[0], SimpleNamespace(identifier="a", name="a", seed=1, place="adapters/a-seed-1")])


def test_a_folder_with_runs_of_adapters_is_evaluated_without_them(adapters, scored, capfd):
    """They are no runs of a method that this project has; the whole command ended at the first of them."""
    code, runs = scored(adapters["lora"][0])
    assert code == 0
    found = records_of(runs)
    folder = runs / found["lora", 0].recipe_id / "seed-0"
    capfd.readouterr()
    code, _ = scored(runs)
    out, err = capfd.readouterr()
    assert code == 0, err
    assert "letters" in out
    assert scored(folder)[0] == 2
    err = capfd.readouterr().err
    assert "lora was trained elsewhere (PEFT adapter), and how is not known here" in err
    assert f"`harness evaluate {adapters['lora'][0]} --tasks ...` scores it" in err
    shutil.rmtree(runs / found["base", 0].recipe_id)
    assert scored(runs)[0] == 2
    assert f"{runs}: none of the 1 runs in it has weights of this project to evaluate" in capfd.readouterr().err


def test_an_adapter_named_base_is_refused(adapters, scored, tmp_path, capfd):
    """A report would take it for the untouched model, and compare every other with it."""
    folder = shutil.copytree(adapters["lora"][0], tmp_path / "base")
    code, runs = scored(folder, adapters["dora"][0])
    assert code == 2
    err = capfd.readouterr().err
    assert f"{folder}: the row named base is the untouched model: NAME={folder} names this" in err
    assert not runs.exists() or not records_of(runs)


@pytest.mark.parametrize("weights", ["merged", "converted"])
def test_other_weights_than_the_attached_ones_are_refused(weights, adapters, scored, capfd):
    code, runs = scored(adapters["lora"][0], f"eval.weights={weights}")
    assert code == 2
    assert f"eval.weights={weights}: an adapter from elsewhere is scored as it is" in capfd.readouterr().err
    assert not runs.exists() or not records_of(runs)


def test_many_adapters_load_their_base_once(tiny_model, adapters, scored, monkeypatch, tmp_path, capfd):
    """The real command with the worker in this process, so that loads of the base can be counted."""
    from types import SimpleNamespace

    from harness.run import adopted, isolate, swapped

    loads = []
    load, call = swapped.models.load, isolate.call

    def here(function, *arguments, emit=lambda event: None, **options):
        if function != adopted.WORK:
            return call(function, *arguments, **options)
        return SimpleNamespace(kind="returned", value=swapped.execute(*arguments, emit), reason="")

    monkeypatch.setattr(adopted.isolate, "call", here)
    monkeypatch.setattr(swapped.models, "load", lambda *words: loads.append(words) or load(*words))
    folders = []
    for seed in range(10):
        folders.append(tmp_path / f"many-seed{seed}")
        save_adapter("lora", tiny_model, folders[-1], seed)
    folders += [adapters[kind][0] for kind in ("dora", "ia3", "prompt", "vera")]
    code, runs = scored(*folders)
    assert code == 0, capfd.readouterr().err
    assert len(loads) == 1
    assert len(records_of(runs)) == 1 + len(folders)


def test_json_is_one_list_on_stdout_and_the_table_goes_to_stderr(adapters, scored, tmp_path, capfd):
    code, _ = scored(adapters["lora"][0], adapters["ia3"][0], "--json")
    out, err = capfd.readouterr()
    assert code == 0, err
    documents = json.loads(out)
    assert [one["method"] for one in documents] == ["base", "lora", "ia3"]
    for one in documents:
        assert set(one) == {"run", "method", "model", "seed", "status", "reason", "evaluations"}
        [look] = one["evaluations"]
        assert (one["status"], look["task"], look["record"]["num_items"]) == ("ok", "letters", ITEMS)
    assert f"report: {tmp_path}/reports/adapters-" in err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("{empty}", "no run (record.json), no model folder (config.json)"),
        ("{file}", "no run (record.json), no model folder (config.json)"),
        ("nobody/nothing-of-the-kind", "HF_HUB_OFFLINE forbids the network"),
        ("nobody/nothing-of-the-kind@v2", "at revision 'v2': HF_HUB_OFFLINE forbids the network"),
    ],
)
def test_a_word_that_is_no_adapter_is_refused_in_one_line(
    word, expected, adapters, scored, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    file = adapters["lora"][0] / "adapter_model.safetensors"
    code, runs = scored(word.format(empty=tmp_path / "empty", file=file))
    err = capfd.readouterr().err
    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1
    assert not runs.exists() or not records_of(runs)
