"""Level of a test: 5 %, or the level of the present look where seeds are added until a decision."""

from harness.records.record import SweepRecord


def family_level(sweep: SweepRecord | None, level: float) -> float:
    """Return the level of a family at the last look, so that all looks together keep to `level`."""
    methods = sweep.tuning.looks.methods if sweep and sweep.tuning and sweep.tuning.looks else 0
    return _at_look(sweep, level, methods)


def claim_level(sweep: SweepRecord | None, level: float, claims: int) -> float:
    """Return the level of each of so many claims, with which all of them hold together over all looks."""
    return _at_look(sweep, level / max(claims, 1), 2)


def _at_look(sweep: SweepRecord | None, level: float, methods: int) -> float:
    tuning = sweep.tuning if sweep else None
    if tuning is None or tuning.looks is None or tuning.choices is None:
        return level
    from harness.stats.sequential import look_levels

    first, most = tuning.looks.first, tuning.looks.most
    look = min(max(len(tuning.final_seeds), first), most) - first
    return look_levels(first, most, methods, level)[look]
