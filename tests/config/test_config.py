import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.config import config
from harness.config.compose import Composer
from harness.config.experiment import evaluations, recipe
from harness.methods.base import Method
from harness.records.settings import DataSpec, EvalSpec, InferenceSpec, ModelSpec, TrackingSpec, TrainSpec
from harness.sweep import stages
from harness.sweep.planned_runs import bases_of, compose_all

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SCHEMAS = {
    "model": ModelSpec,
    "data": DataSpec,
    "train": TrainSpec,
    "eval": EvalSpec,
    "inference": InferenceSpec,
    "tracking": TrackingSpec,
}
NUMBER = {"model": 36, "data": 5, "train": 3, "eval": 3, "inference": 2, "tracking": 4, "sweep": 14}
FILLED_LATER = {"content", "include_content", "include_names", "rows_content"}  # by harness.sources
EXTRA = {"model": ["model.source=package"], "data": ["data.file=rows.jsonl"]}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def method_classes() -> dict[str, type[Method]]:
    """Every concrete method defined in a module of harness/methods, by its module's name."""
    found: dict[str, type[Method]] = {}
    for path in sorted((ROOT / "harness" / "methods").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        module = importlib.import_module(name.removesuffix(".__init__"))
        for value in vars(module).values():
            is_method = isinstance(value, type) and issubclass(value, Method) and not inspect.isabstract(value)
            if is_method and value.__module__ == module.__name__:
                assert path.stem not in found, f"{path.name} defines two methods"
                found[path.stem] = value
    return found


METHODS = method_classes()
METHOD_NAMES = sorted(METHODS)


def test_every_yaml_is_counted():
    assert {group: len(options(group)) for group in NUMBER} == NUMBER
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups >= {*NUMBER, "method"}


def test_every_method_has_a_yaml_and_every_yaml_a_method():
    assert options("method") == METHOD_NAMES
    assert len(METHOD_NAMES) >= 5
    assert {"base", "full", "lora", "qlora", "dora"} <= set(METHOD_NAMES)


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in SCHEMAS for n in options(g)])
def test_a_group_composes_and_builds(compose, group, name, monkeypatch):
    monkeypatch.setattr("harness.config.checks.find_spec", lambda package: package)  # whichever extras are installed
    section = getattr(config.build(compose(f"{group}={name}")), group)
    assert isinstance(section, SCHEMAS[group])


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in SCHEMAS for n in options(g)])
def test_the_keys_of_a_yaml_are_the_fields_of_its_schema(compose, group, name):
    keys = set(compose(f"{group}={name}")[group])
    named = {field.name for field in dataclasses.fields(SCHEMAS[group])} - FILLED_LATER
    assert keys == named


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_method_composes_builds_and_names_every_field(compose, name):
    experiment = config.build(compose(f"method={name}"))
    assert type(experiment.method) is METHODS[name]
    assert experiment.method.name == name
    assert METHODS[name].__doc__, "the docstring is the method's card"
    values = compose(f"method={name}").method
    assert set(values) - {"_target_"} == {field.name for field in dataclasses.fields(METHODS[name])}
    assert values["_target_"] == f"{METHODS[name].__module__}.{METHODS[name].__name__}"


def test_the_defaults_are_those_that_are_published(compose):
    experiment = config.build(compose())
    assert (experiment.model.name, experiment.data.name, experiment.method.name) == (
        "smollm2-135m",
        "science_qa",
        "lora",
    )
    assert experiment.train.lr == pytest.approx(experiment.method.lr * experiment.lr_scale)
    assert experiment.tracking.mode == "offline"
    assert experiment.data.tasks == experiment.eval.tasks


@pytest.mark.parametrize("name", options("method"))
def test_a_method_comes_with_the_rates_worth_searching(compose, name):
    """The centre lies within them, and they determine no weights."""
    experiment = config.build(compose(f"method={name}"))
    if not experiment.method.trains:
        assert experiment.method.lr_range is None
        return
    low, high = experiment.method.lr_range
    assert low < experiment.method.lr < high
    assert high / low >= 10, "a factor of lr_scale=0.3,1,3 around the centre fits in"
    other = config.build(compose(f"method={name}", f"method.lr_range=[{low},{high * 2}]"))
    assert other.recipe_id == experiment.recipe_id
    assert "lr_range" not in recipe(experiment)["method"]


def test_methods_that_are_lora_in_other_words_begin_at_its_rate(compose):
    """A comparison of them at their defaults is one of kernels, of storage or of a magnitude, and of no rate."""
    rates = {
        name: config.build(compose(f"method={name}")).method.lr
        for name in ("lora", "unsloth", "qlora", "dora", "qdora")
    }
    assert set(rates.values()) == {5e-4}, rates


@pytest.mark.parametrize("word", ["tracking.entity=me", "tracking.mode=online"])
def test_tensorboard_refuses_what_only_a_server_has(compose, monkeypatch, word):
    monkeypatch.setattr("harness.config.checks.find_spec", lambda package: package)
    with pytest.raises(ValueError, match=word):
        config.build(compose("tracking=tensorboard", word))
    config.build(compose("tracking=tensorboard"))


