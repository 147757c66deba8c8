import json
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from harness.data.format import Example, render
from harness.data.rows import official
from harness.records.settings import DataSpec, RowsSpec
from harness.sources.packages import conf_dir


def spec(prompt="{{prompt}}", completion=" {{answer}}"):
    return RowsSpec(prompt=prompt, completion=completion, file="mine.jsonl")


def test_templates_are_filled_as_they_stand():
    rows = [{"prompt": "a <b> & c\n", "answer": 3}]
    assert render(rows, spec("Q: {{prompt}}\n")) == [Example("Q: a <b> & c\n\n", " 3")]
    assert render(rows, spec("{{prompt|regex_replace('[<>]', '')}}")) == [Example("a b & c\n", " 3")]


@pytest.mark.parametrize(
    ("template", "row", "complaint"),
    [
        ("{{promt}}", {"prompt": "x"}, r"mine.jsonl:2: .*'promt' is undefined.*columns are answer, prompt"),
        ("{{prompt}}", {"prompt": None}, r"mine.jsonl:2: template '\{\{prompt\}\}': a value is null"),
        ("{{prompt.index('q')}}", {"prompt": "x"}, r"mine.jsonl:2: .*substring not found"),
        ("{{prompt}}", {"prompt": ["x"]}, r"mine.jsonl:2: .*a value is no text but a list: name a part of it"),
        ("{{prompt}}", {"prompt": b"x"}, r"mine.jsonl:2: .*a value is no text but a bytes"),
        ("{{prompt}}", {"prompt": "x", "answer": "  "}, r"mine.jsonl:2: the completion ' \{\{answer\}\}' is empty"),
        ("{{prompt.__class__.__mro__}}", {"prompt": "x"}, r"mine.jsonl:2: .*unsafe"),
    ],
)
def test_errors_name_the_row_the_template_and_the_columns(template, row, complaint):
    good = {"prompt": "q", "answer": "y"}
    only_second = f"{{% if prompt == 'q' %}}q{{% else %}}{template}{{% endif %}}"
    fits = template in ("{{prompt}}", "{{prompt.index('q')}}")
    with pytest.raises(ValueError, match=complaint):
        render([good, {**good, **row}], spec(template if fits else only_second))


@pytest.mark.parametrize("more", [{"system": "be brief"}, {"history": [["a", "b"]]}])
def test_what_alpacas_prompt_has_no_place_for_is_not_left_out_silently(more):
    row = {"instruction": "i", "output": "o"}
    with pytest.raises(ValueError, match=f"alpaca leaves {next(iter(more))} out"):
        render([{**row, **more}], RowsSpec(file="mine.jsonl"))
    assert render([{**row, "system": "", "history": []}], RowsSpec(file="mine.jsonl"))[0].completion == "o"


def test_a_broken_template_is_refused():
    with pytest.raises(ValueError, match="is not valid jinja"):
        render([], spec("{{prompt"))


def read_data(name):
    content = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text())
    return TypeAdapter(DataSpec).validate_json(json.dumps(content), strict=True)


def lm_eval_pairs(task_file, rows, split):
    """(context, continuation of the right answer) of every row, as the official task asks for them."""
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(task_file)
    config.pop("tag", None)
    config |= dict.fromkeys(("training_split", "validation_split", "test_split"))
    config |= {f"{split}_split": split, "custom_dataset": lambda **_: DatasetDict({split: Dataset.from_list(rows)})}
    task = ConfigurableTask(config=config)
    pairs = []
    for doc in task.eval_docs:
        requests = task.construct_requests(doc, task.fewshot_context(doc, num_fewshot=0))
        pairs.append(requests[task.doc_to_target(doc)].args)
    return pairs


@pytest.mark.parametrize(("part", "number"), [("train", 1369), ("test", 2876)])
def test_prompts_and_answers_are_those_of_the_official_tasks(part, number):
    import lm_eval.tasks

    tasks = Path(lm_eval.tasks.__file__).parent
    files = {
        "ARC-Easy": tasks / "arc" / "arc_easy.yaml",
        "ARC-Challenge": tasks / "arc" / "arc_challenge.yaml",
        "main": tasks / "openbookqa" / "openbookqa.yaml",
    }
    seen = 0
    for part_rows in getattr(read_data("science_qa"), part):
        rows = official(part_rows.dataset, part_rows.subset, part_rows.split, "package", None)
        expected = lm_eval_pairs(files[part_rows.subset], rows, part_rows.split)
        assert [(e.prompt, e.completion) for e in render(rows, part_rows)] == expected
        seen += len(expected)
    assert seen == number
