"""Tasks of one's own: what guessing scores, and few-shot examples that there are documents for."""

import json
from types import SimpleNamespace

import pytest
import yaml

from harness.config import config
from harness.evaluate import tasks
from harness.records import lm_eval_items
from harness.run import preflight

CHOICES = ["yes", "no", "perhaps", "never"]


@pytest.fixture
def own_task(tmp_path):
    """A folder of tasks, and the name of the one in it."""

    def made(rows, **settings):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = {
            "task": "own", "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}:", "doc_to_choice": "{{c}}",
            "doc_to_target": "a", "metric_list": [{"metric": "acc"}], **settings,
        }  # fmt: skip
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        (folder / "own.yaml").write_text(yaml.safe_dump(config))
        return str(folder)

    return made


def rows(number, **more):
    return [{"q": f"Question {n}", "c": CHOICES, "a": n % 4, **more} for n in range(number)]


def sample(target, number=4):
    arguments = [("Question:", f" {choice}") for choice in CHOICES[:number]]
    answers = [(-float(i + 1), False) for i in range(number)]
    return {
        "doc_id": 0, "doc_hash": "h", "doc": {}, "arguments": arguments, "target": target, "filtered_resps": answers,
        "resps": [answers], "filter": "none", "metrics": ["acc"], "acc": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([0], 1 / 4),
        ([[0, 1]], 2 / 4),
        ([[0, 1, 1]], 2 / 4),  # named twice
        ([["yes", "never"]], 2 / 4),  # by their words
        ([[0, 9]], 1 / 4),  # beyond the choices: lm-eval counts it as never right
        ([0, [0, 1, 2]], (1 / 4 + 3 / 4) / 2),
    ],
    ids=str,
)
def test_chance_counts_the_right_choices_of_each_item(targets, expected):
    samples = {"own": [{**sample(target), "doc_id": n} for n, target in enumerate(targets)]}
    leaf = SimpleNamespace(OUTPUT_TYPE="multiple_choice")
    assert lm_eval_items.chance([leaf.OUTPUT_TYPE], lm_eval_items.columns(samples, {}))["acc"] == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("own", "asked", "documents", "most"),
    [(3, None, 3, 2), (None, 3, 3, 2), (0, 5, 5, 4), (9, None, 3, 2)],
)
def test_few_shot_examples_that_there_are_no_documents_for_are_refused(own_task, own, asked, documents, most):
    folder = own_task(rows(documents), fewshot_split="test", **({} if own is None else {"num_fewshot": own}))
    with pytest.raises(ValueError, match=rf"eval.tasks=own: \d few-shot examples for own, .* test has {documents}"):
        tasks.check("own", "hub", None, folder, False, asked, None)
    tasks.check("own", "hub", None, folder, False, most, None)
    tasks.check("own", "hub", None, folder, False, 0, None)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [({}, 256), ({"max_gen_toks": 64}, 64), ({"max_new_tokens": 80}, 80), ({"max_tokens": 96}, 96)],
    ids=str,
)
def test_a_model_whose_context_the_answers_fill_is_refused_before_it_is_trained(own_task, settings, tokens):
    generated = {"output_type": "generate_until", "doc_to_target": "{{q}}", "metric_list": [{"metric": "exact_match"}]}
    folder = own_task(rows(3), **generated, **({"generation_kwargs": {"until": ["."], **settings}}))
    arguments = ("own", "hub", None, folder, False, None)
    with pytest.raises(ValueError, match=rf"own may have {tokens} tokens .* none of this model's {tokens} for"):
        tasks.check(*arguments, lambda: tokens)
    tasks.check(*arguments, lambda: tokens + 1)
    tasks.check(*arguments, None)


def test_the_context_is_not_asked_for_where_nothing_is_generated(own_task):
    tasks.check("own", "hub", None, own_task(rows(3)), False, None, lambda: pytest.fail("asked"))


def test_a_sweep_learns_of_it_with_the_model_that_it_names(own_task, compose, tiny_overrides, monkeypatch):
    monkeypatch.setattr(preflight.vllm, "unsupported", lambda cuda: "")  # vLLM shortens the answers instead
    generated = {"output_type": "generate_until", "doc_to_target": "{{q}}", "metric_list": [{"metric": "exact_match"}]}
    folder = own_task(rows(3), **generated, generation_kwargs={"until": ["."], "max_gen_toks": 10**6})
    own = ("method=base", "eval.tasks=[own]", f"eval.include_path={folder}", "eval.retention=[]")
    asked = [config.build(compose(*tiny_overrides, *own, f"eval.backend={name}")) for name in ("vllm", "shared_prefix")]
    [(place, verdict, message)] = preflight.check_tasks(asked, lambda event: None)
    assert (place, verdict) == (1, "wrong")
    assert message.startswith("eval.tasks=own: answers of own may have 1,000,000 tokens")