def test_a_range_of_rates_begins_with_the_lowest(compose):
    with pytest.raises(ValueError, match=r"method.lr_range=\[0.1, 0.001\]: the lowest rate comes first"):
        config.build(compose("method=lora", "method.lr_range=[0.1,0.001]"))


def test_the_rate_is_the_methods_times_the_scale(compose):
    for name in METHOD_NAMES:
        experiment = config.build(compose(f"method={name}", "lr_scale=3"))
        expected = None if experiment.method.lr is None else pytest.approx(3 * experiment.method.lr)
        assert experiment.train.lr == expected
    assert config.build(compose("train.lr=1e-5")).train.lr == 1e-5
    assert config.build(compose("train.lr=1e-5", "lr_scale=3", "method=base")).train.lr == 1e-5, "it trains nothing"


def test_sweeps_are_a_group_of_their_own():
    assert (CONF / "sweep").is_symlink()
    assert (CONF / "sweep").resolve() == (ROOT / "sweeps").resolve()
    assert options("sweep") == sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


# file -> cells, contestants, trials of each: the budget that it says it has
SWEEPS = {
    "data_mix": (36, 12, 3), "data_size": (45, 15, 3), "dropout": (24, 8, 3), "epochs": (45, 15, 3),
    "folklore": (85, 17, 5), "learning_rate": (42, 6, 7), "learning_rate_matters": (42, 6, 7), "lora_rank": (63, 21, 3),
    "memory_frontier": (14, 0, 0), "methods": (85, 17, 5), "prompt_length": (45, 15, 3),
    "quantization": (27, 9, 3), "smoke": (3, 0, 0), "target_modules": (45, 15, 3),
}  # fmt: skip


def test_every_sweep_is_counted():
    assert list(SWEEPS) == options("sweep")
    assert sum(count for count, _, _ in SWEEPS.values()) == 601


@pytest.mark.parametrize("name", options("sweep"))
def test_a_sweep_expands_and_each_cell_composes(compose, name):
    asked = config.sweep_of(compose(f"sweep={name}"))
    assert asked.name == name
    assert asked.question.endswith("?")
    assert asked.primary in (
        "arc_easy/acc",
        "validation_loss",
        "test_loss",
        "hellaswag/acc",
        *([None] if name in ("memory_frontier", "smoke") else []),
    )
    wanted = stages.first_cells(asked, [f"sweep={name}"])
    seeds = len(asked.stages.tune.seeds) if asked.stages else 1
    assert len(wanted) == SWEEPS[name][0] * seeds
    plan = compose_all([*wanted, *bases_of(wanted)], Composer(lambda cell: compose(*cell)))
    assert len({planned.experiment.recipe_id for planned in plan}) >= 3
    if asked.stages:
        stages.check_budget(asked, stages.trained(plan))
        contestants = {one.contestant for one in wanted}
        assert len(contestants) == SWEEPS[name][1]
        assert len(wanted) == len(contestants) * SWEEPS[name][2] * seeds


HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "lm_eval", "pandas", "numpy", "wandb", "matplotlib")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["method=nosuch"], 2),
        (["method.rnak=8"], 2),
        (["-m", "method=lora,dora", "method.r=0"], 2),
    ],
)
def test_help_and_errors_come_before_the_libraries(words, code):
    out = python(
        f"""
import sys
sys.argv = ["harness", *{words!r}]
from harness.__main__ import main
try:
    main()
    print("code", 0)
except SystemExit as end:
    print("code", end.code or 0)
print("loaded", [name for name in {HEAVY!r} if name in sys.modules])
"""
    )
    assert out.splitlines()[-2:] == [f"code {code}", "loaded []"]


def test_help_lists_every_launcher():
    """Hydra leaves its own groups out of the list of an application's."""
    template = yaml.safe_load((CONF / "config.yaml").read_text())["hydra"]["help"]["template"]
    [line] = [line for line in template.splitlines() if line.startswith("hydra/launcher: ")]
    named = line.removeprefix("hydra/launcher: ").partition(";")[0].split(", ")
    assert named == options("hydra/launcher")
    assert len(named) == 3


def test_no_method_loads_a_library_when_it_is_composed():
    out = python(
        f"""
import sys
import harness
names = {{run.method.name for name in {METHOD_NAMES!r} for run in harness.compose(f"method={{name}}")}}
print(len(names), [name for name in {HEAVY!r} if name in sys.modules])
"""
    )
    assert out == f"{len(METHOD_NAMES)} []\n"


@pytest.fixture
def build(compose, tiny_overrides):
    from harness.run import inputs

    return lambda *words: inputs.resolve(config.build(compose(*tiny_overrides, *words)))


