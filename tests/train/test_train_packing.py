"""Packed examples: the same loss as apart, each token of it, and nothing seen of one another."""

import pytest
import torch

from harness.data.packing import joined, plan
from harness.train.batches import Collator, check_apart, for_model, labeled
from harness.train.loop import _Loop, train


def nats(model, batch):
    """Nats of every labeled token, in order."""
    given = {name: value for name, value in for_model(batch).items() if name != "labels"}
    with torch.no_grad():
        logits = model(**given, use_cache=False).logits[:, :-1].float()
    targets = batch["labels"][:, 1:]
    wanted = targets != -100
    return torch.nn.functional.cross_entropy(logits[wanted], targets[wanted], reduction="none")


def test_every_token_has_the_loss_that_it_has_alone(job, rows):
    examples = rows(7)
    model = job().model.eval()
    packed = [joined(examples[:4]), joined(examples[4:])]  # of unlike lengths, so that one is padded
    together = nats(model, Collator(padding=3)([labeled(row) for row in packed]))
    alone = torch.cat([nats(model, Collator(padding=3)([labeled(row)])) for row in examples])
    assert len(together) == len(alone) > 30
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_loop_trains_as_it_does_without_packing(job, rows):
    examples = rows(8)
    apart = train(job(rows=examples, max_steps=3))
    packed = [joined(examples[i : i + 2]) for i in range(0, 8, 2)]
    batch = {"global_batch_size": 4, "micro_batch_size": 2, "packing": "true", "max_steps": 3}
    together = train(job(rows=packed, **batch))
    assert together.losses == pytest.approx(apart.losses, abs=1e-5)
    assert (together.real_tokens, together.trained_tokens) == (apart.real_tokens, apart.trained_tokens)


def test_a_model_that_lets_examples_see_each_other_is_refused(job):
    made = job(packing="true")
    check_apart(made.model)
    forward = made.model.forward

    def blind(**inputs):
        return forward(**{name: value for name, value in inputs.items() if name != "position_ids"})

    made.model.forward = blind
    with pytest.raises(ValueError, match=r"train.packing=true: .* lets packed examples see each other"):
        _Loop(made)


def test_the_plan_holds_every_example_once_and_no_row_is_too_long():
    lengths = [9, 3, 7, 1, 4, 6, 10, 2]
    rows = plan(lengths, 10)
    assert sorted(example for row in rows for example in row) == list(range(8))
    assert max(sum(lengths[example] for example in row) for row in rows) <= 10
    assert len(rows) == 5
    assert plan(lengths, 10) == rows


def varlen(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, cu_seq_lens_k=None, **named):
    """What FlashAttention computes of one row of sequences, sequence by sequence, on a processor."""
    assert attention_mask is None
    assert len(query) == 1
    assert torch.equal(cu_seq_lens_q, cu_seq_lens_k)
    assert cu_seq_lens_q.dtype == torch.int32
    lengths = cu_seq_lens_q.diff().tolist()
    assert sum(lengths) == query.shape[2]
    assert max(lengths) <= named["max_length_q"] == named["max_length_k"]
    heads = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(heads, dim=1) for each in (key, value))
    parts = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    done = [torch.nn.functional.scaled_dot_product_attention(*one, is_causal=True, scale=scaling) for one in parts]
    return torch.cat(done, dim=2).transpose(1, 2), None


def test_flash_attention_is_told_where_the_examples_of_a_micro_batch_begin(job, rows, monkeypatch):
    """The kernel is played by one that computes each sequence alone; the loss is that of the examples apart."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    examples = rows(7)
    model = job().model
    packed = [joined(examples[:4]), joined(examples[4:])]
    batch = Collator(padding=3, ends=True)([labeled(row) for row in packed])
    assert batch["cu_seq_lens"][-1] == batch["input_ids"].numel()
    losses, gradients = [], []
    for flash in (False, True):
        inputs = for_model(batch if flash else {k: v for k, v in batch.items() if k != "cu_seq_lens"})
        assert inputs["input_ids"].shape == ((1, batch["input_ids"].numel()) if flash else batch["input_ids"].shape)
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", varlen)
        monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2" if flash else "sdpa")
        model.zero_grad()
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert len(gradients[0]) == 28
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_loop_gives_the_ends_where_flash_attention_was_asked_for(job, rows):
    packed = [joined(rows(4)), joined(rows(4, seed=1))]
    words = ("train.kernels.attention=flash_attention_2",)
    settings = {"packing": "true", "precision": "bf16", "max_length": 128, "rows": packed}
    assert _Loop(job(*words, **settings)).data_collator.ends
    assert not _Loop(job(**settings)).data_collator.ends
