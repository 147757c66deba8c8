"""Log-likelihoods against a computation by hand and against lm-eval's own model."""

import dataclasses
import random
from typing import Any

import accelerate
import peft
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.utils import ModelOutput

from harness.evaluate import batching, likelihood, lm_eval_models
from harness.evaluate.batching import Request
from harness.evaluate.likelihood import _cache_argument

CLOSE = 1e-4


def silent(done):
    pass


def groups(sizes, seed=0, longest=30):
    """One context per size, that many continuations behind it, of unlike lengths."""
    source = random.Random(seed)
    draw = lambda low, high: tuple(source.randrange(4, 260) for _ in range(source.randint(low, high)))  # noqa: E731
    requests = []
    for size in sizes:
        context = draw(1, longest)
        requests += [Request(context, draw(1, 7)) for _ in range(size)]
    source.shuffle(requests)
    return requests


def examples(sizes, seed=1):
    """Contexts that begin with one long text per size, that many items behind it, two choices each."""
    source = random.Random(seed)
    draw = lambda low, high: tuple(source.randrange(4, 260) for _ in range(source.randint(low, high)))  # noqa: E731
    requests = []
    for size in sizes:
        shots = draw(500, 520)
        contexts = [shots + draw(1, 9) for _ in range(size)]
        requests += [Request(context, draw(1, 4)) for context in contexts for _ in range(2)]
    source.shuffle(requests)
    return requests


def assert_by_hand(model, requests, scores, alone, close=CLOSE):
    assert len(scores) == len(requests)
    for request, score in zip(requests, scores, strict=True):
        nats, greedy = alone(model, request.context, request.continuation)
        assert score.log_likelihood == pytest.approx(nats, abs=close)
        assert score.is_greedy == greedy


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_contexts_give_what_rows_alone_give(tiny_model, alone, attention):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention).eval()
    requests = groups([4, 2, 1, 5, 3])
    scores, work = likelihood.score(model, requests, "fp32", 96, silent)
    assert work.shared_context
    assert_by_hand(model, requests, scores, alone)


@pytest.mark.parametrize(("rotary", "trials"), [("default", [3, 1, 1]), ("linear", [3, 1, 1]), ("dynamic", [3, 1, 3])])
def test_what_a_model_was_found_to_share_is_not_tried_again_on_shorter_rows(tiny_model, alone, rotary, trials):
    """Nor on longer ones, unless how long a row is changes its embedding."""
    config = AutoConfig.from_pretrained(tiny_model)
    config.rope_parameters |= {"rope_type": rotary, "factor": 2.0}
    model = AutoModelForCausalLM.from_pretrained(tiny_model, config=config).eval()
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    counts = []
    for longest in (20, 10, 60):
        requests = groups([4, 2], longest=longest)
        passes.clear()
        scores, _ = likelihood.score(model, requests, "fp32", 1024, silent)
        counts.append(len(passes))
        assert_by_hand(model, requests, scores, alone)
        assert len(passes) == counts[-1] + len(requests)
    assert counts == trials, "one row together, one alone, all"


def test_a_model_in_parts_gives_what_it_gives_in_one(tiny_model, alone):
    """Each part takes what it is given to its own device, here the processor for all of them."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    parts = dict.fromkeys(("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    accelerate.dispatch_model(model, parts, main_device="cpu", force_hooks=True)
    assert all(hasattr(model.get_submodule(part), "_hf_hook") for part in parts)
    requests = [*groups([4, 2, 1]), *examples([3])]
    scores, work = likelihood.score(model, requests, "fp32", 1024, silent)
    assert work.shared_context
    assert_by_hand(model, requests, scores, alone)


def test_another_attention_is_not_given_our_mask(tiny_model, alone):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    model.config.sliding_window = 4096
    requests = groups([4, 2])
    assert not likelihood.score(model, requests, "fp32", 64, silent)[1].shared_context
    del model.config.sliding_window
    assert likelihood.score(model, requests, "fp32", 64, silent)[1].shared_context


def test_a_window_that_a_mask_would_widen(alone):
    """A model whose layers look back four tokens only must not see the whole context through our mask."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=260, num_key_value_heads=2, sliding_window=4, pad_token_id=3, **shape)
    model = MistralForCausalLM(config).eval()
    requests = groups([4, 2, 1])
    scores, work = likelihood.score(model, requests, "fp32", 96, silent)
    assert not work.shared_context
    assert_by_hand(model, requests, scores, alone)


