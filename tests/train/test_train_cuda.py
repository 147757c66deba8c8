"""The way a GPU computes a step, taken by a processor: the same numbers, less work."""

import contextlib
import os
import types
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.measure.profile import Profiler
from harness.train import distributed
from harness.train.batches import FILLER, Collator, Shared, for_model, labeled, reads_padding
from harness.train.loop import _Loop, train

SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OPT = {
    "vocab_size": 300, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "word_embed_proj_dim": 64, **ENDS,
}  # fmt: skip
CAUSAL = {
    "llama": SMALL,
    "mistral": {**SMALL, "sliding_window": 8},
    "qwen3": SMALL,
    "gemma2": {**SMALL, "head_dim": 16, "sliding_window": 8},
    "opt": OPT,
    "gpt2": {"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4, **ENDS},
}
NOT_KNOWN = {
    "bert": {**SMALL, "is_decoder": False},  # sees what stands behind
    "mamba": {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, **ENDS},  # has no attention
    "gemma3_text": {**SMALL, "head_dim": 16, "use_bidirectional_attention": True},
}


def tiny(kind, shape):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval()


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_causal_model_computes_the_same_without_a_mask_to_the_bit(kind, rows):
    """Losses and gradients: padding stands behind what is real, and nothing reads it."""
    model = tiny(kind, CAUSAL[kind])
    assert not reads_padding(model)
    batch = Collator(padding=0)([labeled(row) for row in rows(4)])
    assert not batch["attention_mask"].all()
    found = []
    for masked in (True, False):
        inputs = for_model(batch, masked)
        assert ("attention_mask" in inputs) is masked
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", NOT_KNOWN)
def test_a_model_that_may_read_padding_keeps_its_mask(kind):
    assert reads_padding(tiny(kind, NOT_KNOWN[kind]))


def test_code_that_is_not_of_the_library_keeps_its_mask(monkeypatch):
    model = tiny("llama", SMALL)
    monkeypatch.setattr(type(model), "__module__", "modeling_of_somebody")
    assert reads_padding(model)


def test_virtual_tokens_in_front_need_no_mask_either(job, rows):
    for method in ("prompt", "prefix", "p_tuning", "lora"):
        made = job(method=method, max_steps=1)
        batch = Collator(padding=3)([labeled(row) for row in rows(4)])
        with torch.no_grad():
            losses = [made.model.eval()(**for_model(batch, masked)).loss for masked in (True, False)]
        assert torch.equal(*losses), method


@pytest.mark.parametrize(
    ("longest", "limit", "expected"), [(24, 100, 64), (64, 100, 64), (65, 100, 100), (65, 200, 128)]
)
def test_lengths_are_multiples_up_to_the_longest_row_allowed(longest, limit, expected):
    row = labeled({"input_ids": [5] * longest, "completion_mask": [1] * longest})
    batch = Collator(padding=3, multiple=64, limit=limit)([row])
    assert {value.shape for value in batch.values()} == {(1, expected)}
    assert batch["attention_mask"].sum() == longest
    assert (batch["input_ids"][0, longest:] == 3).all()
    assert (batch["labels"][0, longest:] == -100).all()


@pytest.mark.parametrize("method", ["lora", "full", "qlora", "dora", "vera", "ia3", "prefix"])
def test_a_gpus_path_trains_as_a_cpus_does(method, job, rows):
    """In float32 all that is left out, padded or taken in tiles changes rounding alone."""
    data = rows(20, longest=40)
    usual = train(job(method=method, rows=data, max_steps=5))
    cuda = train(replace(job(method=method, rows=data, max_steps=5), cuda=True))
    assert cuda.losses == pytest.approx(usual.losses, abs=2e-5)
    assert cuda.gradient_norms == pytest.approx(usual.gradient_norms, rel=2e-3)
    assert (cuda.real_tokens, cuda.trained_tokens) == (usual.real_tokens, usual.trained_tokens)
    assert set(cuda.padded_tokens) == {8 * 64, 4 * 64}, "every length is a multiple of 64, and at most max_length"


@pytest.mark.parametrize("method", ["lora", "vera", "ia3"])
def test_uncast_inputs_of_adapters_change_no_bit(method, job, monkeypatch):
    """PEFT casts bfloat16 to float32, and autocast casts back: no bit is lost on the way."""
    from harness.train import cpu_attention

    losses, casts = [], []
    real = cpu_attention.inputs_as_they_are
    for uncast in (False, True):
        made = replace(job(method=method, precision="bf16", max_steps=4), cuda=True)
        if not uncast:
            monkeypatch.setattr(cpu_attention, "inputs_as_they_are", lambda _: cpu_attention.contextlib.nullcontext())
        else:
            monkeypatch.setattr(cpu_attention, "inputs_as_they_are", lambda model: casts.append(model) or real(model))
        losses.append(train(made))
    assert losses[0].losses == losses[1].losses
    assert losses[0].gradient_norms == losses[1].gradient_norms
    assert len(casts) == 1 + 4, "the probe and the steps"


def test_the_filler_of_a_process_without_rows_is_computed(job):
    loop = _Loop(replace(job(), cuda=True))
    batch = loop.data_collator([FILLER])
    loss = loop.compute_loss(loop.model, for_model(batch, loop.masked), torch.tensor(1))
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize("kind", [*CAUSAL, *NOT_KNOWN])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_model_is_given_a_filler_of_which_everything_is_masked(kind, attention):
    """What a kernel gives where nothing may be seen is its own affair, and 0 times NaN is no gradient of 0."""
    model = tiny(kind, {**CAUSAL, **NOT_KNOWN}[kind])
    if kind != "mamba" and (attention == "eager" or model._supports_sdpa):
        model.set_attn_implementation(attention)
    batch = Collator(padding=0, multiple=64, limit=512)([FILLER])
    assert batch["attention_mask"].sum() == 0, "it counts as nothing"
    inputs = for_model(batch, masked=True)
    assert "attention_mask" not in inputs
    assert inputs["input_ids"].shape == (1, 1)
    model(input_ids=inputs["input_ids"]).logits.sum().mul(0).backward()
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in model.parameters())


