"""Commands that import results of others: logs of lm-eval as records of our own, published rows as external ones."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records.help_text import HelpFormatter
from harness.report.commands import above_zero, keys, warn
from harness.report.commands.answers import as_json
from harness.report.data.lm_eval_import import SEED_PATTERN, Model, Question, as_question, named, write_records
from harness.report.data.lm_eval_logs import Log, find_logs

_EXAMPLES = """\
Every model in the folders becomes a row, named NAME or after its adapter or model. Names that differ in their seed are
seeds of one method: mine-seed0 and mine-seed1 are two seeds of `mine`. Items are paired by document hash.

  harness report import-lm-eval logs/base logs/mine
  harness report import-lm-eval base=logs/a lora=logs/b lora=logs/c --seed-pattern 'run-(\\d+)'
"""


def import_lm_eval(arguments: Sequence[str]) -> str | int:
    """Import the logs and report them. The records are written even where the models cannot be compared."""
    given = _lm_eval_parser().parse_args(arguments)
    question, notes = _imported(given, arguments)
    for note in notes:
        warn(note)
    from harness.report import load, write_comparison
    from harness.report.writers.terminal import show

    comparison = load(given.out, question.name, given.allow)
    page = write_comparison(comparison, given.reports_dir / question.name)
    if not given.json:
        show(comparison, page)
        return 0
    result: dict[str, Any] = {"runs": str(given.out), "report": str(page), "base": question.base}
    return as_json({**result, "answers": [answer.record() for answer in comparison.answers]})


def import_peft(arguments: Sequence[str]) -> list[str]:
    """Read the published rows and write them as external records; return what the guard finds in them."""
    parser = argparse.ArgumentParser(
        prog="harness report import-peft",
        description="Turn the result files of PEFT's method comparison into external records below a runs folder.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with one JSON file per experiment")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="RUNS", help="runs folder to write to (default: runs)"
    )
    given = parser.parse_args(arguments)
    from harness.report.analysis.external import guard, keep, read_peft

    records, problems = read_peft(given.folder)
    for problem in problems:
        warn(f"could not be read: {problem}")
    differing = guard(records)
    return [
        f"{len(records)} rows read from {given.folder}, one seed each, no outcomes per item: nothing can be paired",
        "undeclared differences:" if differing else "no undeclared difference",
        *(f"  {difference}" for difference in differing),
        f"written: {keep(records, given.out)}; a report of the runs in {given.out} shows them as external rows",
    ]


def _lm_eval_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report import-lm-eval",
        description="Compare models from the logs of `lm_eval --log_samples`, version 0.4.0 or later.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER", help="a folder given to lm_eval --output_path")
    parser.add_argument("--base", metavar="NAME", help="the base model (default: `base`, or the base of the adapters)")
    parser.add_argument(
        "--seed-pattern",
        default=SEED_PATTERN,
        metavar="REGEX",
        help="regular expression whose group is the seed (default: %(default)s)",
    )
    parser.add_argument(
        "--retention", type=keys, metavar="TASKS", default=(), help="retention tasks, separated by commas"
    )
    parser.add_argument("--primary", metavar="TASK/METRIC", help="primary metric (default: that of the first task)")
    parser.add_argument(
        "--margin",
        type=above_zero,
        metavar="DIFFERENCE",
        help="equivalence margin in the metric's unit (default: 0.01)",
    )
    parser.add_argument("--allow", type=keys, metavar="KEYS", default=(), help="as for `harness report`")
    parser.add_argument("--name", default="lm-eval", help="name of the comparison (default: lm-eval)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs-lm-eval"),
        metavar="RUNS",
        help="runs folder to write to (default: runs-lm-eval)",
    )
    parser.add_argument("--reports-dir", type=Path, default=Path("reports"), metavar="REPORTS")
    parser.add_argument(
        "--json", action="store_true", help="print one object: runs, report, base, answers (as `answer`)"
    )
    return parser


def _check_distinct(logs: Sequence[tuple[str | None, Log]]) -> None:
    """Refuse a log that was given under two names: it would be compared with itself."""
    names: dict[Path, str | None] = {}
    for name, log in logs:
        other = names.setdefault(log.path.resolve(), name)
        if other != name:
            raise ValueError(f"{other} and {name} are the same log, {log.path}: give each model its own folder")


def _check_folders(models: Sequence[Model], folders: Mapping[Path, str]) -> None:
    """Refuse two given folders with other scores on one task of one model: it was trained anew, or asked otherwise.

    Equal scores are a repetition, and within one folder the newest log counts; both are said.
    """
    for model in models:
        for task in dict.fromkeys(task for log in model.logs for task in log.tasks):
            logs = [log for log in model.logs if task in log.tasks]
            own = list(dict.fromkeys(folders[log.path] for log in logs))
            scores = [log.results["results"][task] for log in logs]
            if len(own) > 1 and any(score != scores[0] for score in scores):
                which = model.name if model.seed is None else f"{model.name} with seed {model.seed}"
                raise ValueError(
                    f"{task} of {which} is in {' and in '.join(own)}, with other scores: give each folder a name "
                    "(NAME=FOLDER, with its seed where they are seeds of one model), or those in them that you mean"
                )


def _check_shared(models: Sequence[Model]) -> None:
    """Refuse models of which no two were asked the same task."""
    tasks = {model.name: {task for log in model.logs for task in log.tasks} for model in models}
    counts = Counter(task for own in tasks.values() for task in own)
    if len(tasks) > 1 and max(counts.values(), default=0) < 2:
        listed = "; ".join(f"{name} has {', '.join(sorted(own)) or 'none'}" for name, own in tasks.items())
        raise ValueError(f"no task is in the logs of two models, so that there is nothing to compare: {listed}")


def _imported(given: argparse.Namespace, arguments: Sequence[str]) -> tuple[Question, list[str]]:
    logs: list[tuple[str | None, Log]] = []
    folders: dict[Path, str] = {}
    for word in given.folders:
        name, equals, place = word.partition("=")
        own = find_logs(Path(place if equals else word))
        logs += [(name if equals else None, log) for log in own]
        folders |= {log.path: place if equals else word for log in own}
    _check_distinct(logs)
    models = named(logs, given.seed_pattern)
    _check_folders(models, folders)
    _check_shared(models)
    recorded = {task for model in models for log in model.logs for task in log.tasks}
    if unknown := sorted(set(given.retention) - recorded):
        raise ValueError(
            f"--retention {','.join(unknown)}: no such task in the logs; there is {', '.join(sorted(recorded))}"
        )
    request = Question(
        name=given.name,
        base=given.base,
        primary=given.primary,
        margin=given.margin,
        retention=given.retention,
        command=" ".join(["harness report import-lm-eval", *arguments]),
    )
    question = as_question(models, request)
    return question, write_records(models, question, given.out)
