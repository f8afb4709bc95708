"""How well a number tells two kinds of things apart, whatever the threshold."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

Array = np.ndarray


def auroc(high: Array, low: Array, z: float = 1.959963984540054) -> dict[str, float]:
    """P(one of `high` is above one of `low`), ties counting half: {value, low, high} with a 95 % interval.

    DeLong's variance (DeLong, DeLong & Clarke-Pearson, Biometrics 1988) on the logit scale, so that the
    interval stays within [0, 1]; where all are told apart, or the variance is 0, the interval is a point.

    Parameters
    ----------
    high, low : [n] and [m] numbers, at least two each. Raises ValueError for fewer, or numbers that are none.
    """
    high, low = np.asarray(high, float), np.asarray(low, float)
    n, m = len(high), len(low)
    if n < 2 or m < 2 or not (np.isfinite(high).all() and np.isfinite(low).all()):
        raise ValueError("an AUROC needs two finite numbers of either kind at least")
    ranks = rankdata(np.concatenate([high, low]))
    above = (ranks[:n] - rankdata(high)) / m  # of each of `high`: the share of `low` that it is above
    below = 1 - (ranks[n:] - rankdata(low)) / n
    value = float(above.mean())
    deviation = float(np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))
    if not 0 < value < 1 or deviation == 0:
        return {"value": value, "low": value, "high": value}
    centre, half = np.log(value / (1 - value)), z * deviation / (value * (1 - value))
    ends = [float(1 / (1 + np.exp(-(centre + side * half)))) for side in (-1, 1)]
    return {"value": value, "low": ends[0], "high": ends[1]}
