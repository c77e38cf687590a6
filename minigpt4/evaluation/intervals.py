"""How sure an accuracy is: 95 % intervals of shares (Wilson) and of graded scores (bootstrap)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054
"""The standard normal distribution has 95 % of its mass within so many deviations."""
NUM_RESAMPLES = 10_000


def wilson(num_right: int, num_asked: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, in percent; of nothing asked, all is possible."""
    if not num_asked:
        return 0.0, 100.0
    share, z2 = num_right / num_asked, Z_95**2
    middle = share + z2 / (2 * num_asked)
    half = Z_95 * math.sqrt(share * (1 - share) / num_asked + z2 / (4 * num_asked**2))
    scale = 100 / (1 + z2 / num_asked)
    return max(0.0, (middle - half) * scale), min(100.0, (middle + half) * scale)


def bootstrap(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of values from 0 to 1, in percent, over resampled sets.

    How often each distinct value comes in a resampled set is drawn at once, which is the same and fast.
    """
    counts = Counter(values)
    distinct = sorted(counts)
    shares = np.array([counts[value] for value in distinct], dtype=np.float64) / len(values)
    drawn = np.random.default_rng(seed).multinomial(len(values), shares, size=NUM_RESAMPLES)
    means = drawn @ np.array(distinct) * (100 / len(values))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
