"""What single methods promise beyond the contract."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from workshop import Workshop, on, trained_names

from harness.evaluate import likelihood
from harness.methods.base import Method
from harness.methods.contexts import OnDevice, OnModel, OnRows, TrainedWith
from harness.records.settings import TrainSpec
from harness.sources import models

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore:lora with eva initialization:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*rank_pattern keys did not match:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*invalid shape:UserWarning"),
]
Make = Callable[..., Method]


@pytest.mark.parametrize("name", ["prompt", "p_tuning", "prefix"])
def test_log_likelihoods_with_virtual_tokens_are_those_of_a_hand_computation(
    name: str, make: Make, workshop: Workshop
) -> None:
    model = workshop.attach(make(name))
    requests = [
        likelihood.Request((5, 6, 7, 8), (9, 10)), likelihood.Request((5, 6, 7, 8), (11,)),
        likelihood.Request((20, 21), (22, 23, 24)),
    ]  # fmt: skip
    scores, _ = likelihood.score(model, requests, "fp32", 2, lambda _: None)
    model.eval()
    for request, score in zip(requests, scores, strict=True):
        ids = torch.tensor([[*request.context, *request.continuation]])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
        nats = torch.log_softmax(logits, -1)
        places = range(len(request.context) - 1, ids.shape[1] - 1)
        by_hand = sum(nats[place, ids[0, place + 1]].item() for place in places)
        assert score.log_likelihood == pytest.approx(by_hand, abs=1e-4)


def test_virtual_tokens_count_towards_the_context(make: Make, workshop: Workshop) -> None:
    method = make("prompt", "method.num_virtual_tokens=2000")
    with pytest.raises(ValueError, match=r"train.max_length=64 and method.num_virtual_tokens=2000 make 2064 tokens"):
        workshop.attach(method)


def test_a_prompt_can_begin_as_words(make: Make, workshop: Workshop) -> None:
    model = workshop.attach(make("prompt", "method.init=text", "method.init_text=abc", "method.num_virtual_tokens=5"))
    prompt = model.prompt_encoder["default"].embedding.weight
    ids = workshop.tokenizer("abcab", add_special_tokens=False)["input_ids"]
    assert torch.equal(prompt, model.get_input_embeddings().weight[ids])


@pytest.mark.parametrize("text", [r"ab\nc", r"\tab", r"ab\r\n", r"a\u00e9", r"\x41"])
def test_a_prompt_begins_as_no_escape_sequence(make: Make, workshop: Workshop, text: str) -> None:
    method = make("prompt", "method.init=text", f"method.init_text='{text}'", "method.num_virtual_tokens=30")
    with pytest.raises(ValueError, match="a backslash and a letter there"):
        workshop.attach(method)


@pytest.mark.parametrize(
    "text", ["a\nb", " ab ", "\ta", "a\r\nb", "a\\b", "a\u0301", "\u05d0\u05d1", "a\u200fb", "\N{GRINNING FACE}"]
)
def test_a_prompt_begins_as_the_whole_text_that_is_given(make: Make, workshop: Workshop, text: str) -> None:
    ids = workshop.tokenizer(text, add_special_tokens=False)["input_ids"]
    method = make("prompt", "method.init=text", f"method.init_text='{text}'", f"method.num_virtual_tokens={len(ids)}")
    model = workshop.attach(method)
    prompt = model.prompt_encoder["default"].embedding.weight
    assert torch.equal(prompt, model.get_input_embeddings().weight[ids])


def test_a_text_that_is_longer_than_the_prompt_is_refused(make: Make, workshop: Workshop) -> None:
    method = make("prompt", "method.init=text", "method.init_text=abcdef", "method.num_virtual_tokens=5")
    with pytest.raises(
        ValueError, match=r"init_text has 6 tokens and method.num_virtual_tokens=5: the end of the text"
    ):
        workshop.attach(method)


def test_prefix_refuses_gradient_checkpointing(make: Make) -> None:
    spec = TrainSpec(
        lr=1e-3, max_steps=1, epochs=None, global_batch_size=1, micro_batch_size=1, max_length=8,
        lr_scheduler_type="constant",
        warmup_steps=0.0, weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=True, precision="fp32",
        loss_on="all", group_by_length=False, eval_every=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"gradient_checkpointing=true with method=prefix"):
        make("prefix").require(TrainedWith(spec))


@pytest.mark.parametrize("init", ["gaussian", "pissa", "olora", "eva"])
def test_initializations_leave_step_zero_as_it_was(init: str, make: Make, workshop: Workshop, tmp_path: Path) -> None:
    method = make("lora", f"method.init_lora_weights={init}", "method.r=4")
    base = workshop.logits(workshop.load(method))
    model = workshop.attach(method)
    assert torch.allclose(workshop.logits(model), base, atol=1e-5)
    workshop.train(model, method, 2, 1e-3)
    logits = workshop.logits(model)
    method.save(model, tmp_path)
    assert torch.allclose(workshop.logits(method.restore(workshop.load(method), tmp_path)), logits, atol=1e-5)


@pytest.mark.parametrize(("bias", "extra"), [("none", 0), ("lora_only", 2 * (64 + 128)), ("all", 1024)])
def test_biases_train_where_asked(bias: str, extra: int, make: Make, biased: Workshop) -> None:
    method = make("lora", f"method.bias={bias}", "target=[q_proj,up_proj]", "method.r=2")
    plain = make("lora", "target=[q_proj,up_proj]", "method.r=2")
    base = biased.load(method)
    model = biased.attach(method)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == method.expected_trainable(base) == plain.expected_trainable(base) + extra
    assert ("bias" in " ".join(trained_names(model))) == (bias != "none")


def test_loftq_brings_the_first_logits_closer_to_the_unquantized_base(make: Make, workshop: Workshop) -> None:
    base = workshop.logits(workshop.load(make("base")))
    plain = (workshop.logits(workshop.attach(make("qlora"))) - base).abs().mean()
    loftq = (workshop.logits(workshop.attach(make("qlora", "method.init_lora_weights=loftq"))) - base).abs().mean()
    assert loftq < 0.8 * plain


@pytest.fixture(scope="module")
def transposed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A tiny GPT-2, which holds its weights as d_in x d_out."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("transposed")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    return on(folder)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("init", ["gaussian", "pissa"])
def test_initializations_fit_transposed_weights(init: str, make: Make, transposed: Workshop) -> None:
    method = make("lora", f"method.init_lora_weights={init}", "method.r=4")
    base = transposed.logits(transposed.load(method))
    assert torch.allclose(transposed.logits(transposed.attach(method)), base, atol=1e-5)


@pytest.mark.parametrize("target", ["all_linear", "[attn.c_proj]"])
def test_olora_refuses_transposed_weights(target: str, make: Make, transposed: Workshop) -> None:
    """PEFT decomposes them as they lie: a square matrix would begin wrong, and others end the run."""
    skeleton, setting = models.skeleton(transposed.spec, torch.float32), transposed.setting()
    with pytest.raises(ValueError, match=r"init=olora: transformer\.h\.0\.attn\.c_\w+ holds its weight transposed"):
        make("lora", f"target={target}", "method.init_lora_weights=olora", "method.r=4").attach(skeleton, setting)
    options = ("method.peft_type=LORA", "method.options.r=4", "method.options.init_lora_weights=olora")
    with pytest.raises(ValueError, match="init=olora: transformer"):
        make("peft", f"target={target}", *options).attach(skeleton, setting)


@pytest.mark.parametrize(("target", "number"), [("all_linear", 8), ("[attn.c_proj]", 2)])
def test_loftq_restores_the_best_part_of_transposed_weights(
    target: str, number: int, make: Make, transposed: Workshop
) -> None:
    """By Eckart and Young the smaller singular values of what was lost remain; attn.c_proj is square."""
    from bitsandbytes.functional import dequantize_4bit

    method = make("qlora", f"target={target}", "method.init_lora_weights=loftq", "method.r=8")
    stored = dict(transposed.load(make("base")).named_modules())
    layers = {name: layer for name, layer in transposed.attach(method).named_modules() if hasattr(layer, "lora_A")}
    assert len(layers) == number
    for name, layer in layers.items():
        packed = layer.get_base_layer().weight
        weight = stored[name.removeprefix("base_model.model.")].weight.T
        lost = weight - dequantize_4bit(packed.data, packed.quant_state).to(weight.dtype)
        remains = torch.linalg.norm(lost - layer.get_delta_weight("default")).item()
        smaller = torch.linalg.svdvals(lost)[8:].square().sum().sqrt().item()
        assert remains == pytest.approx(smaller, rel=1e-2)


def test_loftq_belongs_to_a_quantized_base(make: Make) -> None:
    with pytest.raises(ValueError, match="use method=qlora"):
        make("lora", "method.init_lora_weights=loftq")
    with pytest.raises(ValueError, match="needs quantization nf4 or fp4"):
        make("qlora", "method.init_lora_weights=loftq", "method.quantization=int8")


@pytest.mark.parametrize("storage", ["none", "int8", "fp4", "nf4"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_every_storage_trains_as_well_after_an_evaluation(storage: str, make: Make, workshop: Workshop) -> None:
    """bitsandbytes repacks weights in evaluation on some processors, and loses their gradient by it."""
    method = make("qlora", f"method.quantization={storage}")

    def losses(look_first: bool) -> list[float]:
        model = workshop.attach(method)
        if look_first:
            workshop.logits(model)
        return workshop.train(model, method, 4, 1e-3)

    assert losses(look_first=True) == pytest.approx(losses(look_first=False), abs=1e-4)


def test_paged_optimizers_need_cuda(make: Make) -> None:
    method = make("qlora", "method.optimizer_name=paged_adamw_8bit")
    assert "needs CUDA" in method.unsupported(OnDevice("cpu"))
    assert method.unsupported(OnDevice("cuda")) == ""


def test_paged_moments_need_no_room_on_the_device(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is tried beside the moments of the others; which are paged is bitsandbytes' own decision."""
    from bitsandbytes import functional

    from harness.methods.optimizers import paged

    pages: list[tuple[int, ...]] = []

    def get_paged(*shape: int, **_: Any) -> torch.Tensor:
        pages.append(shape)
        return torch.empty(shape, device="meta")

    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "fill", lambda *_: None)
    monkeypatch.setattr(functional.GlobalPageManager.get_instance(), "paged_tensors", [])
    small, large = weights = [torch.nn.Parameter(torch.zeros(n, device="meta")) for n in (99_999, 100_000)]
    for name in ("paged_adamw_32bit", "paged_adamw_8bit"):
        pages.clear()
        optimizer: Any = paged(name, [{"params": weights, "lr": 1e-3}])
        for weight in weights:
            optimizer.get_state_buffer(weight)
        assert pages == [(100_000,)]
        method = make("qlora", f"method.optimizer_name={name}")
        assert [method.resident_optimizer_bytes(weight) for weight in weights] == [8 * 99_999, 0]
        assert method.optimizer_bytes(large) == 800_000, "in a checkpoint they have their size"
        assert method.planned() == make("qlora")
    plain = make("qlora")
    assert [plain.resident_optimizer_bytes(weight) for weight in weights] == [small.nbytes * 2, large.nbytes * 2]


