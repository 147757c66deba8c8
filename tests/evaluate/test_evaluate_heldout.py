import math
import random

import numpy
import pytest

from harness.evaluate import heldout


def heldout_rows(number):
    source = random.Random(7)
    rows = []
    for _ in range(number):
        prompt, answer = source.randint(1, 20), source.randint(1, 9)
        ids = [source.randrange(4, 260) for _ in range(prompt + answer)]
        rows.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * answer})
    return rows


def test_nats_are_those_of_the_answer_by_hand(tiny, alone):
    rows = heldout_rows(11)
    scores = heldout.score(tiny[0], rows, "fp32", 96, lambda done: None)
    for row, (nats, count) in zip(rows, scores, strict=True):
        answer = row["completion_mask"].index(1)
        expected, _ = alone(tiny[0], row["input_ids"][:answer], row["input_ids"][answer:])
        assert nats == pytest.approx(-expected, abs=1e-4)
        assert count == sum(row["completion_mask"])
    loss = heldout.metrics(scores)["loss"].value
    assert loss == pytest.approx(sum(nats for nats, _ in scores) / sum(count for _, count in scores))


def test_the_training_loss_is_the_same_number(tiny):
    """Nats per answer token of a batch, as the loop computes it."""
    import torch

    from harness.train.loss import label_nats

    rows = heldout_rows(6)
    scores = heldout.score(tiny[0], rows, "fp32", 96, lambda done: None)
    nats = 0.0
    for row in rows:
        ids, mask = (torch.tensor([row[key]]) for key in ("input_ids", "completion_mask"))
        nats += label_nats(tiny[0], {"input_ids": ids}, ids.masked_fill(mask == 0, -100)).item()
    assert sum(nats for nats, _ in scores) == pytest.approx(nats, rel=1e-5)


def test_perplexity_is_exp_of_the_loss_and_smaller_is_better():
    found = heldout.metrics([(6.0, 3), (2.0, 1), (5.0, 4)])
    assert found["loss"].value == pytest.approx(13 / 8)
    assert found["perplexity"].value == pytest.approx(math.exp(13 / 8))
    assert not found["loss"].higher_is_better
    assert not found["perplexity"].higher_is_better


def test_the_standard_error_is_that_of_a_bootstrap_over_rows():
    generator = numpy.random.default_rng(0)
    counts = generator.integers(1, 12, size=150)
    nats = counts * generator.gamma(3.0, 0.7, size=150)
    loss = heldout.metrics(list(zip(nats.tolist(), counts.tolist(), strict=True)))["loss"]
    drawn = generator.integers(0, 150, size=(4000, 150))
    bootstrap = (nats[drawn].sum(1) / counts[drawn].sum(1)).std()
    assert loss.stderr == pytest.approx(bootstrap, rel=0.06)


def test_one_row_has_no_standard_error():
    found = heldout.metrics([(6.0, 3)])
    assert found["loss"].stderr is None
    assert found["perplexity"].stderr is None


@pytest.mark.parametrize("scores", [[], [(0.0, 0)]])
def test_nothing_to_score_is_an_error(scores):
    with pytest.raises(ValueError, match="no answer token"):
        heldout.metrics(scores)


def test_bits_per_byte_do_not_depend_on_how_a_tokenizer_cuts(tiny):
    rows = [{"input_ids": [5, 6, 70, 71], "completion_mask": [0, 0, 1, 1]}]
    sizes = heldout.num_bytes(rows, tiny[1])
    assert sizes == [len(tiny[1].decode([70, 71]).encode())] == [2]
    found = heldout.metrics([(3.0, 2), (1.0, 1)], [4, 2])
    assert found["bits_per_byte"].value == pytest.approx(4.0 / math.log(2) / 6)
    assert found["bits_per_byte"].stderr == pytest.approx(found["loss"].stderr * 3 / 6 / math.log(2))
    assert "bits_per_byte" not in heldout.metrics([(3.0, 2)])