def test_a_model_that_shares_nothing_answers_for_the_letters_of_an_item_at_once(tiny_model, alone):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    model.config.sliding_window = 4096
    letters = [Request(tuple(range(4, 4 + length)), (token,)) for length in (9, 5) for token in (30, 31, 32, 33)]
    words = groups([3])
    scores, work = likelihood.score(model, letters + words, "fp32", 96, silent)
    assert not work.shared_context
    assert (
        work.computed_tokens
        == work.separate_tokens
        == 9 + 5 + sum(len(r.context) + len(r.continuation) - 1 for r in words)
    )
    assert_by_hand(model, letters + words, scores, alone)


def test_greedy_continuations_are_known(tiny, alone):
    model, _ = tiny
    contexts = [request.context for request in groups([1, 1, 1], seed=4)]
    requests = []
    for context in contexts:
        ids = torch.tensor([context])
        for _ in range(3):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        greedy = tuple(ids[0, len(context) :].tolist())
        requests += [
            Request(context, greedy),
            Request(context, (*greedy[:2], (greedy[2] + 1) % 260)),
            Request(context, greedy[:1]),
        ]
    scores, work = likelihood.score(model, requests, "fp32", 96, silent)
    assert work.shared_context
    assert [score.is_greedy for score in scores] == [True, False, True] * 3
    assert_by_hand(model, requests, scores, alone)


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [4]], ids=str)
def test_single_choices_and_single_tokens(tiny, alone, sizes):
    model, _ = tiny
    requests = [Request(request.context, request.continuation[:1]) for request in groups(sizes)]
    scores, work = likelihood.score(model, requests, "fp32", 96, silent)
    assert work.shared_context == (sizes == [4])
    assert_by_hand(model, requests, scores, alone)


def test_the_same_request_twice(tiny, alone):
    requests = groups([2]) * 3
    scores, _ = likelihood.score(tiny[0], requests, "fp32", 96, silent)
    assert_by_hand(tiny[0], requests, scores, alone)


def test_nothing_to_score(tiny):
    assert likelihood.score(tiny[0], [], "fp32", 96, silent) == ([], likelihood.Work(False, False, 0, 0))


@pytest.mark.parametrize("size", [1, 60, 150, 4096])
def test_the_batch_size_changes_nothing(tiny, size):
    requests = groups([4, 3, 1, 6, 2, 2]) + examples([3, 2])
    expected, _ = likelihood.score(tiny[0], requests, "fp32", 100, silent)
    found, _ = likelihood.score(tiny[0], requests, "fp32", size, silent)
    assert [s.log_likelihood for s in found] == pytest.approx([s.log_likelihood for s in expected], abs=CLOSE)
    assert [s.is_greedy for s in found] == [s.is_greedy for s in expected]


def test_more_logits_than_are_held_at_once(tiny, alone):
    requests = groups([6] * 40, longest=5)
    assert sum(len(request.continuation) for request in requests) > likelihood._LOGITS_AT_ONCE
    scores, _ = likelihood.score(tiny[0], requests, "fp32", 4096, silent)
    assert_by_hand(tiny[0], requests, scores, alone)


def test_progress_ends_with_all_and_the_mode_is_kept(tiny):
    told = []
    model = tiny[0]
    for training in (True, False):
        model.train(training)
        likelihood.score(model, groups([4, 2, 3]), "fp32", 96, told.append)
        assert model.training is training
    assert told == [*told[: len(told) // 2], *told[: len(told) // 2]]
    assert told[-1] == 9


def test_bfloat16_is_near(tiny):
    requests = groups([4, 2, 3])
    exact, _ = likelihood.score(tiny[0], requests, "fp32", 96, silent)
    rounded, work = likelihood.score(tiny[0], requests, "bf16", 96, silent)
    assert work.shared_context
    assert [s.log_likelihood for s in rounded] != [s.log_likelihood for s in exact]
    assert [s.log_likelihood for s in rounded] == pytest.approx([s.log_likelihood for s in exact], abs=0.2)


def prompt_tuned(model):
    return peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))


def prefix_tuned(model):
    return peft.get_peft_model(model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))


@torch.no_grad()
def prompted_by_hand(model, context, continuation):
    """Virtual tokens are embeddings in front of those of the text."""
    plain = model.get_base_model()
    ids = torch.tensor([[*context, *continuation]])
    virtual = model.prompt_encoder["default"].embedding.weight[None]
    logits = plain(inputs_embeds=torch.cat([virtual, plain.get_input_embeddings()(ids)], dim=1)).logits[0]
    nats = logits[-len(continuation) - 1 : -1].double().log_softmax(-1)
    return nats[range(len(continuation)), list(continuation)].sum().item()


def test_virtual_tokens_stand_before_every_row(tiny_model):
    torch.manual_seed(0)
    model = prompt_tuned(AutoModelForCausalLM.from_pretrained(tiny_model)).eval()
    for requests, prefix in ((groups([4, 2, 1]), False), (examples([4, 3]), True)):
        scores, work = likelihood.score(model, requests, "fp32", 512, silent)
        assert (work.shared_context, work.shared_prefix) == (True, prefix)
        for request, score in zip(requests, scores, strict=True):
            expected = prompted_by_hand(model, request.context, request.continuation)
            assert score.log_likelihood == pytest.approx(expected, abs=CLOSE)