def test_a_quantized_base_can_be_prepared_as_peft_does(make: Make, workshop: Workshop, tmp_path: Path) -> None:
    """In bfloat16, where it makes a difference: what is not quantized is then held in float32, also when restored."""

    def kept(method: Method, restored: Any) -> set[torch.dtype]:
        return {p.dtype for n, p in restored.named_parameters() if "norm" in n or "embed_tokens" in n}

    def base(method: Method) -> Any:
        return models.load(workshop.spec, method.load_options(torch.bfloat16))

    plain, prepared = make("qlora"), make("qlora", "method.prepare_for_kbit_training=true")
    assert kept(plain, plain.attach(base(plain), workshop.setting())) == {torch.bfloat16}
    model = prepared.attach(base(prepared), workshop.setting())
    assert kept(prepared, model) == {torch.float32}
    assert trained_names(model) == trained_names(plain.attach(base(plain), workshop.setting()))
    prepared.save(model, tmp_path)
    assert kept(prepared, prepared.restore(base(prepared), tmp_path)) == {torch.float32}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_unsloth_loads_the_base_that_is_asked_for(
    quantization: str, make: Make, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader is replaced: by itself it takes other repositories, cuts rows and offloads."""
    given: dict[str, Any] = {}

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(model_name: str, **options: Any) -> tuple[Any, None]:
            given.update(options)
            return models.load(workshop.spec, {"dtype": torch.float32}), None

    module = types.ModuleType("unsloth")
    monkeypatch.setattr(module, "FastLanguageModel", FastLanguageModel, raising=False)
    monkeypatch.setitem(sys.modules, "unsloth", module)
    method = make("unsloth", f"method.quantization={quantization}")
    models.load(workshop.spec, method.load_options(torch.bfloat16), method.read)
    assert given == {
        "dtype": torch.bfloat16, "load_in_4bit": quantization == "nf4", "max_seq_length": 2048,
        "use_exact_model_name": True, "use_gradient_checkpointing": False, "trust_remote_code": False,
    }  # fmt: skip


def test_unsloth_is_planned_and_merged_on_the_base_that_it_trains_on(make: Make) -> None:
    def options(method: Method) -> dict[str, Any]:
        found = method.load_options(torch.bfloat16)
        return {
            **found,
            "quantization_config": found.get("quantization_config") and found["quantization_config"].to_dict(),
        }

    assert options(make("unsloth", "method.quantization=nf4")) == options(make("qlora"))
    assert options(make("unsloth")) == options(make("lora"))


def test_lora_plus_trains_b_faster(make: Make, workshop: Workshop) -> None:
    method = make("lora_plus", "method.ratio=16")
    model = workshop.attach(method)
    groups = method.param_groups(model, 1e-4, 0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1.6e-3 if ".lora_B." in name else 1e-4)


def test_adalora_prunes_to_its_target_and_reports_the_plain_loss(make: Make, workshop: Workshop) -> None:
    method = make("adalora", "method.r=2", "method.init_r=4", "method.orthogonality=0.5")
    model = workshop.attach(method, steps=10)
    plain = workshop.attach(make("base"))
    assert workshop.train(model, method, 10, 1e-3)[0] == pytest.approx(_mean_nats(plain, workshop), abs=1e-4)
    pattern = model.peft_config["default"].rank_pattern
    assert sum(sum(kept) for kept in pattern.values()) == 2 * len(pattern)


def test_adalora_counts_the_importance_that_a_checkpoint_holds(make: Make, workshop: Workshop) -> None:
    method = make("adalora", "method.r=2", "method.init_r=4", "method.final_fraction=0.0")
    model = workshop.attach(method, steps=4)
    workshop.train(model, method, 2, 1e-3)
    trained = [p for p in model.parameters() if p.requires_grad]
    importance = method.state(model)["importance"]
    held = sum(tensor.nbytes for tensors in importance.values() for tensor in tensors.values())
    assert held == 3 * sum(p.nbytes for p in trained)
    assert sum(map(method.optimizer_bytes, trained)) == 2 * sum(p.nbytes for p in trained) + held


def _mean_nats(model: Any, workshop: Workshop) -> float:
    logits = torch.log_softmax(workshop.logits(model), -1)
    nats = [
        -logits[i, place - 1, row["input_ids"][place]].item()
        for i, row in enumerate(workshop.rows)
        for place, learnt in enumerate(row["completion_mask"])
        if learnt
    ]
    return sum(nats) / len(nats)


def test_alora_wants_its_invocation_in_the_rows(make: Make, workshop: Workshop) -> None:
    with pytest.raises(ValueError, match=r"none of the 4 training rows has it"):
        workshop.attach(make("alora", "method.invocation=nowhere"))
    model = workshop.attach(make("alora"))
    header = workshop.tokenizer("<assistant>", add_special_tokens=False)["input_ids"]
    assert model.peft_config["default"].alora_invocation_tokens == header


@pytest.mark.parametrize(
    ("words", "invocation"), [([], "Answer:"), (["data=file"], None), (["data=file", "data.invocation='A:'"], "A:")]
)
def test_alora_acts_from_where_the_data_say(words: list[str], invocation: str | None, compose: Any) -> None:
    assert compose("method=alora", *words).method.invocation == invocation


def test_alora_refuses_rows_without_its_invocation_before_a_run(make: Make, workshop: Workshop) -> None:
    with pytest.raises(ValueError, match=r"'Answer:': none of the 4 training rows has it.*data.invocation"):
        make("alora", "method.invocation='Answer:'").require(OnRows(workshop.rows, workshop.tokenizer))
    make("alora").require(OnRows(workshop.rows, workshop.tokenizer))
    make("lora").require(OnRows(workshop.rows, workshop.tokenizer))


def test_bitfit_has_nothing_to_train_without_biases(make: Make, workshop: Workshop, biased: Workshop) -> None:
    method = make("bitfit")
    assert "no biases" in method.unsupported(OnModel(models.skeleton(workshop.spec, torch.float32)))
    assert method.unsupported(OnModel(models.skeleton(biased.spec, torch.float32))) == ""


def test_spectrum_computes_its_ratios_once(
    make: Make, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.methods import spectrum

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    method = make("spectrum", "method.fraction=0.5")
    first = trained_names(workshop.attach(method))
    assert len(first) == 7, "one of two layers, of seven kinds of matrix"
    assert len(list(tmp_path.glob("spectrum/*.txt"))) == 1
    monkeypatch.setattr(spectrum, "_signal_to_noise", lambda weight: pytest.fail("computed again"))
    assert trained_names(workshop.attach(method)) == first


def test_signal_to_noise_is_that_of_a_hand_computation() -> None:
    from harness.methods.spectrum import _signal_to_noise

    # quartiles 1.75 and 3.25 of 1, 2, 3, 4 give the deviation 1.5 / 1.349 and the bound 2.224 for a square matrix
    assert _signal_to_noise(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))) == pytest.approx((3 + 4) / (1 + 2) / 4)
    # a matrix half as wide has the bound 1.112 * (1 + sqrt(1/2)) = 1.898
    wide = torch.cat([torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])), torch.zeros(4, 4)], dim=1)
    assert _signal_to_noise(wide) == pytest.approx((2 + 3 + 4) / 1 / 4)


def test_adapters_are_placed_as_published(make: Make, workshop: Workshop) -> None:
    def places(placement: str) -> set[str]:
        names = trained_names(workshop.attach(make("adapter", f"method.placement={placement}")))
        return {name.split(".bottleneck")[0].removeprefix("model.layers.0.") for name in names if ".0." in name[:15]}

    assert places("houlsby") == {"self_attn.o_proj", "mlp.down_proj"}
    assert places("pfeiffer") == {"mlp.down_proj"}


def test_galore_keeps_small_moments(make: Make, workshop: Workshop) -> None:
    method = make("galore", "method.r=4", "method.update_proj_gap=2")
    model = workshop.attach(method)
    optimizer = method.optimizer(method.param_groups(model, 1e-3, 0.0))
    model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    optimizer.step()
    q_proj = model.model.layers[0].self_attn.q_proj.weight
    assert optimizer.state[q_proj]["exp_avg"].numel() == 4 * 64


def test_peft_names_what_there_is(make: Make, workshop: Workshop) -> None:
    with pytest.raises(ValueError, match=r"peft_type=LOAH: the installed PEFT has .*LOHA"):
        workshop.attach(make("peft", "method.peft_type=LOAH"))
    with pytest.raises(ValueError, match=r"method.options.rank: LOHA has no such option; it has .*alpha"):
        workshop.attach(make("peft", "method.options={rank: 3}"))


def test_a_setting_is_complete(workshop: Workshop) -> None:
    assert {field.name for field in dataclasses.fields(workshop.setting())} >= {"seed", "rows", "original"}
