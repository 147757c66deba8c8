"""What training computes by, turned on and off: the same numbers, and afterwards the model as it was."""

import contextlib
import sys
import types
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers.models.llama import modeling_llama

from harness.config import kernels
from harness.records.events import Measured
from harness.records.settings import KernelSpec
from harness.train.kernels import unknown
from harness.train.loop import Kernels, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # the compiler asks for it
TRACED = partial(torch.compile, backend="eager")  # everything of the compiler but writing and building C++


def state(model):
    """Everything that computing depends on and that no weight is."""
    base = model.get_base_model()
    own = [{k: v for k, v in vars(module).items() if k not in ("training", "config")} for module in base.modules()]
    return base.config._attn_implementation, [set(one) for one in own], dict(vars(modeling_llama))


@pytest.fixture
def liger(monkeypatch):
    """Stands in for liger-kernel, whose kernels need a GPU: patches as it does, and counts what is computed by it."""
    seen = types.SimpleNamespace(norms=0, options=None)

    def norm(self, hidden):
        seen.norms += 1
        return modeling_llama_norm(self, hidden)

    def apply(model, **options):
        seen.options = options
        modeling_llama.LlamaRMSNorm = type("LigerRMSNorm", (modeling_llama.LlamaRMSNorm,), {})
        for module in model.modules():
            if type(module).__name__ == "LlamaRMSNorm":
                module.__dict__["forward"] = types.MethodType(norm, module)
                module.offset = 0.0

    modeling_llama_norm = modeling_llama.LlamaRMSNorm.forward
    transformers_part = types.ModuleType("liger_kernel.transformers")
    transformers_part._apply_liger_kernel_to_instance = apply
    transformers_part.monkey_patch = types.SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None})
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", transformers_part)
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("asked", [("attention", "eager"), ("attention", "sdpa"), ("compile", "true")])
def test_a_curve_is_the_same_up_to_rounding_and_the_model_is_left_as_it_was(job, monkeypatch, asked, precision):
    monkeypatch.setattr(torch, "compile", TRACED)
    name, value = asked
    plain = job(precision=precision)
    usual = train(plain)
    made = job(f"train.kernels.{name}={value}", precision=precision)
    found = train(made)
    assert state(made.model) == state(plain.model)
    assert found.losses == pytest.approx(usual.losses, rel=1e-5 if precision == "fp32" else 0.02)
    assert found.profile.flops == pytest.approx(usual.profile.flops, rel=0.01)  # eager attention is other products