PROBED = {
    "lora": ["method.lora_dropout=0.3"],
    "full": ["method.precision=bf16_fp32_master", "train.precision=bf16"],
    "adalora": ["method.steps_between=1", "method.warmup_fraction=0.2", "method.final_fraction=0.4"],
    "galore": ["method.r=4", "method.update_proj_gap=2"],
}


def counting(made):
    """The job, with a buffer in its model that forward passes in training add to, and the shapes of these passes."""
    shapes = []

    def count(module, inputs, named):
        if module.training and "labels" in named:
            module.passes.add_(1)
            shapes.append(named["input_ids"].shape)

    made.model.register_buffer("passes", torch.zeros(1), persistent=False)
    made.model.register_forward_pre_hook(count, with_kwargs=True)
    return made, shapes


@pytest.mark.parametrize("method", PROBED)
def test_the_largest_micro_batch_is_tried_first_and_leaves_nothing_behind(method, job, monkeypatch):
    """Generators, gradients, the optimizer's state and buffers: the curve is the same to the bit."""
    data = [{"input_ids": [4 + i] * (130 if i == 17 else 12), "completion_mask": [1] * (130 if i == 17 else 12)}
            for i in range(24)]  # fmt: skip
    settings = {"method": method, "rows": data, "max_steps": 3, "micro_batch_size": 2, "max_length": 200, "lr": 1e-3}
    results = []
    for probed in (True, False):
        if not probed:
            monkeypatch.setattr(_Loop, "_probe", lambda loop: None)
        made, shapes = counting(replace(job(*PROBED[method], **settings), cuda=True))
        training = train(made)
        results.append((training, dict(made.model.named_parameters()), made.model.passes.item(), shapes))
    (training, weights, passes, shapes), (plain, usual, usual_passes, usual_shapes) = results
    assert training.losses == plain.losses
    assert training.gradient_norms == plain.gradient_norms
    assert training.padded_tokens == plain.padded_tokens
    assert all(torch.equal(weights[name], usual[name]) for name in usual)
    assert passes == usual_passes == len(usual_shapes) == 3 * 4
    assert shapes == [(2, 192), *usual_shapes], "the row of 130 tokens is in the first epoch"


def test_memory_that_will_run_out_does_so_before_the_first_step(job):
    data = [{"input_ids": [4] * (60 if i == 17 else 12), "completion_mask": [1] * (60 if i == 17 else 12)}
            for i in range(24)]  # fmt: skip
    made = replace(job(rows=data, max_steps=3, micro_batch_size=1, group_by_length="false"), cuda=True)
    made.model.register_forward_pre_hook(_refuse_long, with_kwargs=True)
    loop = _Loop(made)
    with pytest.raises(torch.OutOfMemoryError):
        loop.train()
    assert loop.state.global_step == 0
    assert not loop.optimizer.state


