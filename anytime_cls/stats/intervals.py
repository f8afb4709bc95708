"""Confidence intervals of proportions."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def proportion(hits: Array) -> dict[str, float]:
    """A proportion with its Wilson 95 % interval: {value, low, high, n}."""
    k, n = int(np.sum(hits)), len(hits)
    low, high = wilson(k / n, n)
    return {"value": round(k / n, 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": n}


def wilson(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval of a proportion. What a bootstrap cannot give where all images are alike (0 or 1)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at 0 and at 1 the interval ends there; rounding must not push it off
    return (0.0 if share == 0 else max(0.0, centre - half)), (1.0 if share == 1 else min(1.0, centre + half))


def clopper_pearson(errors: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson two-sided interval of a proportion (Biometrika 1934); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import beta  # not at the top: who only counts does not wait for it

    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else float(beta.ppf(tail, errors, n - errors + 1))
    high = 1.0 if errors == n else float(beta.ppf(1 - tail, errors + 1, n - errors))
    return low, high
