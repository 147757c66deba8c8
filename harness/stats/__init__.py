"""Estimates, tests, intervals, power and frontiers: arrays in, numbers out. Nothing here knows a record."""

from harness.stats.across import Across, Interval, across_tasks, interquartile_mean
from harness.stats.claims import (
    Comparison,
    Verdict,
    compare,
    confidence_interval,
    equivalence_p,
    holm,
    mcnemar_exact,
    not_worse_p,
    sign_flip_p,
    tie_letters,
    two_sided_p,
)
from harness.stats.compare import Family, MethodComparison, Pair, compare_methods
from harness.stats.estimate import (
    Estimate,
    Floats,
    Part,
    SeedEstimate,
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
from harness.stats.power import Plan, detectable, power, seeds_needed, smallest_effect
from harness.stats.proportion import wilson_interval
from harness.stats.resample import bootstrap, percentile_interval

__all__ = [
    "Across",
    "Comparison",
    "Estimate",
    "Family",
    "Floats",
    "Interval",
    "MethodComparison",
    "Pair",
    "Part",
    "Plan",
    "SeedEstimate",
    "Verdict",
    "across_tasks",
    "bootstrap",
    "compare",
    "compare_methods",
    "confidence_interval",
    "detectable",
    "difference_over_seeds",
    "equivalence_p",
    "frontier_probabilities",
    "holm",
    "interquartile_mean",
    "mcnemar_exact",
    "mean_and_standard_error",
    "not_worse_p",
    "on_frontier",
    "over_seeds",
    "paired_difference",
    "paired_ratio_difference",
    "percentile_interval",
    "power",
    "ratio",
    "ratio_standard_error",
    "seed_variance",
    "seeds_needed",
    "sign_flip_p",
    "smallest_effect",
    "tie_letters",
    "two_sided_p",
    "wilson_interval",
]