SAME_RECIPE = [
    ["seed=7"], ["force=true"], ["tracking=wandb"], ["tracking=wandb", "tracking.mode=online"], ["eval=demo"],
    ["tracking=tensorboard"],
    ["eval.tasks=[arc_easy]"], ["eval.heldout_limit=3"], ["eval.num_fewshot=5"], ["eval.test=never"],
    ["train.eval_every=1"], ["train/oom=none"], ["train.divergence_factor=2"], ["train.divergence_steps=3"],
    ["runs_dir=elsewhere"], ["reports_dir=elsewhere"], ["method=lora"], ["data.tasks=[piqa]"],
    ["target=all_linear"], ["lr_scale=1"], ["eval.batch_size=2"], ["eval.batch_tokens=64"], ["eval.backend=hf"],
    ["train.kernels.attention=auto"], ["train.kernels.liger=false"], ["train.dataloader_num_workers=2"],
]  # fmt: skip
OTHER_RECIPE = [
    ["method=dora"], ["method.lr=1e-3"], ["lr_scale=2"], ["train.lr=1e-5"], ["method.r=8"], ["method.lora_alpha=8"],
    ["target=mlp"], ["target=[q_proj]"], ["target='re:.*q_proj'"], ["train.max_steps=4"], ["train.global_batch_size=8"],
    ["train.precision=bf16"], ["train.weight_decay=0.1"], ["train.lr_scheduler_type=cosine"], ["train.loss_on=all"],
    ["train.eval_every=1", "train.patience=2"],
    ["train.eval_every=1", "train.patience=1"], ["train.eval_every=2", "train.patience=1"],
    ["data.validation_fraction=0.3"], ["data.max_rows=8"], ["data.train.0.prompt='Q {{prompt}}'"], ["model.name=other"],
    ["train.kernels.attention=eager"], ["train.kernels.liger=true"], ["train.kernels.compile=true"],
]  # fmt: skip


def test_a_recipe_names_the_kernels_that_are_not_the_usual_ones(build):
    """So that a sweep over one of them is no difference in the others, which are absent on both sides."""
    from harness.config.experiment import recipe

    assert "kernels" not in recipe(build())["train"]
    assert recipe(build("train.kernels.compile=true"))["train"]["kernels"] == {"compile": True}


@pytest.mark.parametrize("words", SAME_RECIPE, ids=" ".join)
def test_what_does_not_change_the_weights_is_no_part_of_the_recipe(build, words):
    assert build(*words).recipe_id == build().recipe_id


def test_what_changes_the_weights_makes_another_recipe(build):
    assert len({build().recipe_id, *(build(*words).recipe_id for words in OTHER_RECIPE)}) == len(OTHER_RECIPE) + 1


def test_contents_count_and_not_where_they_lie(build, tiny_model, letters_file, tmp_path):
    import shutil

    known = build().recipe_id
    moved = shutil.copy(letters_file, tmp_path / "moved.jsonl")
    assert build(f"data.file={moved}").recipe_id == known
    model = shutil.copytree(tiny_model, tmp_path / "model")
    assert build(f"model.path={model}").recipe_id == known
    Path(moved).write_text(letters_file.read_text() + '{"prompt": "One more:", "completion": " x"}\n')
    assert build(f"data.file={moved}").recipe_id != known
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert build(f"model.path={model}").recipe_id != known


def test_a_setting_that_a_method_does_not_use_is_no_part_of_its_recipe(build):
    assert build("method=full", "target=mlp").recipe_id == build("method=full").recipe_id
    unaimed = [name for name, schema in METHODS.items() if "target" not in {f.name for f in dataclasses.fields(schema)}]
    assert {"base", "full"} <= set(unaimed)
    for name in unaimed:
        assert build(f"method={name}", "target=mlp").recipe_id == build(f"method={name}").recipe_id


def test_the_untouched_model_has_no_training_and_no_seed(build):
    base = build("method=base", "seed=5", "train.max_steps=77", "lr_scale=9", "data.max_rows=5")
    assert base.run_seed == 0
    assert recipe(base)["train"] is None
    assert recipe(base)["data"] is None
    assert base.recipe_id == build("method=base").recipe_id
    assert base.folder == build("method=base").folder


def test_an_evaluation_is_identified_by_what_is_asked(build):
    def ids(*words: str) -> set[str]:
        return {evaluation.eval_id for evaluation in evaluations(build("eval.tasks=[arc_easy]", *words))}

    known = ids()
    assert len(known) == 2
    assert ids("seed=3", "method=dora", "eval.retention=[arc_easy]") == known
    for words in (["eval.limit=3"], ["eval.num_fewshot=1"], ["eval.chat_template=true"], ["eval.source=hub"]):
        assert len(ids(*words) & known) == 1
    assert len(ids("eval.batch_size=3") & known) == 1, "a held-out loss is batched by tokens"
    assert not ids("eval.batch_tokens=512") & known
    assert not ids("train.precision=bf16") & known, "the untouched model is held in it"
    assert not ids("eval.precision=bf16") & known
    assert not ids("eval.precision=bf16") & ids("train.precision=bf16")
    assert not ids("eval.precision=bf16", "train.precision=bf16") & (known | ids("train.precision=bf16"))
    assert len(ids("eval.tasks=[arc_easy,piqa]")) == 3
    assert ids("eval.test=never") < known
    assert ids("method=lora", "eval.weights=merged") == {f"{one}-merged" for one in known}