@pytest.mark.parametrize("micro_batch_size", [2, 4, 8])
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_tried_is_among_what_is_left_to_train_on(job, rows, monkeypatch, micro_batch_size, ranks):
    """Of a run that resumes as well, at any step: what it has behind it needs no memory any more."""
    if micro_batch_size * ranks > 8:
        return
    data = rows(27)
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    loop = _Loop(job(rows=data, max_steps=10, micro_batch_size=micro_batch_size))
    monkeypatch.setattr(distributed, "rank", lambda: ranks - 1)
    loop.state.max_steps, looked_at = 10, 0
    number = 8 // (micro_batch_size * ranks)
    every = []
    order = loop._order()
    while len(every) < 10:
        epoch = list(Shared(order, ranks - 1, ranks, 8, micro_batch_size))
        every += [epoch[first : first + number] for first in range(0, len(epoch), number)]
    for done in range(10):
        loop.watcher.last_step = done
        assert list(loop._micro_batches_left()) == [batch for step in every[done:10] for batch in step]
        looked_at += 1
    assert looked_at == 10


@pytest.mark.parametrize("accumulated", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_profile_without_the_kernels_that_does_not_fit_costs_the_profile_alone(job, caplog, accumulated, fails):
    """The profiled step is the only one computed without them: training fits, and its curve is the same to the bit."""
    settings = {"max_steps": 4, "micro_batch_size": 4 if accumulated else 8, "lr": 1e-3}
    results = []
    for room in (True, not fails):
        made, asides = job("train.kernels.attention=eager", "method.lora_dropout=0.3", **settings), []

        @contextlib.contextmanager
        def aside(asides=asides):
            asides.append(1)
            yield

        if not room:
            made.model.register_forward_pre_hook(_refuse_other_kernels)
        training = train(replace(made, cuda=True, aside=aside))
        results.append((training, dict(made.model.named_parameters())))
        assert (training.profile is None) is not room
        assert len(asides) == (2 if room else 1), "the trial, and the profiled step"
    (plain, usual), (found, weights) = results
    assert len(found.losses) == 4
    if not fails:
        assert found.losses == plain.losses
        assert all(torch.equal(weights[name], usual[name]) for name in usual)
    assert ("step 2 has no profile: memory runs out" in caplog.text) is fails


def test_another_error_of_the_trial_is_an_error(job):
    made = job("train.kernels.attention=eager", max_steps=3)
    made.model.register_forward_pre_hook(_break_other_kernels)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(replace(made, cuda=True))


def test_no_trial_is_made_of_a_profile_that_there_is_or_that_is_not_wanted(job, monkeypatch):
    tried = []
    monkeypatch.setattr(_Loop, "_fits_without_kernels", lambda loop: tried.append(loop) or True)
    for words, profile in (((), True), (("train.kernels.attention=eager",), False)):
        train(replace(job(*words, max_steps=3), cuda=True, profile=profile))
    assert tried == []
    profiler = Profiler(2)
    assert [profiler.is_ahead_of(step) for step in (0, 1, 2, 3)] == [True, True, False, False]


def _refuse_other_kernels(module, _):
    if module.training and module.config._attn_implementation != "eager":
        raise torch.OutOfMemoryError("CUDA out of memory")


def _break_other_kernels(module, _):
    if module.training and module.config._attn_implementation != "eager":
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


EXPERTS = {"num_experts_per_tok": 2}
MIXTURES = {
    "mixtral": {**SMALL, **EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**SMALL, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16},
    "olmoe": {**SMALL, **EXPERTS, "num_experts": 4},
    "gpt_oss": {**SMALL, **EXPERTS, "num_local_experts": 4, "head_dim": 16},
}


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_of_experts_computes_no_loss_that_it_is_not_trained_on(
    kind, asked, job, tiny_model, tmp_path, monkeypatch
):
    """Nor does it tell whoever loads what was saved to compute it."""
    from transformers import AutoTokenizer
    from transformers.models.mixtral import modeling_mixtral

    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "base")
    shape = AutoConfig.for_model(kind, **MIXTURES[kind], output_router_logits=asked, router_aux_loss_coef=0.02)
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "base")
    computed = []
    monkeypatch.setattr(modeling_mixtral, "load_balancing_loss_func", lambda *_, **__: computed.append(1) or 0.0)
    made = job(f"model.path={tmp_path / 'base'}", method="lora", max_steps=2)
    base = made.model.get_base_model()
    train(replace(made, cuda=True))
    assert computed == []
    assert (base.config.output_router_logits, base.config.router_aux_loss_coef) == (asked, 0.02)


def _refuse_long(module, inputs, named):
    if named["attention_mask" if "attention_mask" in named else "labels"].ne(-100).sum() > 50:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_probe_holds_what_the_optimizer_will_hold(job):
    loop = _Loop(replace(job(method="full"), cuda=True))
    loop.create_optimizer()
    weights = sum(p.nbytes for p in loop.model.parameters())
    assert loop._future_optimizer_state().nbytes == 2 * weights, "AdamW's moments"
    master = replace(job("method.precision=bf16_fp32_master", method="full", precision="bf16"), cuda=True)
    loop = _Loop(master)
    loop.create_optimizer()
    numbers = sum(p.numel() for p in loop.model.parameters())
    assert loop._future_optimizer_state().nbytes == pytest.approx(8 * numbers, rel=1e-3), "the copy is there already"


