"""`harness report import-lm-eval [NAME=]FOLDER...`: logs of `lm_eval --log_samples` -> records and their report.

Exit codes: 0 reported, 2 wrong input, 3 the models cannot be compared; the records are written even so.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records.untrusted import echo
from harness.report.data.lm_eval_import import SEED_PATTERN, Question, as_question, named, write_records
from harness.report.data.lm_eval_logs import Log, find_logs

_EXAMPLES = """\
Every model below the folders becomes a row. Its name is that of its adapter or model, or NAME; a seed in it makes rows
of one method: mine-seed0 and mine-seed1 are two seeds of `mine`. Items are paired by the hash of their document.

  harness report import-lm-eval logs/base logs/mine
  harness report import-lm-eval base=logs/a lora=logs/b lora=logs/c --seed-pattern 'run-(\\d+)'
"""


def main(arguments: Sequence[str]) -> int:
    """Import the logs and report them; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        question, notes = _imported(given, arguments)
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    for note in notes:
        echo(f"harness.report: {note}", file=sys.stderr)
    return _report(given, question)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report import-lm-eval",
        description="Compare models by the logs that lm_eval --log_samples wrote, of any version from 0.4.0.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER", help="what lm_eval --output_path named")
    parser.add_argument("--base", metavar="NAME", help="the untouched model (default: `base`, or that of all adapters)")
    parser.add_argument(
        "--seed-pattern", default=SEED_PATTERN, metavar="REGEX", help="whose group is the seed (default: %(default)s)"
    )
    parser.add_argument("--retention", metavar="TASKS", default="", help="tasks that measure what should stay: a,b")
    parser.add_argument("--primary", metavar="TASK/METRIC", help="what decides (default: the first task)")
    parser.add_argument("--margin", type=float, metavar="DIFFERENCE", help="differences below it count as none")
    parser.add_argument("--allow", metavar="KEYS", default="", help="as in a report")
    parser.add_argument("--name", default="lm-eval", help="of the comparison (default: lm-eval)")
    parser.add_argument("--out", type=Path, default=Path("runs-lm-eval"), metavar="RUNS", help="default: runs-lm-eval")
    parser.add_argument("--reports-dir", type=Path, default=Path("reports"), metavar="REPORTS")
    parser.add_argument("--json", action="store_true", help="print the answers as JSON, see `harness report answer`")
    return parser


def _imported(given: argparse.Namespace, arguments: Sequence[str]) -> tuple[Question, list[str]]:
    logs: list[tuple[str | None, Log]] = []
    for word in given.folders:
        name, equals, place = word.partition("=")
        folder = Path(place if equals else word)
        logs += [(name if equals else None, log) for log in find_logs(folder)]
    models = named(logs, given.seed_pattern)
    retention = tuple(task for task in given.retention.split(",") if task)
    recorded = {task for model in models for log in model.logs for task in log.tasks}
    if unknown := sorted(set(retention) - recorded):
        raise ValueError(
            f"--retention {','.join(unknown)}: no such task in the logs; there is {', '.join(sorted(recorded))}"
        )
    request = Question(
        name=given.name,
        base=given.base,
        primary=given.primary,
        margin=given.margin,
        retention=retention,
        command=" ".join(["harness report import-lm-eval", *arguments]),
    )
    question = as_question(models, request)
    return question, write_records(models, question, given.out)


def _report(given: argparse.Namespace, question: Question) -> int:
    from harness.report import load, write_comparison
    from harness.report.analysis.comparable import IncomparableError
    from harness.report.writers.terminal import show

    allowed = [key for key in given.allow.split(",") if key]
    try:
        comparison = load(given.out, question.name, allowed)
        page = write_comparison(comparison, given.reports_dir / question.name)
    except IncomparableError as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    if given.json:
        result: dict[str, Any] = {"runs": str(given.out), "report": str(page), "base": question.base}
        result["answers"] = [answer.record() for answer in comparison.answers]
        echo(json.dumps(result, allow_nan=False, ensure_ascii=False, indent=2))
    else:
        show(comparison, page)
    return 0