def test_prefixes_stand_before_every_row(tiny_model, alone):
    torch.manual_seed(0)
    model = prefix_tuned(AutoModelForCausalLM.from_pretrained(tiny_model)).eval()
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight)
    for requests, prefix in ((groups([4, 2, 1]), False), (examples([4, 3]), True)):
        scores, work = likelihood.score(model, requests, "fp32", 512, silent)
        assert (work.shared_context, work.shared_prefix) == (True, prefix)
        assert_by_hand(model, requests, scores, alone)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_items_share_what_their_contexts_begin_with(tiny_model, alone, attention):
    """Two sets of examples, and items that share nothing."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention).eval()
    requests = examples([6, 3]) + groups([2, 1])
    scores, work = likelihood.score(model, requests, "fp32", 1024, silent)
    assert work.shared_prefix
    assert work.computed_tokens < work.separate_tokens / 4
    letters = {r.context for r in requests if len(r.continuation) == 1}
    apart = sum(len(r.context) + len(r.continuation) - 1 for r in requests if len(r.continuation) > 1)
    assert letters
    assert work.separate_tokens == apart + sum(map(len, letters))
    assert_by_hand(model, requests, scores, alone)


def test_an_adapter_in_the_layers_shares(tiny_model, alone):
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).eval()
    requests = groups([4, 2, 1]) + examples([3])
    scores, work = likelihood.score(model, requests, "fp32", 512, silent)
    assert work.shared_context and work.shared_prefix
    assert_by_hand(model, requests, scores, alone)


class Forgetful(LlamaForCausalLM):
    """A model that does not take keys and values of what stood before."""

    def forward(self, *arguments, past_key_values=None, **options):
        return super().forward(*arguments, **options)


@dataclasses.dataclass
class RenamedOutput(ModelOutput):
    """As transformers 5.24 returns it."""

    logits: torch.Tensor | None = None
    cache: Any = None


class Renamed(LlamaForCausalLM):
    """A model of transformers 5.24, which calls keys and values `cache`."""

    def forward(self, *arguments, cache=None, **options):
        given = {} if cache is None else {_cache_argument(super()): cache}
        output = super().forward(*arguments, **given, **options)
        kept = output["cache"] if "cache" in output else output.get("past_key_values")
        return RenamedOutput(logits=output.logits, cache=kept)


def test_keys_and_values_have_the_name_that_the_model_gives_them(tiny_model):
    models = [kind.from_pretrained(tiny_model).eval() for kind in (LlamaForCausalLM, Renamed)]
    assert _cache_argument(models[1]) == "cache"
    requests = groups([4, 2, 1]) + examples([3])
    found = [likelihood.score(model, requests, "fp32", 512, silent) for model in models]
    assert found[1][1].shared_prefix and found[1][1].shared_context
    assert found[0][0] == found[1][0]


def test_a_model_that_takes_no_prefix_shares_contexts_still(tiny_model, alone):
    model = Forgetful.from_pretrained(tiny_model).eval()
    requests = examples([4, 2])
    scores, work = likelihood.score(model, requests, "fp32", 1024, silent)
    assert (work.shared_context, work.shared_prefix) == (True, False)
    assert_by_hand(model, requests, scores, alone)


def as_instances(pairs):
    return [Instance("loglikelihood", {}, pair, 0, ("t", i, 1)) for i, pair in enumerate(pairs)]


def compare(model, tokenizer, evaluation, hflm, pairs):
    """Ours and lm-eval's on the same requests; returns the largest difference."""
    scorer = lm_eval_models.SharedPrefix(model, tokenizer, evaluation("t"), lambda done, total: None)
    ours = scorer.loglikelihood(as_instances(pairs), disable_tqdm=True)
    theirs = hflm(model, tokenizer).loglikelihood(as_instances(pairs), disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    return max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True)), scorer.work.shared_context


def test_texts_are_scored_as_lm_eval_scores_them(tiny, evaluation, hflm):
    pairs = [(f"Question {i} is what?", f" {answer}") for i in range(5) for answer in ("no", "yes it is", "x")]
    pairs += [("", "no context at all"), ("a trailing space ", "moves over")]
    difference, shared = compare(*tiny, evaluation, hflm, pairs)
    assert difference < CLOSE
    assert shared


