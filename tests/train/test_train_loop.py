"""The loop against plain PyTorch, and what it leaves behind."""

import time
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import LlamaForCausalLM

from harness.methods.full import Full
from harness.records.events import Measured, StepLogged
from harness.train.loop import DivergedError, LengthGroupedSampler, _Loop, total_steps, train


def in_order(job):
    """Batches as the loop must see them: epoch after epoch, none across a boundary."""
    spec = job.spec
    lengths = [len(row["input_ids"]) for row in job.rows]
    sampler = LengthGroupedSampler(lengths, spec.global_batch_size, job.seed, spec.group_by_length)
    while True:
        order = list(sampler)
        yield from (order[i : i + spec.global_batch_size] for i in range(0, len(order), spec.global_batch_size))


def rate(step, total, warmup, peak):
    """Linear schedule with warm-up, of the step counted from 0."""
    rising = step / warmup if step < warmup else 1.0
    return peak * (rising if step < warmup else (total - step) / (total - warmup))


def by_hand(job, batch):
    """The same training in plain PyTorch: losses, gradient norms and rates."""
    model, spec = job.model.train(), job.spec
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": spec.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=spec.lr,
    )
    total, history = total_steps(spec, len(job.rows)), []
    for step, chosen in zip(range(total), in_order(job), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, total, -(-total * spec.warmup_steps // 1), spec.lr)
        inputs = batch([job.rows[i] for i in chosen])
        labels = inputs.pop("labels")
        logits = model(**inputs).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        history.append((loss.item(), norm.item(), optimizer.param_groups[0]["lr"]))
    return [list(column) for column in zip(*history, strict=True)]


@pytest.mark.parametrize(("method", "lr"), [("lora", 1e-2), ("dora", 1e-2), ("full", 1e-3)])
def test_every_step_is_that_of_a_loop_written_by_hand(method, lr, job, batch):
    losses, norms, rates = by_hand(job(method=method, max_steps=7, lr=lr), batch)  # 20 rows: epochs of 8, 8 and 4
    result = train(job(method=method, max_steps=7, lr=lr))
    assert result.losses == pytest.approx(losses, abs=1e-5)
    assert result.gradient_norms == pytest.approx(norms, rel=1e-3)
    assert result.learning_rates == pytest.approx(rates, rel=1e-6)
    assert rates[:3] == pytest.approx([0, lr / 2, lr])
    assert losses[-1] < losses[0]


def test_accumulation_is_one_large_batch(job, rows):
    data = rows(18)  # the last step of an epoch has 2 rows
    whole = train(job(rows=data, max_steps=6, micro_batch_size=8))
    parts = train(job(rows=data, max_steps=6, micro_batch_size=4))
    single = train(job(rows=data, max_steps=6, micro_batch_size=1))
    for other in (parts, single):
        assert other.losses == pytest.approx(whole.losses, abs=1e-5)
        assert other.gradient_norms == pytest.approx(whole.gradient_norms, rel=1e-3)
        assert (other.real_tokens, other.trained_tokens) == (whole.real_tokens, whole.trained_tokens)
    assert sum(single.padded_tokens) == sum(single.real_tokens) < sum(whole.padded_tokens)


def _without_others(
    self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, use_cache=None, return_dict=None,
    output_attentions=None, output_hidden_states=None,
):  # fmt: skip
    return _LLAMA_FORWARD(self, input_ids, attention_mask, inputs_embeds=inputs_embeds, labels=labels, use_cache=False)


_LLAMA_FORWARD = LlamaForCausalLM.forward
# as Gemma 3n and 4 of transformers, and as code of a model's folder
UNCOUNTED = {"says so": {"accepts_loss_kwargs": False}, "takes no more arguments": {"forward": _without_others}}


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("kind", UNCOUNTED)
def test_a_step_is_one_mean_over_its_tokens_whatever_the_models_own_loss_takes(job, rows, monkeypatch, kind, cuda):
    """Else it would be the mean of its micro batches' means, and several processes would multiply it."""
    data = rows(24)
    usual = train(job(rows=data, micro_batch_size=2))
    for name, value in UNCOUNTED[kind].items():
        monkeypatch.setattr(LlamaForCausalLM, name, value, raising=False)
    found = train(replace(job(rows=data, micro_batch_size=2), cuda=cuda))
    assert found.losses == pytest.approx(usual.losses, abs=2e-5)
    assert found.gradient_norms == pytest.approx(usual.gradient_norms, rel=2e-3)


def test_both_heads_give_the_same_loss_and_gradients(job, batch, rows):
    """The branch for CUDA runs on the CPU as well."""
    found = []
    for cuda in (False, True):
        loop = _Loop(replace(job(), cuda=cuda))
        loss = loop.compute_loss(loop.model, batch(rows(8)), num_items_in_batch=torch.tensor(50))
        loss.backward()
        found.append((loss.item(), [p.grad for p in loop.model.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert len(found[0][1]) == 28
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("cuda", [False, True])
def test_the_first_token_is_predicted_by_nothing_and_counts_nowhere(job, rows, batch, cuda):
    data = [{**row, "completion_mask": [1] * len(row["input_ids"])} for row in rows(8)]
    loop = _Loop(replace(job(rows=data, loss_on="all"), cuda=cuda))
    seen = next(iter(loop.get_train_dataloader()))
    assert (seen["labels"][:, 0] == -100).all()
    expected = loop.model(**seen, use_cache=False).loss.item()
    assert loop.compute_loss(loop.model, seen).item() == pytest.approx(expected, rel=1e-5)
    result = train(job(rows=data, loss_on="all", max_steps=1))
    assert result.trained_tokens == (sum(len(row["input_ids"]) - 1 for row in data),)
    assert result.losses[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_prompts_carry_no_label_and_the_end_of_sequence_does(job, rows, pad):
    data = rows(8)
    made = job(rows=data)
    made.tokenizer.pad_token = pad
    seen = next(iter(_Loop(made).get_train_dataloader()))
    by_ids = {tuple(row["input_ids"]): row["completion_mask"] for row in data}
    for ids, mask, labels in zip(seen["input_ids"], seen["attention_mask"], seen["labels"], strict=True):
        length = int(mask.sum())
        learnt = by_ids[tuple(ids[:length].tolist())]
        expected = [int(token) if keep else -100 for token, keep in zip(ids[:length], learnt, strict=True)]
        assert labels.tolist() == expected + [-100] * (len(ids) - length)
        assert labels[length - 1] == 2


def test_quantized_adapters_stay_in_float32_unrounded(job):
    made = job(method="qlora")
    before = {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}
    loop = _Loop(made)
    after = {name: p for name, p in loop.model.named_parameters() if p.requires_grad}
    assert after.keys() == before.keys()
    for name, parameter in after.items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])
    assert any(not torch.equal(p, p.bfloat16().float()) for p in after.values()), "rounding would have shown"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_models_forward_is_its_own_again(job, precision, method):
    made = job(method=method, precision=precision, max_steps=2)
    train(made)
    plain = made.model.get_base_model() if method == "lora" else made.model
    for model in (made.model, plain):
        assert "forward" not in vars(model)
        assert model.forward.__func__ is type(model).forward
    trained = {p.dtype for p in made.model.parameters() if p.requires_grad}
    assert trained == {torch.float32}, "what trains is float32, whatever the precision"
    held = torch.bfloat16 if (precision, method) == ("bf16", "lora") else torch.float32
    assert next(plain.parameters()).dtype == held


def test_bfloat16_stays_near_float32(job):
    exact, rounded = train(job(max_steps=6)), train(job(max_steps=6, precision="bf16"))
    assert exact.losses != rounded.losses
    assert rounded.losses == pytest.approx(exact.losses, abs=0.05)


def test_gradient_checkpointing_changes_no_number(job):
    plain, recomputed = train(job()), train(job(gradient_checkpointing=True))
    assert recomputed.losses == pytest.approx(plain.losses, abs=1e-6)


def test_vectors_are_not_decayed(job):
    loop = _Loop(job(method="dora", weight_decay=0.1))
    optimizer = loop.create_optimizer()
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trained = [p for p in loop.model.parameters() if p.requires_grad]
    assert decays == {id(p): 0.1 if p.dim() > 1 else 0.0 for p in trained}
    assert set(decays.values()) == {0.0, 0.1}


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("constant_with_warmup", 0.5, [0, 0.5, 1, 1]),
        ("constant_with_warmup", 2, [0, 0.5, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [0, 0.5, 1, 0.5]),
        ("cosine", 0.0, [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_rates_follow_the_schedule(job, schedule, warmup, expected):
    result = train(job(lr_scheduler_type=schedule, warmup_steps=warmup))
    assert result.learning_rates == pytest.approx([1e-2 * factor for factor in expected], rel=1e-5)


def test_one_seed_repeats_bit_for_bit_and_another_differs(job):
    first, again, other = (train(job("method.lora_dropout=0.1", seed=seed)) for seed in (0, 0, 1))
    assert (first.losses, first.gradient_norms) == (again.losses, again.gradient_norms)
    assert first.losses != other.losses
    assert first.real_tokens != other.real_tokens, "the order of the rows follows the seed"


def test_adapters_are_drawn_from_the_seed(job):
    drawn = [dict(job(seed=seed).model.named_parameters()) for seed in (0, 0, 1)]
    names = [name for name in drawn[0] if "lora_A" in name]
    assert len(names) == 14
    for name in names:
        assert torch.equal(drawn[0][name], drawn[1][name])
        assert not torch.equal(drawn[0][name], drawn[2][name])


def test_validation_is_outside_the_clock(job):
    pause, calls = 1.0, []

    def validate():
        calls.append(time.sleep(pause))
        return 3.5

    start = time.perf_counter()
    result = train(job(validate=validate, eval_every=2, max_steps=5))
    wall = time.perf_counter() - start
    assert len(calls) == 2
    assert result.validation == ((2, 3.5), (4, 3.5))
    assert result.train_seconds == pytest.approx(sum(result.step_seconds))
    assert result.train_seconds <= wall - 2 * pause


def test_validation_changes_nothing_in_training(job, rows):
    from harness.evaluate import heldout

    made, heldout_rows = {}, rows(9, seed=5)

    def validate():
        torch.rand(7)  # whatever a validation draws
        scores = heldout.score(made["job"].model, heldout_rows, "fp32", 4, lambda done: None)
        return heldout.metrics(scores)["loss"].value

    results = []
    for every in ("null", 1):
        made["job"] = job("method.lora_dropout=0.2", validate=validate, eval_every=every)
        results.append(train(made["job"]))
    assert results[0].losses == results[1].losses
    assert results[0].gradient_norms == results[1].gradient_norms
    assert len(results[1].validation) == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_validation_within_training_is_the_one_after_it(job, rows, precision):
    """The autocast and the fused head of training are not around it."""
    from harness.evaluate import heldout

    made, heldout_rows = {}, rows(9, seed=5)

    def validate():
        scores = heldout.score(made["job"].model, heldout_rows, precision, 4, lambda done: None)
        return heldout.metrics(scores)["loss"].value

    made["job"] = job(validate=validate, precision="bf16", max_steps=3, eval_every=3)
    assert train(made["job"]).validation == ((3, validate()),)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_that_is_no_number_names_its_step(job, precision):
    made = job(method="full", precision=precision)
    made.model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"^step 1: loss nan, gradient norm nan$"):
        train(made)


def test_a_run_that_blows_up_ends_at_the_step_where_it_does(job):
    with pytest.raises(DivergedError, match=r"^step [2-4]: loss "):
        train(job(method="full", lr=1e30, lr_scheduler_type="constant", warmup_steps=0.0))


@dataclass(frozen=True, kw_only=True)
class Beside(Full):
    """Trains a parameter that the forward pass never sees."""

    def attach(self, model, setting):
        model.beside = torch.nn.Parameter(torch.ones(3))
        return model


@dataclass(frozen=True, kw_only=True)
class Canceled(Full):
    """Trains the last norm, whose gradient a head of zeros stops."""

    def attach(self, model, setting):
        model.lm_head.weight.data.zero_()
        model.model.norm.weight.requires_grad_(True)
        return model


@pytest.mark.parametrize("method", [Beside, Canceled])
def test_training_nothing_is_an_error(job, method):
    with pytest.raises(RuntimeError, match="no trained parameter receives a gradient"):
        train(job(method="full", instead=method))


def test_progress_is_told_at_every_step(job):
    events = []
    result = train(job(emit=events.append, max_steps=4))
    steps = [event for event in events if isinstance(event, StepLogged)]
    assert [(event.done, event.total) for event in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert tuple(event.loss for event in steps) == result.losses
    assert [event.tokens_per_second is None for event in steps] == [True, True, False, False]
    assert [type(event) for event in events if event not in steps] == [Measured]


@pytest.mark.parametrize(("epochs", "rows", "steps"), [(1, 20, 3), (3, 20, 9), (0.5, 16, 1), (0.01, 16, 1), (2, 16, 4)])
def test_epochs_are_whole_passes_over_the_rows(experiment, epochs, rows, steps):
    assert total_steps(experiment(max_steps="null", epochs=epochs).train, rows) == steps


def test_every_row_is_trained_on_once_per_epoch(job, rows):
    data = rows(20)
    result = train(job(rows=data, max_steps="null", epochs=2))
    tokens = sum(len(row["input_ids"]) for row in data)
    assert [sum(result.real_tokens[i : i + 3]) for i in (0, 3)] == [tokens, tokens]


def test_a_process_that_sees_several_gpus_trains_on_one(job, monkeypatch):
    from harness.train import loop

    class SeesEight(loop.SFTConfig):
        """What transformers does of `torch.cuda.device_count()` where no launcher has said which GPU is whose."""

        def __post_init__(self):
            super().__post_init__()
            self._n_gpu = 8

    monkeypatch.setattr(loop, "SFTConfig", SeesEight)
    assert len(train(job(max_steps=1)).losses) == 1
