"""Training in bfloat16 on a CPU: short attention against torch's own, adapters whose inputs are left as they are."""

import contextlib
import pydoc

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.config.config import conf_dir
from harness.train import cpu_attention
from harness.train.batches import Collator, labeled
from harness.train.loop import train


def tensors(rows, heads, key_heads, tokens, seen, size=16, seed=0):
    source = torch.Generator().manual_seed(seed)
    shapes = ((rows, tokens, heads, size), (rows, seen, key_heads, size), (rows, seen, key_heads, size))
    drawn = [torch.randn(shape, generator=source).bfloat16().transpose(1, 2) for shape in shapes]
    return [each.requires_grad_() for each in drawn]


def padded_mask(rows, tokens, seen):
    """Each token sees what stands before it and itself, and nothing of the padding at the end of its row."""
    mask = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens)[None, None].repeat(rows, 1, 1, 1)
    for row in range(rows):
        mask[row, :, :, seen - row :] = False
    return mask


def gradients(attend, inputs, weights):
    """What comes out, and the gradients, in float32."""
    for each in inputs:
        each.grad = None
    out = attend(*inputs)
    (out.float() * weights).sum().backward()
    return [out.detach().float(), *(each.grad.float() for each in inputs)]


def exact(query, key, value, mask):
    """In float32, every head with keys and values of its own."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.float().repeat_interleave(groups, 1) for each in (key, value))
    return scaled_dot_product_attention(query.float(), key, value, attn_mask=mask, is_causal=mask is None).transpose(
        1, 2
    )


def layer(groups=1):
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True
    return module


def through_transformers(query, key, value, mask, **options):
    """As a layer of a model calls it, whatever is in the place of "sdpa"."""
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with torch.autocast("cpu", torch.bfloat16):
        return attend(layer(query.shape[1] // key.shape[1]), query, key, value, mask, **options)[0]


def distance(found, expected):
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("rows", "heads", "key_heads", "tokens", "seen", "masked"),
    [
        (3, 4, 4, 12, 12, True),
        (3, 6, 2, 12, 12, True),
        (2, 4, 2, 9, 9, False),
        (2, 4, 2, 9, 14, True),
        (5, 4, 2, 300, 300, True),  # more scores than are computed at once
    ],
)
def test_short_attention_is_as_near_to_float32_as_torchs_own(rows, heads, key_heads, tokens, seen, masked):
    inputs = tensors(rows, heads, key_heads, tokens, seen)
    mask = padded_mask(rows, tokens, seen) if masked else None
    weights = torch.randn(rows, tokens, heads, 16, generator=torch.Generator().manual_seed(1))
    truth = gradients(lambda *each: exact(*each, mask), inputs, weights)
    torchs = gradients(lambda *each: through_transformers(*each, mask), inputs, weights)
    with cpu_attention.short_attention():
        ours = gradients(lambda *each: through_transformers(*each, mask), inputs, weights)
    assert distance(ours, truth) < 0.01
    assert distance(ours, truth) < 2 * distance(torchs, truth)
    assert distance(ours, torchs) > 0, "another way to the same"


@pytest.mark.parametrize("what", ["dropout", "added mask", "long", "float32"])
def test_what_it_does_not_take_is_torchs_own(what, monkeypatch):
    query, key, value = tensors(2, 4, 2, 12, 12)
    mask = padded_mask(2, 12, 12)
    options = {"dropout": 0.5} if what == "dropout" else {}
    if what == "added mask":
        mask = torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, -1e9)
    if what == "long":
        monkeypatch.setattr(cpu_attention, "_LONGEST", 11)

    def attend():
        torch.manual_seed(0)
        if what == "float32":
            each = (query.float(), key.float(), value.float())
            return ALL_ATTENTION_FUNCTIONS["sdpa"](layer(2), *each, mask)[0]
        return through_transformers(query, key, value, mask, **options)

    expected = attend()
    with cpu_attention.short_attention():
        assert torch.equal(attend(), expected)


def losses(job, *overrides, **settings):
    return train(job(*overrides, precision="bf16", **settings)).losses


def leaving():
    """The methods that say that their adapters give the same on inputs that are left as they are."""
    names = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
    classes = {name: OmegaConf.load(conf_dir() / "method" / f"{name}.yaml")["_target_"] for name in names}
    return [name for name, path in classes.items() if pydoc.locate(path).leaves_inputs]


def test_methods_say_so():
    assert leaving() == ["ia3", "lora", "lora_fa", "lora_plus", "qlora", "vera"]


@pytest.mark.parametrize("dropout", [0, 0.1])
@pytest.mark.parametrize("method", leaving())
def test_adapters_whose_inputs_are_left_as_they_are_train_as_before(job, monkeypatch, method, dropout):
    more = () if method == "ia3" else (f"method.{'vera' if method == 'vera' else 'lora'}_dropout={dropout}",)
    monkeypatch.setattr(cpu_attention, "short_attention", contextlib.nullcontext)
    left = losses(job, *more, method=method)
    monkeypatch.setattr(cpu_attention, "inputs_as_they_are", lambda _: contextlib.nullcontext())
    casting = losses(job, *more, method=method)
    assert casting == (pytest.approx(left, rel=1e-3) if dropout else left)  # what is dropped is scaled in bfloat16


def test_a_checkpointed_step_computes_the_same(job):
    plain, checkpointed = (losses(job, gradient_checkpointing=value) for value in ("false", "true"))
    assert plain == checkpointed


def test_losses_are_those_of_torchs_attention_up_to_rounding(job, monkeypatch):
    ours = losses(job)
    monkeypatch.setattr(cpu_attention, "short_attention", contextlib.nullcontext)
    torchs = losses(job)
    assert ours == pytest.approx(torchs, rel=5e-3)
    assert ours != torchs


def test_everything_is_as_before_once_it_is_over(job):
    made = job(precision="bf16")
    before = dict(ALL_ATTENTION_FUNCTIONS)
    adapted = [m for m in made.model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    assert len(adapted) > 10
    with cpu_attention.bfloat16_on_cpu(made.model, leaves_inputs=True):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not before["sdpa"]
        assert not any(m.cast_input_dtype_enabled for m in adapted)
    assert dict(ALL_ATTENTION_FUNCTIONS) == before
    assert all(m.cast_input_dtype_enabled for m in adapted)


def test_float32_is_left_alone(job, monkeypatch):
    def refused(*_):
        raise AssertionError("float32")

    monkeypatch.setattr(cpu_attention, "bfloat16_on_cpu", refused)
    assert train(job()).losses
    with pytest.raises(AssertionError, match="float32"):
        train(job(precision="bf16"))


def test_a_row_that_sees_nothing_gives_numbers(job):
    """Padding on the left of a short row sees nothing at all."""
    inputs = tensors(1, 2, 1, 4, 4)
    mask = padded_mask(1, 4, 4)
    mask[0, 0, 1] = False
    with cpu_attention.short_attention():
        found = gradients(lambda *each: through_transformers(*each, mask), inputs, torch.ones(1, 4, 2, 16))
    assert all(each.isfinite().all() for each in found)


def test_the_model_itself_is_near_on_a_padded_batch(job):
    made = job(precision="bf16", method="full")
    batch = Collator(padding=0)([labeled(row) for row in made.rows[:4]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = made.model(**batch).logits.float()
        with cpu_attention.bfloat16_on_cpu(made.model, leaves_inputs=True):
            found = made.model(**batch).logits.float()
    real = batch["attention_mask"].bool()
    assert not torch.equal(found, expected)
    assert distance([found[real]], [expected[real]]) < 0.02
