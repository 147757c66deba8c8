"""What every method promises, checked for every method that is found in conf/method/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from workshop import NAMES, Workshop, replaced, trained_names

from harness.methods.base import Method
from harness.methods.contexts import (
    Context,
    InProcesses,
    OnDevice,
    OnModel,
    OnRows,
    Packed,
    Planned,
    Served,
    Sharded,
    TrainedWith,
)
from harness.records.record import RunRecord, read
from harness.sources import models

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # PEFT of normalizations
    pytest.mark.filterwarnings("ignore:.*rank_pattern keys did not match:RuntimeWarning"),  # AdaLoRA
    pytest.mark.filterwarnings("ignore:.*invalid shape:UserWarning"),
]

STEPS = 6


def read_run(path: Path) -> RunRecord:
    return read(RunRecord, path)


# rate for one batch of a tiny random model, where the published one is too low to show within a few steps
RATES = {
    "full": 3e-3, "spectrum": 3e-3, "galore": 1e-2, "ia3": 0.3, "ln_tuning": 0.1, "head": 1e-2, "llama_adapter": 0.1,
    "prompt": 0.3, "adalora": 0.05, "peft": 1e-2,
}  # fmt: skip
MERGED_WITHIN = 1e-5  # largest difference of logits in float32


def test_every_method_is_found() -> None:
    assert len(NAMES) == 24
    described = {path.stem for path in Path("harness/methods").glob("*.py")}
    assert set(NAMES) - described == set(), "a YAML without its file"


def test_no_method_is_skipped_but_what_needs_a_gpu(make: Callable[..., Method]) -> None:
    assert [name for name in NAMES if make(name).unsupported(OnDevice("cpu"))] == ["unsloth"]


REFUSED = {
    Packed: {"alora", "p_tuning", "prefix", "prompt"},
    Planned: {"adalora", "galore", "unsloth"},
    Sharded: {"adalora", "galore", "p_tuning", "peft", "prefix", "prompt", "qdora", "qlora"},
}


@pytest.mark.parametrize("context", REFUSED, ids=lambda kind: kind.__name__)
def test_the_methods_that_refuse_a_context_are_these(context: type, make: Callable[..., Method]) -> None:
    refusing = {name: make(name).unsupported(context()) for name in NAMES}
    assert {name for name, reason in refusing.items() if reason} == REFUSED[context]


def test_a_method_answers_every_context(method: Method, place: Workshop) -> None:
    spec, model = place.training(STEPS, lr=1e-3), models.skeleton(place.spec, torch.float32)
    contexts = [
        OnDevice("cuda"), OnModel(model), OnRows(place.rows, place.tokenizer), TrainedWith(spec), InProcesses(2),
        Sharded(), Packed(), Served(), Planned(),
    ]  # fmt: skip
    assert {type(context) for context in contexts} == set(get_args(Context))
    assert all(type(method.unsupported(context)) is str for context in contexts)
    assert not method.unsupported(TrainedWith(spec)), "what trains here is not refused"


def test_a_refusal_is_an_error_where_it_is_required(make: Callable[..., Method]) -> None:
    method = make("galore")
    with pytest.raises(ValueError, match=f"^{method.unsupported(Sharded())}$"):
        method.require(Sharded())
    method.require(Packed())


def test_the_first_logits_are_the_base_models(method: Method, place: Workshop, make: Callable[..., Method]) -> None:
    base = place.logits(place.load(make("base")))
    difference = (place.logits(place.attach(method)) - base).abs().max().item()
    if method.differs_at_start:
        assert difference > 1e-4, f"it does not differ: {method.differs_at_start}"
    else:
        assert difference < 1e-5


def test_a_configuration_is_checked_without_weights(method: Method, place: Workshop) -> None:
    skeleton = models.skeleton(place.spec, torch.float32)
    method.attach(skeleton, replaced(place.setting(steps=1), rows=[]))


def test_no_factor_that_begins_as_one_is_decayed(method: Method, place: Workshop) -> None:
    """Decay draws to zero, where such a factor switches off what it multiplies."""
    model = place.attach(method)
    decayed = {
        id(p) for group in method.param_groups(model, 1e-3, 0.1) if group["weight_decay"] for p in group["params"]
    }
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if id(p) in decayed and bool((p == 1).all())] == []
    grouped = [p for group in method.param_groups(model, 1e-3, 0.1) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in trained.values()}
    assert len(grouped) == len(trained)


def test_what_is_declared_trains_and_nothing_else(method: Method, place: Workshop, tmp_path: Path) -> None:
    """The count, the frozen weights, the falling loss, what is saved and what merging gives: one training shows all."""
    if not method.trains:
        pytest.skip("trains nothing")
    expected = method.expected_trainable(place.load(method))
    model = place.attach(method, steps=STEPS)
    trained = trained_names(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert sum(before[name].numel() for name in trained) == expected
    assert {before[name].dtype for name in trained} == {torch.float32}

    losses = place.train(model, method, STEPS, RATES.get(method.name, (method.lr or 1e-3) * 5))
    assert losses[-1] < losses[0] - 0.05, losses
    after = dict(model.named_parameters())
    assert trained_names(model) == trained
    moved = {name for name in before if not torch.equal(before[name], after[name].detach())}
    assert moved <= trained, "frozen parameters have changed"
    assert moved == trained or method.name == "adalora", f"did not move: {sorted(trained - moved)[:5]}"

    logits = place.logits(model)
    method.save(model, tmp_path)
    sizes = [t.nbytes for file in tmp_path.glob("*.safetensors") for t in load_file(file).values()]
    skeleton = models.skeleton(place.spec, torch.float32)
    foreseen = method.saved(method.attach(skeleton, replaced(place.setting(), rows=[])))
    foreseen_bytes = sum(tensor.nbytes for tensor in foreseen.values())
    assert foreseen_bytes == sum(sizes) > 0 or (method.name == "adalora" and foreseen_bytes > sum(sizes)), "it prunes"
    restored = method.restore(place.load(method), tmp_path)
    assert torch.allclose(place.logits(restored), logits, atol=1e-6)
    if method.merges:
        merged = method.merge(restored)
        assert not any("lora" in name or "bottleneck" in name for name, _ in merged.named_parameters())
        assert (place.logits(merged) - logits).abs().max() < MERGED_WITHIN
    else:
        with pytest.raises(ValueError, match="cannot be merged"):
            method.merge(restored)


def test_in_bfloat16_what_trains_is_held_in_float32(method: Method, place: Workshop, tmp_path: Path) -> None:
    """An update at a usual rate is smaller than the spacing of bfloat16, and would round away."""
    if not method.trains:
        pytest.skip("trains nothing")
    base = models.load(place.spec, method.load_options(torch.bfloat16))
    model = method.attach(base, replaced(place.setting(), compute_dtype=torch.bfloat16))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert sum(parameter.numel() for parameter in trained) == method.expected_trainable(place.load(method))
    ids = torch.tensor([row["input_ids"][:12] for row in place.rows])

    def logits(of: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return of(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()

    logits(model).logsumexp(-1).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(torch.full_like(parameter, 1e-4))  # lost in bfloat16 beside a one
        method.save(model.eval(), tmp_path)
        restored = method.restore(models.load(place.spec, method.load_options(torch.bfloat16)), tmp_path)
        assert torch.allclose(logits(restored.eval()), logits(model), atol=2e-2)
    again, names = dict(restored.named_parameters()), trained_names(model)
    assert {again[name].dtype for name in names if name in again} <= {torch.float32}
    if method.name == "p_tuning":
        return  # keeps the output of its encoder, not what trained
    assert all(torch.equal(again[n], p) for n, p in model.named_parameters() if n in names and n in again)


def test_one_seed_gives_one_curve(method: Method, place: Workshop) -> None:
    if not method.trains:
        pytest.skip("trains nothing")
    rate = method.lr or 1e-3

    def curve(seed: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = place.attach(method, seed, steps=2)
        start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        return place.train(model, method, 2, rate, seed), start

    first, start = curve(0)
    again, _ = curve(0)
    assert first == again
    other, other_start = curve(1)
    if any(not torch.equal(start[name], other_start[name]) for name in start):
        assert other != first


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("unsloth",)])
def test_a_target_that_matches_nothing_lists_what_exists(
    name: str, make: Callable[..., Method], workshop: Workshop
) -> None:
    if not hasattr(make(name), "target"):
        pytest.skip("has no target")
    method = make(name, "target=[q_prj]")
    with pytest.raises(ValueError, match=r"q_prj.*q_proj \(2\)"):
        workshop.attach(method)


FRESH = '''
from dataclasses import dataclass

from harness.methods.parameter_subset import Partial


@dataclass(frozen=True, kw_only=True)
class Fresh(Partial):
    """Trains the last projection of some layers, and shares no line with a method that is there."""

    layers: int

    def choose(self, model, setting):
        number = model.config.num_hidden_layers
        return [f"model.layers.{number - 1 - i}.mlp.down_proj.weight" for i in range(self.layers)]

    def expected_trainable(self, model):
        return self.layers * model.config.hidden_size * model.config.intermediate_size
'''


def test_a_method_is_added_by_one_file_and_one_yaml(
    tmp_path: Path, tiny_overrides: list[str], harness: Callable[..., Any]
) -> None:
    """As the command runs it: composed, checked, trained, evaluated, in the report; nothing else is told of it."""
    (tmp_path / "fresh.py").write_text(FRESH)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "fresh.yaml").write_text("_target_: fresh.Fresh\nlr: 1e-3\nlayers: 2\n")
    where = [f"hydra.searchpath=[file://{tmp_path}/conf]", "method=fresh", "method.layers=1"]
    done = harness(*tiny_overrides, *where, PYTHONPATH=str(tmp_path))
    assert done.code == 0, done.err
    (record,) = (run for run in map(read_run, (tmp_path / "runs").glob("*/*/record.json")) if run.method == "fresh")
    found = record.measured.fingerprint
    assert (record.status, record.recipe["method"]["layers"]) == ("ok", 1)
    assert found.trainable_parameters == found.expected_trainable_parameters == 64 * 128
    assert "fresh" in done.out
    wrong = harness(*tiny_overrides, *where[:2], "method.layer=1", PYTHONPATH=str(tmp_path))
    assert (wrong.code, "method.layer: no such setting. Did you mean layers?" in wrong.err) == (2, True)


def test_no_name_of_a_method_outside_of_its_files() -> None:
    """The loop, the meter and the scorer ask no method who it is."""
    files = [file for layer in ("evaluate", "measure", "train") for file in Path("harness", layer).rglob("*.py")]
    assert len(files) > 15
    names = [name for name in NAMES if name not in ("base", "full", "head", "prompt", "prefix", "adapter", "peft")]
    for file in files:
        words = set(file.read_text().replace('"', " ").replace("'", " ").replace(".", " ").split())
        assert not words & set(names), (file, words & set(names))
