"""Claims in words: methods by their names, the relation between them, the metric, and numbers in its unit."""

from collections.abc import Mapping, Sequence

from harness.records.claim_grammar import Claim, Difference, Ratio, Selector, Term
from harness.report import names
from harness.report.display import lowered

_QUANTITIES = {
    None: "best learning rate",
    "validation_loss": "validation loss (nats per token)",
    "test_loss": "test loss (nats per token)",
    "trainable_parameters": "trained parameters",
    "peak_memory_bytes": "peak memory (bytes)",
    "tokens_per_second": "tokens per second",
    "train_seconds": "training time (seconds)",
    "train_energy_joules": "training energy (joules)",
    "device_hours": "device hours",
}
_MINUS = "\N{MINUS SIGN}"


def method(cell: Selector) -> str:
    """Return a cell by the names of its method and settings, as `LoRA (r=64, rsLoRA)`."""
    parts = ", ".join(sorted(filter(None, (names.labeled(key, value) for key, value in cell.settings))))
    return names.method(cell.method).display + (f" ({parts})" if parts else "")


def text(claim: Claim, titles: Mapping[Selector, str] | None = None) -> str:
    """Return what a claim says, as `DoRA within 1 point of LoRA` or `LoRA 5 to 20 times full fine-tuning`.

    `titles` holds names of its cells that the tables have given them.
    """
    named = {cell: method(cell) for cell in claim.cells} | dict(titles or {})
    if isinstance(claim, Ratio):
        low, high = claim.range.low, claim.range.high
        times = f"at most {high:g}" if not low else f"{low:g} to {high:g}"
        return f"{named[claim.above]} {times} times {names.inside(named[claim.below])}"
    if [term.factor for term in claim.terms] == [1.0, -1.0]:
        first, second = claim.cells
        return f"{named[first]} {_relation(claim)} {names.inside(named[second])}"
    return _formula(claim, named)


def _relation(claim: Difference) -> str:
    """Return how the first of two methods stands to the second."""
    low, high, is_open = claim.range.low, claim.range.high, claim.range.is_open
    if low is not None and high is not None:
        if low == -high:
            return f"within {_amount(claim, high)} of"
        return f"between {_amount(claim, low)} and {_amount(claim, high)} above"
    bound = low if low is not None else high
    assert bound is not None, "every claim has a bound"
    side, other = ("above", "below") if low is not None else ("below", "above")
    if bound == 0:
        return side if is_open else f"not {other}"
    is_far = (bound > 0) == (low is not None)  # else the first may stand on the other side, no further than that
    size = ("more than" if is_far else "less than") if is_open else ("at least" if is_far else "at most")
    return f"{size} {_amount(claim, abs(bound))} {side if is_far else other}"


def _formula(claim: Difference, named: Mapping[Selector, str]) -> str:
    """Return a claim on a sum of scores as an inequality."""
    low, high, is_open = claim.range.low, claim.range.high, claim.range.is_open
    if low is not None and high is not None:
        return f"{_sum(claim.terms, named)} between {_amount(claim, low)} and {_amount(claim, high)}"
    bound = low if low is not None else high
    assert bound is not None, "every claim has a bound"
    sign = (">" if is_open else "\N{GREATER-THAN OR EQUAL TO}") if low is not None else None
    sign = sign or ("<" if is_open else "\N{LESS-THAN OR EQUAL TO}")
    right = [Term(-term.factor, term.cell) for term in claim.terms if term.factor < 0]
    shift = f" {'+' if bound > 0 else _MINUS} {_amount(claim, abs(bound))}" if bound else ""
    left = _sum([term for term in claim.terms if term.factor > 0], named) or "0"
    return f"{left} {sign} {_sum(right, named)}{shift}" if right else f"{left} {sign} {_amount(claim, bound)}"


def _sum(terms: Sequence[Term], named: Mapping[Selector, str]) -> str:
    parts: list[str] = []
    for term in terms:
        factor = "" if abs(term.factor) == 1 else f"{abs(term.factor):g} \N{MULTIPLICATION SIGN} "
        sign = (" + " if term.factor > 0 else f" {_MINUS} ") if parts else ("" if term.factor > 0 else _MINUS)
        name = named[term.cell]
        parts.append(sign + factor + (name if not parts and not factor else names.inside(name)))
    return "".join(parts)


def scale(claim: Claim) -> float:
    """Return 100 for a metric that is shown in percent, the differences of which are points."""
    task, _, name = (claim.metric or "").rpartition("/")
    return 100.0 if task and names.metric(name).percent else 1.0


def _amount(claim: Claim, value: float) -> str:
    scaled = round(value * scale(claim), 9)
    unit = "" if scale(claim) == 1 else " point" if abs(scaled) == 1 else " points"
    return f"{_MINUS if scaled < 0 else ''}{abs(scaled):g}{unit}"


def metric(claim: Claim) -> str:
    """Return what is compared, with the unit of its differences, as `ARC-Easy accuracy, points`."""
    if claim.metric is None or claim.metric in _QUANTITIES:
        return _QUANTITIES[claim.metric]
    task, _, name = claim.metric.rpartition("/")
    unit = "" if scale(claim) == 1 else ", points"
    return f"{names.task(task).display} {lowered(names.metric(name).display)}{unit}"
