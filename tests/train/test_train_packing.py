"""Packed examples: the same loss as apart, each token of it, and nothing seen of one another."""

import pytest
import torch

from harness.data.pack import joined, plan
from harness.train.batches import Collator, check_apart, for_model, labelled
from harness.train.loop import _Loop, train


def nats(model, batch):
    """Nats of every labelled token, in order."""
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
    together = nats(model, Collator(padding=3)([labelled(row) for row in packed]))
    alone = torch.cat([nats(model, Collator(padding=3)([labelled(row)])) for row in examples])
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
