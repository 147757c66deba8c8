"""`harness judge score | export | import`: generated answers judged by a model, or blindly by people.

Exit codes: 0 done; 2 the input was wrong or the endpoint gave no verdict, with one line that says what.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.evaluate.judge import answers, model, pairs
from harness.evaluate.judge.model import JudgementRecord, Unfinished
from harness.records import record
from harness.records.events import Progress
from harness.records.untrusted import echo
from harness.run.progress import board


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    work: Callable[[argparse.Namespace], None] = given.work
    try:
        work(given)
    except ValueError as error:
        echo(f"harness.judge: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness judge",
        description="Judge generated answers to held-out prompts (runs made with eval.generation_rows=<rows>).",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser(
        "score", help="score answers with a model behind an OpenAI-compatible endpoint; every verdict is stored"
    )
    score.add_argument("run", type=Path, metavar="RUN", help="runs/<recipe_id>/seed-<n>")
    score.add_argument("--endpoint", required=True, metavar="URL", help="such as http://localhost:8000/v1")
    score.add_argument("--model", required=True, help="name of the judge at the endpoint")
    score.add_argument(
        "--rubric", required=True, type=Path, metavar="FILE", help="text file that describes a good answer"
    )
    score.add_argument(
        "--range",
        nargs=2,
        type=int,
        default=(1, 10),
        metavar=("LOW", "HIGH"),
        help="lowest and highest score (default: 1 10)",
    )
    score.add_argument(
        "--key-variable", metavar="NAME", help="environment variable that holds the API key; never recorded"
    )
    export = commands.add_parser("export", help="write blinded answer pairs of two runs as CSV for human raters")
    export.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    export.add_argument(
        "--out", required=True, type=Path, metavar="PAIRS.csv", help="output file; its key is written beside it"
    )
    export.add_argument("--seed", type=int, default=0, help="seed of the order and of the sides (default: 0)")
    back = commands.add_parser("import", help="read the verdicts of a filled CSV and store them for both runs")
    back.add_argument("filled", type=Path, metavar="PAIRS.csv")
    back.add_argument("--key", type=Path, help="key file of the pairs (default: PAIRS.key.json)")
    for command, work in ((score, _score), (export, _export), (back, _import)):
        command.set_defaults(work=work)
        if command is not back:
            command.add_argument("--task", help="evaluation to judge, if a run has several")
    return parser


def _score(given: argparse.Namespace) -> None:
    written = answers.read(given.run, given.task)
    if not given.rubric.is_file():
        raise ValueError(f"--rubric {given.rubric}: no such file")
    by = model.Judge(
        endpoint=given.endpoint, model=given.model, rubric=given.rubric.read_text(encoding="utf-8"),
        lowest=given.range[0], highest=given.range[1], key_variable=given.key_variable,
    )  # fmt: skip
    model.check(by)
    identity = "\0".join((by.endpoint, by.model, by.rubric, str((by.lowest, by.highest))))
    name = f"{written.evaluation.eval_id}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    prompts = "\0".join(model.text(by, entry) for entry in written.answers)
    unfinished = Unfinished(
        given.run / "judgements" / f".{name}-{hashlib.sha256(prompts.encode()).hexdigest()[:8]}.jsonl"
    )
    verdicts = _verdicts(by, written, unfinished)
    total = len(written.answers)
    value, stderr = model.mean(verdicts)
    unread = sum(entry.score is None for entry in verdicts)
    judgement = JudgementRecord(
        schema=record.SCHEMA,
        eval_id=written.evaluation.eval_id,
        judged_at=datetime.now(UTC).isoformat(timespec="seconds"),
        endpoint=by.endpoint,
        model=by.model,
        rubric=by.rubric,
        prompt=model.PROMPT,
        score_range=(by.lowest, by.highest),
        mean=value,
        stderr=stderr,
        num_unparsable=unread,
        verdicts=tuple((entry.item_id, entry.score, entry.reply) for entry in verdicts),
        weights_from=written.evaluation.weights_from,
    )
    path = record.write(judgement, given.run / "judgements" / f"{name}.json")
    unfinished.remove()
    mean_text = "no score could be read" if value is None else f"mean {value:.3f}"
    echo(
        f"{written.method}: {mean_text}" + (f" \u00b1 {stderr:.3f}" if stderr is not None else "") + f" of {by.highest}"
    )
    echo(f"{total:,} answers, {unread:,} verdicts could not be read; {path}")


def _verdicts(by: model.Judge, given: answers.Answers, unfinished: Unfinished) -> list[model.Verdict]:
    """Return a verdict on each answer, including those that an interrupted earlier call received."""
    received = unfinished.read()
    left = [answer for answer in given.answers if answer.item_id not in received]

    def told(verdict: model.Verdict) -> None:
        unfinished.add(verdict)
        received[verdict.item_id] = verdict
        board(Progress(len(received), len(given.answers)))

    board.start_bar(f"judging by {by.model}")
    try:
        model.judge(by, left, told)
    finally:
        board.end()
    return [received[answer.item_id] for answer in given.answers]


def _export(given: argparse.Namespace) -> None:
    first, second = (answers.read(run, given.task) for run in given.runs)
    number = pairs.export(first, second, given.out, given.seed)
    echo(f"{number:,} pairs in {given.out}: fill the column verdict with {', '.join(pairs.VERDICTS)}")
    echo(f"whose answers they are is in {pairs.key_path(given.out)}: keep it from those who judge")


def _import(given: argparse.Namespace) -> None:
    counted, path = pairs.take(given.filled, given.key or pairs.key_path(given.filled))
    echo(f"better: {counted.wins_first:,} {counted.first}, {counted.wins_second:,} {counted.second}")
    p_value = "" if counted.p_value is None else f"; exact sign test p = {counted.p_value:.3g}"
    echo(f"ties: {counted.ties:,}, without a verdict: {counted.missing:,}{p_value}; {path}")


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
