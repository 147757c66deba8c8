"""Clusters of unequal size: few large ones decide the mean, and the plain variance of their sums is too small.

The mean over all items is that of the clusters' means, weighted by their shares of the items. It follows a large
cluster, whose residual then says too little: with half of the items in one cluster the plain test is wrong in a third
of the cases. Each residual is divided by the root of what the mean leaves of its variance, and the degrees of freedom
are those of the corrected variance by Satterthwaite's rule: about one with half of the items in one cluster, whatever
the number of the others. Both are for items of a cluster that are correlated by 0.1. The test then keeps its level at
any correlation, and is careful where few clusters hold most items. Clusters of one size have the plain variance, and
one degree of freedom less than there are clusters.

Source: Bell and McCaffrey, Bias reduction in standard errors for linear regression with multi-stage samples, Survey
Methodology 28, 2002.
"""

import numpy as np

from harness.stats.estimate import Floats

_ALIKE = 0.1  # correlation of the items of a cluster


def residual_factors(sizes: Floats) -> tuple[Floats, float]:
    """Return by what the residuals of clusters are multiplied, and the degrees of freedom of their variance.

    Args:
        sizes: items of each cluster, shape (clusters,).
    """
    count = len(sizes)
    if (sizes == sizes[0]).all():
        return np.ones(count), float(max(count - 1, 1))
    shares = sizes / sizes.sum()
    variances = (1 + (sizes - 1) * _ALIKE) / sizes  # of the clusters' means
    pulled = shares * variances  # covariance of a cluster's mean with the mean over all
    total = float(shares @ pulled)
    left = variances - 2 * pulled + total
    squares = shares**2 * variances / left
    zeroth, first, second = (float(squares @ pulled**power) for power in (0, 1, 2))
    every = total**2 * zeroth**2 + 2 * zeroth * second - 4 * total * zeroth * first + 2 * first**2
    own = float(squares**2 @ (left**2 - (total - 2 * pulled) ** 2))
    return np.sqrt((1 - 1 / count) * variances / left), max(total**2 / (every + own), 1.0)
