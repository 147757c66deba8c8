import pytest

from harness.data.encode import encode, encode_pair
from harness.data.format import Example

TEXTS = [
    "Question: Which gas do plants take in?\nAnswer: carbon dioxide",
    "Question: What is the primary function of macrophages?\nAnswer: they consume pathogens",
    "Predators eat other animals, which is why they are known as hunters",
]
EXAMPLES = [
    Example("Question: Which gas do plants take in?\nAnswer:", " carbon dioxide"),
    Example("Question: Which gas?\nAnswer: ", "carbon"),
    Example("Question: Which gas?\nAnswer:\n\n", "carbon dioxide"),
    Example("Predators eat", " other animals \u00e9\u4e2d"),
    Example("<s> Predators", " eat"),
    Example(" ", "known as hunters"),
]


def tokenizer(adds_first):
    """A byte-level BPE tokenizer; of the Llama type if it puts <s> in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    if adds_first:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "adds_first"])
def tokens(request):
    return tokenizer(request.param)


def lm_eval_model(tokenizer):
    """lm-eval's own model class with a tokenizer and no model."""
    from lm_eval.models.huggingface import HFLM

    model = HFLM.__new__(HFLM)
    model.tokenizer, model.backend = tokenizer, "causal"
    model.add_bos_token = model.custom_prefix_token_id = None
    model.enable_thinking = False
    return model


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: repr(e.prompt[-10:]))
def test_the_tokens_are_lm_evals(tokens, example):
    """The boundary as well, but for white space at the end of the prompt, which lm-eval scores with the answer."""
    context, answer = lm_eval_model(tokens)._encode_pair(example.prompt, example.completion)
    [row], _ = encode([example], tokens, 1000, "completion", add_eos=False)
    begin = row["completion_mask"].index(1)
    assert row["completion_mask"] == [0] * begin + [1] * (len(row["input_ids"]) - begin)
    assert (row["input_ids"][:begin], row["input_ids"][begin:]) == encode_pair(
        example.prompt, example.completion, tokens
    )
    first = [] if context else row["input_ids"][:1]  # before which lm-eval has nothing to predict the answer from
    assert row["input_ids"] == first + context + answer
    assert tokens.decode(answer[: begin - len(first + context)]).strip() == ""
    assert len(first) == (example.prompt == " " and tokens.encode("x")[0] != 0)


def test_the_cases_above_reach_what_they_are_for():
    assert tokenizer(True).encode("x")[0] == 0
    assert tokenizer(False).encode("x")[0] != 0
    context, continuation = encode_pair("Answer: ", "carbon", tokenizer(False))
    assert tokenizer(False).decode(context) == "Answer:"
    assert tokenizer(False).decode(continuation) == " carbon"


def test_an_empty_prompt_is_lm_evals_first_token(tokens):
    from lm_eval.api.instance import Instance

    seen = []
    model = lm_eval_model(tokens)
    model._loglikelihood_tokens = lambda requests, **_: seen.extend(requests)
    arguments = [("", " carbon dioxide"), ("", "<s> carbon")]
    model.loglikelihood(
        [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in arguments], disable_tqdm=True
    )
    assert [encode_pair(*pair, tokens) for pair in arguments] == [request[1:] for request in seen]
    assert len(seen) == 2


def test_the_end_is_learnt_and_the_prompt_only_on_request(tokens):
    [with_end], _ = encode(EXAMPLES[:1], tokens, 1000, "completion", add_eos=True)
    [without], _ = encode(EXAMPLES[:1], tokens, 1000, "completion", add_eos=False)
    assert with_end["input_ids"] == [*without["input_ids"], tokens.eos_token_id]
    assert with_end["completion_mask"] == [*without["completion_mask"], 1]
    assert 0 < sum(without["completion_mask"]) < len(without["completion_mask"])
    [everything], _ = encode(EXAMPLES[:1], tokens, 1000, "all", add_eos=True)
    assert everything["input_ids"] == with_end["input_ids"]
    assert set(everything["completion_mask"]) == {1}


def test_long_rows_are_left_out_and_counted(tokens):
    whole, none = encode(EXAMPLES, tokens, 1000, "completion", add_eos=True)
    assert none == 0
    lengths = [len(row["input_ids"]) for row in whole]
    limit = sorted(lengths)[2]
    kept, removed = encode(EXAMPLES, tokens, limit, "completion", add_eos=True)
    assert kept == [row for row in whole if len(row["input_ids"]) <= limit]
    assert removed == sum(length > limit for length in lengths) > 0


def test_an_answer_that_shares_its_only_token_with_the_prompt_is_predicted_from_the_first_token():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    merged = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")]))
    tokens = PreTrainedTokenizerFast(tokenizer_object=merged, eos_token="</s>")
    [row], _ = encode([Example("a", "b")], tokens, 10, "completion", add_eos=True)
    assert row == {"input_ids": [3, 2, 3], "completion_mask": [0, 1, 1], "answer_characters": [1]}


def test_an_answer_without_a_token_is_an_error():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "</s>": 1}, [])), eos_token="</s>")
    with pytest.raises(ValueError, match="the answer 'x' has no token behind the prompt ending in 'a'"):
        encode([Example("a", "x")], tokens, 10, "completion", add_eos=True)


def test_a_tokenizer_without_an_end_is_an_error():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        encode([Example("a", "a")], tokens, 10, "completion", add_eos=True)
