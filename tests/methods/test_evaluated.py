"""Every method beside a base held in bfloat16, scored in float32."""

import copy

import pytest
import torch

from harness.evaluate import likelihood
from harness.evaluate.layout import Request
from harness.evaluate.precision import computing
from harness.sources import models

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT of normalisations

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


def nats(model, precision="fp32"):
    return [score.log_likelihood for score in likelihood.score(model, REQUESTS, precision, 64, lambda _: None)[0]]


def in_float32(model):
    """The same model converted as a whole by torch, quantised layers by bitsandbytes."""
    from bitsandbytes import functional, nn

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear4bit):
                weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
                plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
                plain.weight = torch.nn.Parameter(weight, requires_grad=False)
                setattr(module, name, plain)
    return model.float()


def test_float32_is_the_whole_model_in_float32_to_the_bit(trained):
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


def test_bfloat16_is_another_number(trained):
    assert nats(trained, "bf16") != nats(trained)


def test_a_base_in_8_bits_is_dequantised_and_works_as_before_afterwards(make, workshop):
    """Its own layers round their inputs to 8 bits as well."""
    method = make("qlora", "method.storage=int8")
    model = workshop.attach(method).eval()
    usual = workshop.logits(model)
    layers = [layer for layer in model.modules() if type(layer).__module__.startswith("bitsandbytes.nn")]
    weights = [layer.state.CB.float() * layer.state.SCB[:, None] / 127 for layer in layers]
    with computing(model, "fp32"):
        dequantised = workshop.logits(model)
    with computing(model, "fp32", room=PLENTY):
        assert torch.equal(workshop.logits(model), dequantised)
    assert len(layers) == 14
    assert torch.equal(workshop.logits(model), usual)
    plain = workshop.load(make("lora"))
    names = [name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)]
    for name, weight in zip([name for name in names if name != "lm_head"], weights, strict=True):
        plain.get_submodule(name).weight.data = weight
    torch.testing.assert_close(dequantised, workshop.logits(plain), rtol=0, atol=1e-5)
