"""Logs that lm-eval itself writes, of models that answer by a table: `python lm_eval_writer.py FOLDER MODEL...`.

A MODEL is `<output folder>:<pretrained>:<share of right answers>:<seed>`, with `:<adapter>` behind it where there is
one. Works with lm-eval from 0.4.2 on, so that logs of older versions can be made with it too.
"""

import hashlib
import json
import sys
from pathlib import Path

from lm_eval import __main__ as command
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

ROWS = 60
NUMBERS = """
task: numbers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
SAID = """
task: said
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
filter_list:
  - {{name: strict, filter: [{{function: regex, regex_pattern: "^(\\\\d+)"}}, {{function: take_first}}]}}
  - {{name: loose, filter: [{{function: regex, regex_pattern: "(\\\\d+)"}}, {{function: take_first}}]}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


@register_model("by_table")
class Table(LM):
    """Answers right for a share of the questions, which ones depends on the seed in part."""

    def __init__(self, pretrained="", peft="", share=0.5, seed=0, **other):
        super().__init__()
        self.name, self.share, self.seed = f"{pretrained}{peft}", float(share), int(seed)

    def knows(self, question):
        def unit(text):
            return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32

        return 0.8 * unit(question) + 0.2 * unit(f"{question} {self.name} {self.seed}") < self.share

    def loglikelihood(self, requests, **options):
        answers = []
        for request in requests:
            question, choice = request.args
            right = question.rpartition(" ")[2].removesuffix("?") == choice.strip()
            answers.append((-1.0 if right == self.knows(question) else -2.0 - len(choice) / 10, False))
        return answers

    def generate_until(self, requests, **options):
        number = [request.args[0].rpartition(" ")[2].removesuffix("?") for request in requests]
        known = [self.knows(request.args[0]) for request in requests]
        return [n if k else f"say {n}" if int(n) % 2 else "none" for n, k in zip(number, known, strict=True)]

    def loglikelihood_rolling(self, requests, **options):
        return [-1.0 for _ in requests]


def write_tasks(folder: Path) -> Path:
    """Two tasks with rows of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(ROWS):
        choices = [str(i), str(i + 1), str(i + 2)]
        turned = choices[i % 3 :] + choices[: i % 3]
        rows.append({"question": f"Which number is {i}?", "choices": turned, "answer": turned.index(str(i))})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("numbers", NUMBERS), ("said", SAID)):
        (folder / f"{name}.yaml").write_text(text.format(rows=folder / "rows.jsonl"))
    return folder


def main(folder, *models):
    tasks = write_tasks(Path(folder) / "tasks")
    for model in models:
        out, pretrained, share, seed, *adapter = model.split(":")
        arguments = {
            "pretrained": pretrained,
            "share": share,
            "seed": seed,
            **({"peft": adapter[0]} if adapter else {}),
        }
        sys.argv = [
            "lm_eval", "--model", "by_table", "--model_args", ",".join(f"{k}={v}" for k, v in arguments.items()),
            "--tasks", "numbers,said", "--include_path", str(tasks), "--log_samples",
            "--output_path", str(Path(folder) / out),
        ]  # fmt: skip
        command.cli_evaluate()


if __name__ == "__main__":
    main(*sys.argv[1:])
