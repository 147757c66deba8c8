"""Every method beside a base held in bfloat16, scored in float32."""

import copy

import pytest
import torch

from harness.evaluate import likelihood
from harness.evaluate.batching import Request
from harness.evaluate.precision import computing
from harness.sources import models

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT of normalizations

REQUESTS = [
    Request((5, 6, 7, 8), (9, 10)), Request((5, 6, 7, 8), (11,)), Request((5, 6, 7, 30, 31), (9, 12, 13)),
    Request((20, 21), (22, 23, 24)),
]  # fmt: skip
PLENTY = 2**30


@pytest.fixture
def trained(place, method):
    """A model in bfloat16 whose update is no longer what it started as."""
    torch.manual_seed(0)
    base = models.load(place.spec, method.load_options(torch.bfloat16), method.read)
    model = method.attach(base, place.setting()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn_like(parameter)
    return model


@pytest.fixture
def nats(workshop):
    """A model's log-likelihoods, of requests with the invocation of activated LoRA among them."""
    rows = [(row["input_ids"], row["completion_mask"].index(1)) for row in workshop.rows]
    requests = [*REQUESTS, *(Request(tuple(ids[:start]), tuple(ids[start:])) for ids, start in rows)]

    def scored(model, precision="fp32"):
        return [score.log_likelihood for score in likelihood.score(model, requests, precision, 64, lambda _: None)[0]]

    return scored


def in_float32(model):
    """The same model converted as a whole by torch, quantized layers by bitsandbytes."""
    from bitsandbytes import functional, nn

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear4bit):
                weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
                plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
                plain.weight = torch.nn.Parameter(weight, requires_grad=False)
                setattr(module, name, plain)
    return model.float()


def test_float32_is_the_whole_model_in_float32_to_the_bit(trained, nats):
    """With copies of all weights and with none."""
    before = copy.deepcopy(dict(trained.named_parameters()))
    converted = nats(trained)
    with computing(trained, "fp32", room=PLENTY):
        held = nats(trained)
    after = dict(trained.named_parameters())
    assert {name: (p.dtype, p.requires_grad) for name, p in after.items()} == {
        name: (p.dtype, p.requires_grad) for name, p in before.items()
    }
    assert all(torch.equal(after[name], parameter) for name, parameter in before.items())
    assert held == converted
    assert held == nats(in_float32(copy.deepcopy(trained)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_weights_determine_is_computed_once_and_to_the_bit(trained, method, precision, nats):
    usual = nats(trained, precision)
    with method.fixed_weights(trained), computing(trained, precision, room=PLENTY):
        assert nats(trained, precision) == usual
        with torch.no_grad():
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter += 0.01
    assert (nats(trained, precision) != usual) == method.trains, "nothing of before is left"


@pytest.mark.parametrize("name", ["dora", "qdora", "peft"])
def test_a_norm_is_taken_once_of_each_matrix(make, workshop, name, monkeypatch, nats):
    words = ["method.peft_type=LORA", "method.options={r: 4, use_dora: true, target_modules: all-linear}"]
    method = make(name, *(words if name == "peft" else []))
    model = workshop.attach(method)
    taken, norm = [], torch.linalg.norm
    monkeypatch.setattr(torch.linalg, "norm", lambda *a, **k: taken.append(a) or norm(*a, **k))
    nats(model)
    assert len(taken) > 14, "batches of 64 tokens are several passes"
    taken.clear()
    with method.fixed_weights(model):
        nats(model)
    assert len(taken) == 14
    assert not any(module._dora_cache for module in model.modules() if hasattr(module, "_dora_cache"))


def test_bfloat16_is_another_number(trained, nats):
    assert nats(trained, "bf16") != nats(trained)


def test_a_base_in_8_bits_is_dequantized_and_works_as_before_afterwards(make, workshop):
    """Its own layers round their inputs to 8 bits as well."""
    method = make("qlora", "method.quantization=int8")
    model = workshop.attach(method).eval()
    usual = workshop.logits(model)
    layers = [layer for layer in model.modules() if type(layer).__module__.startswith("bitsandbytes.nn")]
    weights = [layer.state.CB.float() * layer.state.SCB[:, None] / 127 for layer in layers]
    with computing(model, "fp32"):
        dequantized = workshop.logits(model)
    with computing(model, "fp32", room=PLENTY):
        assert torch.equal(workshop.logits(model), dequantized)
    assert len(layers) == 14
    assert torch.equal(workshop.logits(model), usual)
    plain = workshop.load(make("lora"))
    names = [name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)]
    for name, weight in zip([name for name in names if name != "lm_head"], weights, strict=True):
        plain.get_submodule(name).weight.data = weight
    torch.testing.assert_close(dequantized, workshop.logits(plain), rtol=0, atol=1e-5)


def test_merging_by_layer_rounds_each_matrix_once(trained, method):
    """As merging the whole model in float32 does, to the bit."""
    if not method.merges or method.load_options(torch.bfloat16).get("quantization_config"):
        pytest.skip("not merged, or into a base that is dequantized first")
    whole = method.merge(copy.deepcopy(trained).float()).to(torch.bfloat16)
    merged = method.merge(trained)
    assert {p.dtype for p in merged.parameters()} <= {torch.bfloat16, torch.float32}
    for name, parameter in merged.to(torch.bfloat16).named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name)), name
