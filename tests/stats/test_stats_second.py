"""`compare_methods` against a second implementation, made from the formulas of its docstrings with loops and scipy."""

import math

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from harness.stats import compare_methods

DRAWS = 40_000


def interaction(table):
    """Method x seed residuals of a table of scores, shape (methods, seeds)."""
    rows, columns = len(table), len(table[0])
    mean = sum(map(sum, table)) / (rows * columns)
    by_row = [sum(row) / columns for row in table]
    by_column = [sum(row[s] for row in table) / rows for s in range(columns)]
    return [[table[m][s] - by_row[m] - by_column[s] + mean for s in range(columns)] for m in range(rows)]


def grubbs(residuals):
    """Each method's own variance, unbiased: Grubbs (1948)."""
    k, seeds = len(residuals), len(residuals[0])
    squares = [sum(r**2 for r in row) / (seeds - 1) for row in residuals]
    return [max((q - sum(squares) / (k * (k - 1))) * k / (k - 2), 0.0) for q in squares]


def moderate(own, pooled, seeds):
    """Variance and degrees of freedom of each method: at most two of the pool, or its own after an F test at 5 %."""
    k, free = len(own), seeds - 1
    made = []
    for m, variance in enumerate(own):
        others = sum(v for i, v in enumerate(own) if i != m) / (k - 1)
        if variance / others > scipy_stats.f.isf(0.05, free, (k - 2) * free):
            made.append((variance, free))
        else:
            prior = min(2, free**2 / 4)
            made.append(((prior * pooled + free * variance) / (prior + free), min(prior + free, (k - 1) * free)))
    return made


def item_parts(d, binary):
    """Variances of a mean difference from (seeds, items) differences: of items, and of item x seed."""
    seeds, n = d.shape
    rest = d - d.mean(axis=1, keepdims=True) - d.mean(axis=0) + d.mean()
    noise = float((rest**2).sum()) / max((seeds - 1) * (n - 1), 1) / (n * seeds)
    items = float(d.mean(axis=0).var(ddof=1)) / n
    return max(items - noise, 0.0) + binary / n**2, noise


def half_width(level, items, n, seeds, degrees):
    """Each variance with its own quantile, that of the seeds by the root of its share."""
    of_items, of_seeds = (scipy_stats.t.isf(level / 2, free) ** 2 for free in (n - 1, degrees))
    total = items + seeds
    if not seeds:
        return math.sqrt(of_items * items)
    assert of_seeds >= of_items
    joint = of_items * total + (of_seeds - of_items) * seeds * math.sqrt(seeds / total)
    return math.sqrt(max(joint, of_seeds * seeds, of_items * items))


def ends(difference, level, parts, rise):
    """The differences that the test just rejects, where a difference d has an items' variance of rise |d| - d^2 / n."""
    items, n, seeds, degrees = parts

    def excess(end):
        return abs(end - difference) - half_width(level, max(items, rise * abs(end) - end**2 / n), n, seeds, degrees)

    return tuple(optimize.brentq(excess, *sorted((difference, difference + side)), xtol=1e-13) for side in (-3, 3))


def risen(d):
    """Mean square over mean size of the items' differences, one discordant item added; right or wrong alone."""
    apart = d.mean(axis=0)
    return (float((apart**2).sum()) + 1) / (float(abs(apart).sum()) + 1) / d.shape[1]


def p_value(distance, *parts):
    def excess(log_level):
        return half_width(math.exp(log_level), *parts) - abs(distance)

    return math.exp(optimize.brentq(excess, -60, 0)) if distance else 1.0


def adjusted(p, covariance, share, degrees, random):
    """Chance that some pair of methods has a smaller p-value than p, by simulation."""
    errors = random.multivariate_normal(np.zeros(len(covariance)), covariance, DRAWS)
    chi = random.chisquare(degrees, DRAWS) / degrees
    t, z = scipy_stats.t.isf(p / 2, degrees), scipy_stats.norm.isf(p / 2)
    seeds, total = share * chi, share * chi + 1 - share
    bound = np.sqrt(np.maximum(z**2 * total + (t**2 - z**2) * seeds**1.5 / total**0.5, t**2 * seeds))
    hit = np.zeros(DRAWS, dtype=bool)
    for i in range(len(covariance)):
        for j in range(i):
            sd = math.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
            hit |= abs(errors[:, i] - errors[:, j]) / sd > bound
    return hit.mean()


def drawn(seed, methods, seeds, items, binary, odd):
    random = np.random.default_rng(seed)
    scale = np.ones((methods, 1, 1))
    scale[0] = odd
    latent = random.normal(size=items) + 0.4 * random.normal(size=(methods, 1, items))
    latent = latent + 0.12 * scale * random.normal(size=(methods, seeds, 1)) + 0.1 * random.normal(size=(1, seeds, 1))
    latent = latent + 0.3 * random.normal(size=(methods, seeds, items)) + 0.1 * random.normal(size=(methods, 1, 1))
    return (latent > 0).astype(float) if binary else latent


