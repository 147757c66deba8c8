"""Blinded pairs of answers as CSV for people to judge. A separate key file says which run wrote which answer."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from harness.evaluate.judge.answers import Answers
from harness.records import base, untrusted
from harness.records.base import Strict
from harness.records.record import write_text
from harness.stats import sign_test

_LONGEST_FIELD = 2**31 - 1  # characters; answers are longer than csv's own limit
COLUMNS = ("pair", "prompt", "answer_1", "answer_2", "verdict")
VERDICTS = ("1", "2", "tie")


@dataclass(frozen=True, kw_only=True)
class Side(Strict):
    """One pair: its item, and the run whose answer stands first."""

    item_id: str
    answer_1: Literal["first", "second"]


@dataclass(frozen=True, kw_only=True)
class Key(Strict):
    """Content of the key file: the folders of both runs, and which of them wrote which answer of a pair."""

    first: str
    second: str
    seed: int
    pairs: dict[str, Side]


@dataclass(frozen=True)
class Counted:
    """Number of verdicts for each run; `p_value` is that of the exact sign test over the pairs without ties."""

    first: str
    second: str
    wins_first: int
    wins_second: int
    ties: int
    missing: int
    p_value: float | None


def export(first: Answers, second: Answers, out: Path, seed: int) -> int:
    """Write the pairs to `out` and the key beside it; return the number of pairs.

    Order and sides follow from a hash of the seed and the item, so that neither shows which run wrote an answer.

    Raises:
        ValueError: the two runs have answers to different prompts.
    """
    theirs = {answer.item_id: answer for answer in second.answers}
    if {answer.item_id for answer in first.answers} != theirs.keys():
        raise ValueError(f"{first.run_folder} and {second.run_folder}: their answers are not to the same prompts")
    by_hash = sorted(theirs, key=lambda item_id: _hash(seed, "side", item_id))
    on_the_other_side = set(by_hash[: len(by_hash) // 2])  # each run is on either side equally often
    rows, sides = [], {}
    for answer in sorted(first.answers, key=lambda answer: _hash(seed, "order", answer.item_id)):
        swapped = answer.item_id in on_the_other_side
        pair = "p" + _hash(seed, "pair", answer.item_id)[:12]  # the letter: spreadsheets round what reads as a number
        texts = (answer.answer, theirs[answer.item_id].answer)
        rows.append((pair, answer.prompt, *(reversed(texts) if swapped else texts), ""))
        sides[pair] = {"item_id": answer.item_id, "answer_1": "second" if swapped else "first"}
    write_text(untrusted.to_csv(COLUMNS, rows), out)
    key = {"first": str(first.run_folder), "second": str(second.run_folder), "seed": seed, "pairs": sides}
    write_text(json.dumps(key, indent=1) + "\n", key_path(out))
    return len(rows)


def key_path(out: Path) -> Path:
    """Return the path of the key file, which must not be given to the people who judge."""
    return out.with_suffix(".key.json")


def take(filled: Path, key: Path) -> tuple[Counted, Path]:
    """Count verdicts as `count` does, and write them beside the CSV with the verdict on each item; return both."""
    winners = _winners(filled, key)
    counted = _counted(winners, key)
    pairs = _known(key).pairs
    items = {pairs[pair].item_id: winner or None for pair, winner in winners.items()}
    return counted, write_text(
        json.dumps({**asdict(counted), "better": items}, indent=1) + "\n", filled.with_suffix(".verdicts.json")
    )


def count(filled: Path, key: Path) -> Counted:
    """Read verdicts (1, 2 or tie; empty if there is none) and count them for the runs.

    Raises:
        ValueError: a file is missing or malformed, a verdict is invalid, or a pair is not in the key or occurs twice.
    """
    return _counted(_winners(filled, key), key)


def _counted(winners: dict[str, str], key: Path) -> Counted:
    key_facts, counts = _known(key), Counter(winners.values())
    first, second, left_out = counts["first"], counts["second"], len(key_facts.pairs) - len(winners)
    missing, p_value = counts[""] + left_out, sign_test(first, second)
    return Counted(key_facts.first, key_facts.second, first, second, counts["tie"], missing, p_value)


def _known(key: Path) -> Key:
    if not key.is_file():
        raise ValueError(f"{key}: no such file; give the key that `export` wrote beside the CSV with --key")
    try:
        return base.parsed(Key, json.loads(key.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{key}: not a key that `export` wrote ({base.first_line(error)}); give the one beside the CSV with --key"
        ) from error


def _winners(filled: Path, key: Path) -> dict[str, str]:
    """Return the verdicts by pair: first, second, tie, or "" if there is none."""
    if not filled.is_file():
        raise ValueError(f"{filled}: no such file; give the CSV that `export` wrote")
    pairs = _known(key).pairs
    csv.field_size_limit(_LONGEST_FIELD)
    with filled.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        sign = max(",;\t", key=file.readline().count)  # the delimiter, which depends on the spreadsheet
        file.seek(0)
        rows = list(csv.DictReader(file, delimiter=sign))
    if not rows or not {"pair", "verdict"} <= rows[0].keys():
        raise ValueError(f"{filled}: a CSV with the columns {', '.join(COLUMNS)} is needed")
    winners: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{filled}: row {number}"
        if row["pair"] in winners:
            raise ValueError(f"{where}: pair {row['pair']!r} is there twice; import one file for each who judges")
        winners[row["pair"]] = _winner(row, pairs, where)
    return winners


def _winner(row: dict[str, str], pairs: dict[str, Side], where: str) -> str:
    verdict = (row["verdict"] or "").strip().lower().removesuffix(".0")
    if row["pair"] not in pairs:
        raise ValueError(f"{where}: pair {row['pair']!r} is not one of the key's")
    if verdict not in ("", *VERDICTS):
        raise ValueError(f"{where}: verdict {verdict!r} is none of {', '.join(VERDICTS)}, or empty")
    if verdict not in ("1", "2"):
        return verdict
    first = pairs[row["pair"]].answer_1
    other = "second" if first == "first" else "first"
    return first if verdict == "1" else other


def _hash(seed: int, what: str, item_id: str) -> str:
    return hashlib.sha256(f"{seed} {what} {item_id}".encode()).hexdigest()
