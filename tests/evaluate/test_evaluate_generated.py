"""Text that is generated and general text: metrics offline, each item kept."""

import json
import math

import pytest
from pyarrow import parquet

from harness.config import config
from harness.config.experiment import Evaluation, evaluations
from harness.evaluate import general_text, generated
from harness.records import record
from harness.records.settings import SamplingSpec
from harness.run import inputs, run
from harness.sources import packages


def looked(kind, **changes):
    fields = {
        "kind": kind, "task": "t", "role": "target", "rows": "package", "limit": 3, "num_fewshot": None,
        "chat_template": False, "precision": "fp32", "batch_size": 2, "batch_tokens": 1024,
    }  # fmt: skip
    return Evaluation(**(fields | changes))


def test_metrics_by_hand():
    found = generated.compute(["The cat sat.", "a dog ran far", ""], ["the cat sat", "one dog ran", "nothing"])
    assert found["exact_match"] == [1.0, 0.0, 0.0]
    assert found["token_f1"] == pytest.approx([1.0, 2 * 2 / (3 + 3), 0.0])
    assert found["rouge1"] == pytest.approx([1.0, 2 * 2 / (4 + 3), 0.0])
    assert found["rouge2"] == pytest.approx([1.0, 2 * 1 / (3 + 2), 0.0])
    assert found["rougeL"] == pytest.approx([1.0, 2 * 2 / (4 + 3), 0.0])
    assert len(found["chrf"]) == len(found["bleu"]) == 1
    assert len(found["sentence_chrf"]) == 3


def test_libraries_own_numbers_for_the_whole_set():
    import sacrebleu

    answers, targets = ["the cat sat on the mat", "a dog ran"], ["the cat sat on a mat", "a dog ran away"]
    found = generated.compute(answers, targets)
    assert found["bleu"] == [sacrebleu.corpus_bleu(answers, [targets]).score]
    assert found["chrf"] == [sacrebleu.corpus_chrf(answers, [targets]).score]


def test_what_is_written_is_greedy_and_kept(tiny):
    import torch

    model, tokenizer = tiny
    rows = [
        {"input_ids": tokenizer.encode(f"{text} yes"), "completion_mask": [0] * len(text) + [1] * 4}
        for text in ("Say it:", "Is it so that:", "Or:")
    ]
    told = []
    look = looked("generation", sampling=SamplingSpec(max_new_tokens=5))
    metrics, columns = generated.score(generated.Writer(model, tokenizer), rows, look, told.append)
    assert told == [2, 3]
    assert columns["question"] == ["Say it:", "Is it so that:", "Or:"]
    assert columns["target"] == ["yes"] * 3
    assert metrics["token_f1"].value == pytest.approx(sum(columns["metric/token_f1"]) / 3)
    assert metrics["bleu"].stderr is None
    assert "metric/bleu" not in columns
    ids = torch.tensor([rows[0]["input_ids"][:-4]])
    for _ in range(5):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert columns["answer"][0] == tokenizer.decode(ids[0, -5:], skip_special_tokens=True).strip()


def test_general_text_in_bits_per_byte(tiny, alone):
    model, tokenizer = tiny
    texts = general_text.passages(3)
    assert len(set(texts)) == 3 and texts == general_text.passages(5)[:3]
    metrics, columns = general_text.score(model, tokenizer, looked("text"), lambda *_: None)
    ids = tokenizer.encode(texts[0])[:256]
    nats, _ = alone(model, (tokenizer.bos_token_id,), tuple(ids))
    assert columns["metric/loss"][0] == pytest.approx(-nats / len(ids), abs=1e-4)
    size = len(tokenizer.decode(ids).encode())
    assert columns["metric/bits_per_byte"][0] == pytest.approx(-nats / math.log(2) / size, abs=1e-4)
    assert not metrics["loss"].higher_is_better
    assert metrics["loss"].value == pytest.approx(sum(columns["metric/loss"]) / 3)


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_what_closes_an_answer_in_plain_text_is_no_part_of_it(compose, tiny_overrides, tmp_path):
    """To this tokenizer <|im_end|> is no special token: it is learnt, written, and was scored as wrong words."""
    turns = [[("user", f"say {n}"), ("assistant", "ok")] for n in range(40)]
    chats = [{"messages": [{"role": role, "content": text} for role, text in one]} for one in turns]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in chats))
    (tmp_path / "chatml.jinja").write_text(CHATML)
    words = [f"data.file={tmp_path}/chats.jsonl", f"data.template={tmp_path}/chatml.jinja", "method=full"]
    words += [
        "train.max_steps=60",
        "train.lr=3e-3",
        "train.warmup_steps=0",
        "eval.generation_rows=3",
        "eval.sampling.max_new_tokens=20",
    ]
    experiment = inputs.resolve(config.build(compose(*tiny_overrides, *words)))
    assert run.run(experiment, lambda event: None).status == "ok"
    [look] = (one for one in evaluations(experiment) if one.kind == "generation")
    path = record.evaluation_path(experiment.folder, look.eval_id)
    columns = parquet.read_table(path.with_suffix(".parquet")).to_pydict()
    assert columns["answer"] == columns["target"] == ["ok"] * 3
    assert columns["ended"] == [True] * 3


def test_they_are_asked_for_by_name(compose, tiny_overrides):
    def kinds(*words):
        asked = inputs.resolve(config.build(compose(*tiny_overrides, *words)))
        return {one.kind: one for one in evaluations(asked)}

    assert set(kinds()) == {"heldout"}
    found = kinds("eval.generation_rows=4", "eval.general_text_passages=5")
    assert set(found) == {"heldout", "generation", "text"}
    assert (found["text"].role, found["text"].limit) == ("retention", 5)
    assert found["generation"].task.endswith("generated/validation")
    other = kinds("eval.generation_rows=4", "eval.general_text_passages=5", "eval.sampling.max_new_tokens=7")
    assert other["generation"].eval_id != found["generation"].eval_id
    assert other["text"].eval_id == found["text"].eval_id
    assert packages.dataset_split("aps/super_glue", "boolq", "validation").rows == 3270
