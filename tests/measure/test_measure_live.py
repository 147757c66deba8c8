"""Live bytes against sums by hand, real and fake; operations against torch's own counter."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from harness.measure.operations import KINDS, LiveBytes, gradients_of, tensors_in

WIDTH, ROWS = 100, 50
WEIGHT, ACTIVATION = 4 * WIDTH * WIDTH, 4 * ROWS * WIDTH


def two_layers():
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH, bias=False)
    )


def step(live, model, optimizer, inputs):
    with live:
        with live.forward():
            loss = model(inputs).sum()
        after_forward = live.live_bytes
        loss.backward()
        live.hold(gradients_of(model), "gradients")
        optimizer.step()
        optimizer.zero_grad()
    return after_forward, live.live_bytes - loss.numel() * 4


def followed(model, inputs):
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    model(inputs).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    live = LiveBytes()
    live.hold(tensors_in(model), "weights")
    live.hold(tensors_in(optimizer.state), "optimizer")
    live.hold([inputs], "rest")
    return live, step(live, model, optimizer, inputs)


def test_a_step_by_hand():
    inputs = torch.randn(ROWS, WIDTH)
    live, (after_forward, after_step) = followed(two_layers(), inputs)
    at_rest = 2 * WEIGHT + 4 * WEIGHT + 2 * 4 + ACTIVATION  # weights, two moments each, a step each, the inputs
    assert after_forward == at_rest + ACTIVATION + 4, "what the rectifier keeps, and the loss"
    assert after_step == at_rest
    assert live.live_bytes == ACTIVATION, "the model and its optimizer are gone by now"
    assert sum(live.split().values()) == live.peak_bytes > at_rest
    assert set(live.split()) == set(KINDS)
    assert live.split()["weights"] == 2 * WEIGHT
    assert live.split()["optimizer"] == 4 * WEIGHT + 2 * 4


def test_gradients_stand_at_the_peak_of_an_optimizers_step():
    live, _ = followed(two_layers(), torch.randn(1, WIDTH))  # activations are nothing here
    split = live.split()
    assert split["gradients"] == 2 * WEIGHT
    assert split["activations"] < WEIGHT / 10


def test_views_and_tied_weights_cost_nothing_and_what_is_dropped_is_gone():
    live = LiveBytes()
    with live:
        one = torch.zeros(1000)
        two = one.view(10, 100)[3:]
        del one
        assert live.live_bytes == 4000, "the view holds it"
        del two
        assert live.live_bytes == 0
        with torch.no_grad():
            torch.zeros(10) + torch.zeros(10)
        assert (live.live_bytes, live.peak_bytes) == (0, 4000)
    tied = two_layers()
    tied[2].weight = tied[0].weight
    live.hold(tensors_in(tied), "weights")
    assert live.live_bytes == WEIGHT


def test_what_a_model_and_an_optimizer_hold_beside_their_parameters_is_found():
    class Projector:
        def __init__(self):
            self.matrix = torch.zeros(3)

    model = two_layers()
    model.register_buffer("buffer", torch.zeros(5))
    model.beside = torch.zeros(7)
    model[0].weight.quant_state = Projector()
    assert sum(t.numel() for t in tensors_in(model)) == 2 * WIDTH * WIDTH + 5 + 7 + 3
    state = {model[0].weight: {"step": 3, "projector": Projector(), "moments": [torch.zeros(4)]}}
    assert sum(t.numel() for t in tensors_in(state)) == 7, "the keys are the weights, which were counted"


def test_fake_tensors_give_the_same_bytes_and_operations():
    real, _ = followed(two_layers(), torch.randn(ROWS, WIDTH))
    with FakeTensorMode():
        fake, _ = followed(two_layers(), torch.randn(ROWS, WIDTH))
    assert fake.peak_bytes == real.peak_bytes
    assert fake.split() == real.split()
    assert fake.flops == real.flops > 0


def test_operations_are_those_of_torchs_counter():
    model, inputs = two_layers(), torch.randn(ROWS, WIDTH)
    with LiveBytes() as ours, FlopCounterMode(display=False) as theirs:
        model(inputs).sum().backward()
    products = 2 * ROWS * WIDTH * WIDTH
    assert ours.flops == theirs.get_total_flops() == 2 * products + 3 * products, "the first has no gradient of inputs"


def test_attention_on_a_cpu_counts_as_it_does_on_a_gpu():
    query, key = (torch.randn(2, heads, 16, 8, requires_grad=True) for heads in (6, 2))
    with LiveBytes() as live:
        torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True).sum().backward()
    one_product = 2 * (2 * 6) * 16 * 16 * 8
    assert live.flops == (2 + 5) * one_product, "scores and values, then those again and four gradients"


def test_a_quantized_base_computes_what_a_plain_one_does(tiny_model, compose):
    from harness.config import config
    from tests.methods import workshop

    shop, counts = workshop.on(tiny_model), {}
    for method in ("lora", "qlora"):
        model = shop.attach(config.build(compose(f"method={method}", "method.r=4")).method)
        with LiveBytes() as live:
            model(input_ids=torch.tensor([shop.rows[0]["input_ids"]])).logits.sum().backward()
        counts[method] = live.flops
    assert counts["lora"] == counts["qlora"] > 0
