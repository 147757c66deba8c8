"""Claims of a file in `sweeps/`: their schema, and a check against the rows of results that the file requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.records import claim_grammar
from harness.records.base import Strict
from harness.records.claim_grammar import Claim, Ratio, Selector

RATES = ("lr_scale", "method.lr", "train.lr")
Rows = Sequence[tuple[str | None, Sequence[str]]]  # method and overrides of each row of the results


@dataclass(frozen=True, kw_only=True)
class ClaimEntry(Strict):
    """A claim that the sweep tests, in the grammar of `harness.records.claim_grammar`."""

    claim: str
    source: str | None = None  # author of the claim
    note: str | None = None  # remark for the reader


def errors(entries: Sequence[ClaimEntry], rows: Rows, tuned: Sequence[str] | None) -> Iterator[str]:
    """Yield why a claim is malformed or names a cell that the file does not have.

    Args:
        entries: the claims.
        rows: the rows of the results.
        tuned: the tuned settings; None without stages.
    """
    for entry in entries:
        try:
            _check(claim_grammar.parse(entry.claim), rows, tuned)
        except ValueError as error:
            text = str(error)
            yield text if text.startswith("claim ") else f'claim "{entry.claim}": {text}'


def _check(claim: Claim, rows: Rows, tuned: Sequence[str] | None) -> None:
    for cell in claim.cells:
        _check_cell(cell, tuned)
        claim_grammar.select(cell, rows)
    if isinstance(claim, Ratio) and claim.metric is None and not any(name in RATES for name in tuned or ()):
        raise ValueError(
            f"best_lr needs a tuned rate, one of {', '.join(RATES)} in stages.tune.settings; here: "
            f"{', '.join(tuned or ()) or 'nothing'}"
        )


def _check_cell(cell: Selector, tuned: Sequence[str] | None) -> None:
    if cell.best and tuned is None:
        raise ValueError(f"{cell}: @best is the recipe that stages.tune chose, and the file has no stages")
    wrong = [key for key, _ in cell.settings if key in (tuned or ()) or f"method.{key}" in (tuned or ())]
    if wrong:
        raise ValueError(f"{cell}: {wrong[0]} is tuned, so that it selects no row of the results; leave it out")