@pytest.mark.parametrize(
    ("methods", "seeds", "items", "binary", "odd"),
    [(4, 3, 300, True, 1), (4, 3, 300, False, 8), (3, 5, 200, True, 1), (6, 2, 400, False, 1), (5, 10, 150, True, 6)],
)
def test_every_pair_agrees_with_the_second_implementation(methods, seeds, items, binary, odd):
    values = drawn(methods * seeds, methods, seeds, items, binary, odd)
    compared = compare_methods({str(m): values[m] for m in range(methods)}, families=("all",))
    residuals = interaction(values.mean(axis=2).tolist())
    degrees = (methods - 1) * (seeds - 1)
    pooled = sum(r**2 for row in residuals for r in row) / degrees
    own = moderate(grubbs(residuals), pooled, seeds)
    centered = values.mean(axis=1) - values.mean(axis=(1, 2))[:, None]
    covariance = centered @ centered.T / (items * (items - 1)) + np.eye(methods) * pooled / seeds
    parts = {}
    for pair in compared.families["all"].pairs:
        a, b = int(pair.a), int(pair.b)
        of_items, noise = item_parts(values[a] - values[b], binary)
        parts[pair.a, pair.b] = of_items, max(2 * pooled / seeds, noise)
    share = float(np.median([of_seeds / (of_seeds + of_items) for of_items, of_seeds in parts.values()]))
    random = np.random.default_rng(1)
    for pair in compared.families["all"].pairs:
        a, b = int(pair.a), int(pair.b)
        difference = float(values[a].mean() - values[b].mean())
        of_items, of_seeds = parts[pair.a, pair.b]
        _, noise = item_parts(values[a] - values[b], binary)
        first, second = own[a], own[b]
        total = (first[0] + second[0]) / seeds
        welch = (first[0] + second[0]) ** 2 / (first[0] ** 2 / first[1] + second[0] ** 2 / second[1])
        alone = (of_items, items, max(total, noise), min(welch, degrees))
        assert pair.difference == pytest.approx(difference, abs=1e-12)
        assert pair.standard_error == pytest.approx(math.sqrt(of_items + of_seeds))
        assert pair.p == pytest.approx(p_value(difference, *alone), rel=1e-6)
        rise = risen(values[a] - values[b]) if binary else 0.0
        assert pair.interval == pytest.approx(ends(difference, 0.05, alone, rise), abs=1e-10)
        family = adjusted(p_value(difference, of_items, items, of_seeds, degrees), covariance, share, degrees, random)
        shared = min((methods + 1) * pair.p, 1.0)  # methods - 1 comparisons share a method, and two more
        assert pair.adjusted_p == pytest.approx(max(family, shared), abs=0.02)
    assert ("0" in compared.unlike) == (odd > 1)


def test_methods_against_a_fixed_base_agree_with_the_second_implementation():
    methods, seeds, items = 4, 3, 250
    values = drawn(3, methods, seeds, items, True, 1)
    base = drawn(4, 1, 1, items, True, 1)[0]
    outcomes = {str(m): values[m] for m in range(methods)} | {"base": base}
    compared = compare_methods(outcomes, baseline="base", deterministic=["base"], families=("baseline",))
    for pair in compared.families["baseline"].pairs:
        d = values[int(pair.a)] - base
        of_items, noise = item_parts(d, True)
        of_seeds = max(float(values[int(pair.a)].mean(axis=1).var(ddof=1)) / seeds, noise)
        difference = float(d.mean())
        parts = of_items, items, of_seeds, seeds - 1
        assert pair.p == pytest.approx(p_value(difference, *parts), rel=1e-6)
        assert pair.interval == pytest.approx(ends(difference, 0.05, parts, risen(d)), abs=1e-10)


@pytest.mark.parametrize("clusters", [False, True])
def test_ratios_and_clusters_agree_with_the_second_implementation(clusters):
    """A ratio of sums is linearized: residual nats over the mean weight, summed within a cluster."""
    random = np.random.default_rng(8)
    methods, seeds, items = 3, 4, 240
    weights = random.integers(1, 30, items).astype(float)
    labels = np.arange(items) // 4 if clusters else np.arange(items)
    values = drawn(9, methods, seeds, items, False, 1) * weights
    compared = compare_methods(
        {str(m): values[m] for m in range(methods)},
        families=("all",),
        weights=weights,
        clusters=labels,
        higher_is_better=False,
    )
    units = len(set(labels.tolist()))
    sums = np.array([[[row[labels == u].sum() for u in range(units)] for row in method] for method in values])
    below = np.array([weights[labels == u].sum() for u in range(units)])
    scores = sums.sum(axis=2) / below.sum()
    linear = (sums - scores[:, :, None] * below) / below.mean() + scores[:, :, None]
    residuals = interaction(scores.tolist())
    degrees = (methods - 1) * (seeds - 1)
    pooled = sum(r**2 for row in residuals for r in row) / degrees
    own = moderate(grubbs(residuals), pooled, seeds)
    for pair in compared.families["all"].pairs:
        a, b = int(pair.a), int(pair.b)
        of_items, noise = item_parts(linear[a] - linear[b], False)
        (first, df), (second, other_df) = own[a], own[b]
        welch = (first + second) ** 2 / (first**2 / df + second**2 / other_df)
        parts = (of_items, units, max((first + second) / seeds, noise), min(welch, degrees))
        difference = float(scores[a].mean() - scores[b].mean())
        assert pair.difference == pytest.approx(difference, abs=1e-12)
        assert pair.p == pytest.approx(p_value(difference, *parts), rel=1e-6)
