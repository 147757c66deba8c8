"""`python -m harness.data check data=... model=...`: look at data before anything is trained on them.

Exit codes: 0 nothing stands in the way of a run; 2 the input was wrong, or the data are refused by their configuration;
1 something else went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.compose import experiments
from harness.records import base, redact
from harness.records.data_check import DataCheck
from harness.records.help_text import HelpFormatter
from harness.records.untrusted import echo
from harness.report.pages import data_card
from harness.run import isolate
from harness.run.progress import board

_EXAMPLES = """\
  python -m harness.data check data=gsm8k
  python -m harness.data check data=file data.file=mine.jsonl model=smollm2-135m train.max_length=1024
  python -m harness.data check data=file data.file=chats.jsonl eval.tasks=[mmlu,gsm8k] data.on_contamination=error

Checks row counts, exact and near duplicates, overlap with held-out rows and with every item of eval.tasks, lengths and
truncation at train.max_length, prompts with several answers, unreadable rows by line, label balance and tokenizer
pitfalls. The result goes to runs/data/ and, as a card, to reports/data/. Every run makes the same check.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="harness data",
        description="Check data before training. Takes the settings of `python -m harness`; commas check several.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("action", choices=["check"])
    parser.add_argument("override", nargs="*", metavar="SETTING=VALUE", help="a setting of `python -m harness`")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list, one object per check, as stored in runs/data/"
    )
    given = parser.parse_args(arguments)
    try:
        wanted = [experiment for _, experiment in experiments(given.override)]
    except ValueError as error:
        return _wrong(error, 2)
    board.start_bar("checking data")
    try:
        log = Path(wanted[0].runs_dir) / "check.log"
        ended = isolate.call("harness.run.audit:command", wanted, log=log, on_event=board, terms=isolate.REPEATABLE)
        documents = redact.anything(ended.returned())
    except (ValueError, RuntimeError) as error:
        return _wrong(error, 2 if isinstance(error, ValueError) else 1)
    finally:
        board.end()
    checks = [base.parsed(DataCheck, document) for document in documents]
    for check in checks:
        card = data_card.write(check, Path(wanted[0].reports_dir) / "data")
        if not given.json:
            data_card.show(check, card)
    if given.json:
        echo(json.dumps(documents, indent=1))
    return 2 if any(check.refusals for check in checks) else 0


def _wrong(error: object, code: int) -> int:
    echo(f"harness.data: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