def test_deterministic_training_repeats_on_a_gpus_path_and_leaves_no_switch_on(job, monkeypatch):
    """A processor repeats to the bit without it, and is left alone."""
    from harness.train import deterministic

    seen = []
    real = _Loop.compute_loss

    def looked_at(loop, *arguments, **named):
        fused = torch.backends.cuda
        switches = (fused.flash_sdp_enabled(), fused.mem_efficient_sdp_enabled(), fused.cudnn_sdp_enabled())
        seen.append((torch.are_deterministic_algorithms_enabled(), *switches))
        return real(loop, *arguments, **named)

    monkeypatch.setattr(_Loop, "compute_loss", looked_at)
    usual, asked = train(job(max_steps=2)), train(job(max_steps=2, deterministic="true"))
    assert asked.losses == usual.losses
    assert seen == [(False, True, True, True)] * 4
    seen.clear()
    runs = [train(replace(job(max_steps=2, deterministic="true"), cuda=True)) for _ in range(2)]
    assert runs[0].losses == runs[1].losses
    assert runs[0].losses == pytest.approx(usual.losses, abs=1e-5)
    assert set(seen) == {(True, False, False, False)}
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    deterministic.prepare(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    deterministic.prepare(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_settings_of_a_gpu_change_no_recipe_that_leaves_them(experiment):
    from harness.config.experiment import recipe

    plain, asked = recipe(experiment()), recipe(experiment("train.kernels.tf32=true", deterministic="true"))
    assert "deterministic" not in plain["train"]
    assert "kernels" not in plain["train"]
    assert asked["train"] == {**plain["train"], "deterministic": True, "kernels": {"tf32": True}}


def test_tf32_is_on_in_steps_and_off_in_what_is_evaluated(job):
    from harness.train.kernels import Kernels

    made = job("train.kernels.tf32=true")
    kernels, seen = Kernels(made.model, made.spec.kernels), []
    kernels.turn(on=True)
    seen.append(torch.get_float32_matmul_precision())
    kernels.without(lambda: seen.append(torch.get_float32_matmul_precision()) or 0.0)()
    kernels.turn(on=False)
    assert seen == ["high", "highest"]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture
def attention(monkeypatch):
    """Calls of torch's attention: query heads, key heads, whether grouped heads were passed on, whether masked."""
    calls, real = [], torch.nn.functional.scaled_dot_product_attention

    def followed(query, key, value, attn_mask=None, enable_gqa=False, **options):
        calls.append((query.shape[1], key.shape[1], enable_gqa, attn_mask is not None))
        return real(query, key, value, attn_mask=attn_mask, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", followed)
    return calls


@pytest.mark.parametrize(("precision", "keys"), [("fp32", 4), ("bf16", 2)])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_float32_on_a_gpu_gives_attention_a_key_head_for_every_query_head(
    job, attention, precision, keys, checkpointing
):
    """Its one fused kernel for float32 takes no grouped heads; those for bfloat16 do."""
    settings = {"precision": precision, "gradient_checkpointing": checkpointing}
    train(replace(job(max_steps=2, **settings), cuda=True))
    assert set(attention) == {(4, keys, keys == 2, False)}
    assert len(attention) == 3 * 2 * (2 if checkpointing == "true" else 1), "the probe and two steps of two layers"
    attention.clear()
    train(job(max_steps=1, **settings))
    assert all(grouped for _, _, grouped, masked in attention if not masked), "a processor's path is left alone"


class OnCard(torch.nn.Module):
    """A model that says it lies on a card."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def get_input_embeddings(self):
        embeddings = torch.nn.Module()
        embeddings.weight = types.SimpleNamespace(device=torch.device("cuda"))
        return embeddings

    def forward(self, **inputs):
        return self.model(**inputs)


def test_scores_in_float32_on_a_gpu_need_no_square_of_the_tokens(attention):
    from harness.evaluate.precision import computing

    model = tiny("llama", SMALL)
    ids = torch.randint(3, 250, (2, 16))
    with torch.no_grad(), computing(OnCard(model), "fp32"):
        on_card = model(input_ids=ids).logits
    assert set(attention) == {(4, 4, False, False)}
    attention.clear()
    with torch.no_grad(), computing(model, "fp32"):
        usual = model(input_ids=ids).logits
    assert set(attention) == {(4, 2, True, False)}
    assert torch.allclose(on_card, usual, atol=1e-5)