def test_what_is_too_long_loses_its_beginning_as_in_lm_eval(tiny_model, tiny, evaluation, hflm):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, max_position_embeddings=48).eval()
    pairs = [("abc " * n, f" {answer}") for n in (5, 11, 12, 13, 40) for answer in ("no", "yes it is", "y" * 46)]
    difference, _ = compare(model, tiny[1], evaluation, hflm, pairs)
    assert difference < CLOSE


def test_a_continuation_longer_than_the_model_is_refused(tiny_model, tiny, evaluation):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, max_position_embeddings=48).eval()
    scorer = lm_eval_models.SharedPrefix(model, tiny[1], evaluation("t"), lambda done, total: None)
    with pytest.raises(ValueError, match=r"50 tokens.*48"):
        scorer.loglikelihood(as_instances([("why?", "y" * 50)]), disable_tqdm=True)


def row(*context, answers=1):
    return batching.Row(context, ((1,),) * answers, tuple(range(answers)))


def test_clusters_take_the_prefix_that_saves_most(monkeypatch):
    monkeypatch.setattr(batching, "_LONG_ENOUGH", 2)
    monkeypatch.setattr(batching, "_WORTH_SHARING", 6)
    first, second = (1, 2, 3, 4), (1, 2, 9, 9)
    rows = [row(*first, i) for i in range(5)] + [row(*second, i) for i in range(4)] + [row(7, 7, 7)]
    clusters = batching.clusters_of(rows)
    assert [(cluster.prefix, len(cluster.rows)) for cluster in clusters] == [(first, 5), (second, 4), ((), 1)]
    assert all(len(one.context) == 1 for cluster in clusters[:2] for one in cluster.rows)
    assert batching.clusters_of([]) == []


def test_a_context_keeps_a_token_of_its_own(monkeypatch):
    monkeypatch.setattr(batching, "_LONG_ENOUGH", 2)
    monkeypatch.setattr(batching, "_WORTH_SHARING", 1)
    [cluster] = batching.clusters_of([row(1, 2, 3), row(1, 2, 3, 4)])
    assert cluster.prefix == (1, 2)
    assert {one.context for one in cluster.rows} == {(3,), (3, 4)}


def test_batches_end_where_shorter_rows_would_fill_them_with_padding():
    lengths = [*range(100, 20, -1)] * 2
    rows = tuple(row(*range(length)) for length in lengths)
    got = list(batching.batches(batching.Cluster((), rows), 2048))
    assert sorted(len(one) for batch in got for one in batch) == sorted(lengths)
    computed = sum(len(batch) * max(map(len, batch)) for batch in got)
    assert computed < 1.04 * sum(lengths)
    assert min(len(batch) * len(batch[0]) for batch in got[:-1]) > 100  # and does not fall into single rows


def test_batches_stay_within_their_tokens():
    rows = tuple(row(*range(length)) for length in (9, 3, 3, 8, 30, 1))
    got = list(batching.batches(batching.Cluster((5, 5), rows), 22))
    assert [[len(one) for one in batch] for batch in got] == [[30], [9, 8], [3, 3, 1]]
    assert all(len(batch) * (2 + max(map(len, batch))) <= 22 for batch in got[1:])


def test_rows_of_a_gpu_are_padded_to_multiples_that_the_model_has_positions_for(tiny_model, monkeypatch):
    model = LlamaForCausalLM.from_pretrained(tiny_model).eval()
    requests = groups([4, 2, 1, 5, 3])
    usual, _ = likelihood.score(model, requests, "fp32", 96, silent)
    real, lengths = likelihood._padded_length, []

    def on_gpu(model, longest, device):
        lengths.append(real(model, longest, "cuda"))
        assert real(model, longest, device) == longest, "on a processor as long as the longest row"
        return lengths[-1]

    monkeypatch.setattr(likelihood, "_padded_length", on_gpu)
    padded, _ = likelihood.score(model, requests, "fp32", 96, silent)
    assert set(lengths) == {64}
    for one, other in zip(usual, padded, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)
        assert one.is_greedy == other.is_greedy
    model.config.max_position_embeddings = 63
    assert real(model, 20, "cuda") == 20


@pytest.mark.parametrize("backend", ["shared_prefix", "hf"])
@pytest.mark.parametrize("place", [0, 2])
def test_an_answer_without_a_token_of_its_own_is_refused(backend, place, tiny, evaluation):
    """A tokenizer may merge it into the question; lm-eval asserts that none does."""
    model = lm_eval_models.of(*tiny, evaluation("piqa", backend=backend), lambda done, total: None)
    requests = [(("Question", f" answer {n}"), [5, 6], [7]) for n in range(3)]
    requests[place] = (("Question", "s"), [5, 6], [])
    with pytest.raises(ValueError, match=r"^eval\.tasks: the answer 's' behind 'Question' has no token of its own"):
        model._loglikelihood_tokens(requests)
