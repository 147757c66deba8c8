"""Estimates, tests, intervals, power and frontiers: arrays in, numbers out. Nothing here knows a record."""

from harness.stats.across import Across, Interval, across_tasks, interquartile_mean
from harness.stats.basis import Scope
from harness.stats.claims import MOST_FLIPPED, SEEDS_FOR_SIGN_FLIP, sign_flip_p
from harness.stats.compare import compare_methods
from harness.stats.contrast import score_interval
from harness.stats.estimate import (
    Estimate,
    Floats,
    Part,
    SeedEstimate,
    clustered,
    difference_over_seeds,
    mean_and_standard_error,
    over_seeds,
    paired_difference,
    paired_ratio_difference,
    ratio,
    ratio_standard_error,
    seed_variance,
)
from harness.stats.frontier import frontier_probabilities, on_frontier
from harness.stats.pairs import Family, FamilyName, MethodComparison, Pair, Verdict
from harness.stats.power import (
    MeasuredNoise,
    Plan,
    measured_noise,
    needed_for_equivalence,
    power,
    seeds_needed,
    smallest_effect,
)
from harness.stats.proportion import sign_test, wilson_interval
from harness.stats.ranks import Ranks, average_ranks
from harness.stats.resample import bootstrap, percentile_interval, seed_draws

__all__ = [
    "MOST_FLIPPED",
    "SEEDS_FOR_SIGN_FLIP",
    "Across",
    "Estimate",
    "Family",
    "FamilyName",
    "Floats",
    "Interval",
    "MeasuredNoise",
    "MethodComparison",
    "Pair",
    "Part",
    "Plan",
    "Ranks",
    "Scope",
    "SeedEstimate",
    "Verdict",
    "across_tasks",
    "average_ranks",
    "bootstrap",
    "clustered",
    "compare_methods",
    "difference_over_seeds",
    "frontier_probabilities",
    "interquartile_mean",
    "mean_and_standard_error",
    "measured_noise",
    "needed_for_equivalence",
    "on_frontier",
    "over_seeds",
    "paired_difference",
    "paired_ratio_difference",
    "percentile_interval",
    "power",
    "ratio",
    "ratio_standard_error",
    "score_interval",
    "seed_draws",
    "seed_variance",
    "seeds_needed",
    "sign_flip_p",
    "sign_test",
    "smallest_effect",
    "wilson_interval",
]