def test_layers_are_compiled_once_for_batches_of_every_length(job, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    made = job("train.kernels.compile=true", max_steps=6, global_batch_size=4, micro_batch_size=4)
    lengths = set(train(made).padded_tokens)
    assert len(lengths) > 3
    layers = made.model.get_base_model().config.num_hidden_layers
    assert 0 < len(compiled) <= 2 * layers  # the first layer may take a graph of its own, and no length does


def test_fused_kernels_are_off_in_the_followed_step_in_validations_and_afterwards(job, liger):
    seen_in_validation = []

    def validate():
        seen_in_validation.append(made.model.get_base_model().model.norm.__dict__.get("forward"))
        return 1.0

    plain = job()
    train(plain)
    before = state(plain.model)
    made = job("train.kernels.liger=true", "train.eval_every=2", validate=validate)
    steps = made.spec.max_steps
    train(made)
    norms = 2 * made.model.get_base_model().config.num_hidden_layers + 1
    assert liger.norms == (steps - 1) * norms  # all but the step that is followed
    assert seen_in_validation == [None] * (steps // 2)
    assert state(made.model) == before
    assert liger.options == {"cross_entropy": False, "fused_linear_cross_entropy": False}


def test_the_profiled_step_is_set_aside_where_the_others_are_computed_by_other_kernels(job):
    """Its memory is not that of the run: it is computed without them."""
    steps = []

    @contextlib.contextmanager
    def aside():
        steps.append("begins")
        yield
        steps.append("ends")

    for words, expected in (((), []), (("train.kernels.attention=eager",), ["begins", "ends"])):
        steps.clear()
        assert train(replace(job(*words, max_steps=3), aside=aside)).profile.step == 2
        assert steps == expected


def test_what_is_on_stays_on_after_something_that_needs_it_off(job, liger):
    model = job().model
    turned = Kernels(model, KernelSpec(liger=True, attention="eager"))
    norm = model.get_base_model().model.norm
    turned.turn(on=True)
    assert turned.without(lambda: float("forward" in vars(norm)))() == 0.0
    assert "forward" in vars(norm)
    assert model.get_base_model().config._attn_implementation == "eager"
    turned.turn(on=False)
    assert "forward" not in vars(norm)
    assert model.get_base_model().config._attn_implementation == "sdpa"


def test_batches_that_other_processes_make_are_the_same(job):
    alone, ahead = (train(job(f"train.dataloader_num_workers={number}")) for number in (0, 2))
    assert replace(ahead, step_seconds=(), tokens_per_second=None, train_seconds=0).losses == alone.losses
    assert ahead.real_tokens == alone.real_tokens


def test_a_model_says_which_kernels_it_has_none_of(job, liger):
    model = job().model.get_base_model()
    every = KernelSpec(compile=True, attention="flash_attention_2", liger=True)
    assert unknown(model, every) == ""
    model.config.model_type = "nosuch"
    assert "liger-kernel has none for LlamaForCausalLM; it has for llama" in unknown(model, KernelSpec(liger=True))
    model._supports_flash_attn, model._supports_sdpa, model._no_split_modules = False, False, None
    for spec in (KernelSpec(compile=True), KernelSpec(attention="sdpa"), KernelSpec(attention="flash_attention_3")):
        assert "LlamaForCausalLM" in unknown(model, spec)


@pytest.mark.parametrize(
    ("spec", "device", "reason"),
    [
        (KernelSpec(), "cpu", ""),
        (KernelSpec(attention="sdpa"), "cpu", ""),
        (
            KernelSpec(attention="flash_attention_2"),
            "cpu",
            "train.kernels.attention=flash_attention_2 needs a CUDA device",
        ),
        (KernelSpec(liger=True), "cpu", "train.kernels.liger=true needs a CUDA device"),
        (KernelSpec(attention="flash_attention_2"), "cuda", "needs the package flash_attn: pip install flash-attn"),
        (KernelSpec(attention="flash_attention_3"), "cuda", "needs the package flash_attn_interface"),
        (KernelSpec(liger=True), "cuda", "needs the package liger_kernel: pip install 'harness[liger]'"),
        (KernelSpec(compile=True), "cuda", "needs the package triton"),
        (KernelSpec(compile=True), "cpu", "needs a C++ compiler: none of c++, g++, clang++"),
    ],
)
def test_what_a_device_cannot_do_is_one_sentence(monkeypatch, spec, device, reason):
    monkeypatch.setattr(kernels, "find_spec", lambda module: None)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    found = kernels.unsupported(spec, device)
    assert found == reason or (reason and reason in found)
    assert len(found.splitlines()) <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("asked", ["attention=flash_attention_2", "liger=true", "compile=true"])
def test_a_gpu_computes_the_same_curve_by_each_kernel(job, asked):
    name, _, value = asked.partition("=")
    spec = KernelSpec(**{name: True if value == "true" else value})
    if reason := kernels.unsupported(spec, "cuda"):
        pytest.skip(reason)
    usual = train(job(precision="bf16"))
    assert train(job(f"train.kernels.{asked}", precision="bf16")).losses == pytest.approx(usual.losses, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "cuda", "expected"), [("llama", True, True), ("llama", False, False), ("opt", True, False)]
)
def test_liger_is_on_by_itself_on_a_gpu_where_it_has_kernels_for_the_model(
    job, liger, monkeypatch, kind, cuda, expected
):
    from harness.train import kernels as trained_kernels

    monkeypatch.setattr(trained_kernels, "find_spec", lambda name: name)
    events = []
    made = replace(job(max_steps=3, emit=events.append), cuda=cuda)
    made.model.get_base_model().config.model_type = kind
    train(made)
    assert (liger.norms > 0) is expected
    assert (Measured(liger=True) in events) is expected


def test_liger_is_off_where_it_is_not_installed_or_not_wanted(job, liger, monkeypatch):
    from harness.train import kernels as trained_kernels

    model, asked = job().model, KernelSpec()
    monkeypatch.setattr(trained_kernels, "find_spec", lambda name: None)
    assert trained_kernels.settled(asked, model, True).liger is False
    monkeypatch.setattr(trained_kernels, "find_spec", lambda name: name)
    assert trained_kernels.settled(asked, model, True).liger is True
    assert trained_kernels.settled(asked, model, False).liger is False
    assert trained_kernels.settled(KernelSpec(liger=False), model, True).liger is False


def test_recipes_without_liger_keep_their_identity(experiment):
    from harness.config.experiment import recipe

    found = [recipe(experiment(f"train.kernels.liger={value}"))["train"] for value in ("auto", "false", "true")]
    assert found[0] == found[1]
    assert "kernels" not in found[0]
    assert found[2]["kernels"] == {"liger": True}


def test_a_processor_computes_alike_with_liger_left_and_refused(job):
    """Its shortcuts are on in both, or a recipe that is one would have two curves."""
    losses = [
        train(job(f"train.kernels.liger={value}", precision="bf16", max_steps=3)).losses for value in ("auto", "false")
    ]
    assert losses[0] == losses[1]
