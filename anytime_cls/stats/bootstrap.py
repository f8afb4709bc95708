"""The bootstrap over images, paired: means, differences and their percentile intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
_ROOM = 1 << 22  # resample weights in memory at once (32 MiB)


@dataclass(frozen=True, eq=False)
class Means:
    """Means of R columns over the images, and over B resamples of the images.

    value: float64 [R]. draws: float64 [B, R]; row b is the same resample in every `Means` made with the same
    number of images, resamples and seed.
    """

    value: Array
    draws: Array

    def __getitem__(self, columns: Any) -> Means:
        """Some of the columns."""
        return Means(self.value[columns], self.draws[:, columns])

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Percentile interval of every column: two [R]; the means themselves where B is 0."""
        return percentile_interval(self.draws, self.value, level)


def bootstrap(values: Array, resamples: int = 1000, seed: int = 0) -> Means:
    """Means of columns [I, R] over images, with B resamples drawn with replacement.

    Raises ValueError without images, for negative `resamples`, and for values that are not finite: a NaN
    would silently spread over every resample that draws its image.
    """
    values = np.asarray(values, float)
    n_images = len(values)
    if not n_images:
        raise ValueError("no images to take means over")
    if resamples < 0:
        raise ValueError(f"resamples must not be negative, got {resamples}")
    if not np.isfinite(values).all():
        raise ValueError("values to average must be finite")
    rng = np.random.default_rng(seed)
    chunk = max(1, _ROOM // n_images)
    draws = np.empty((resamples, values.shape[1]))
    for first in range(0, resamples, chunk):
        rows = min(chunk, resamples - first)
        # multinomial weights: how often each image was drawn; a product with them is a resample's sum
        drawn = rng.integers(0, n_images, (rows, n_images)) + np.arange(rows)[:, None] * n_images
        weights = np.bincount(drawn.ravel(), minlength=rows * n_images).reshape(rows, n_images)
        draws[first : first + rows] = weights.astype(float) @ values / n_images
    return Means(values.sum(axis=0) / n_images, draws)


def percentile_interval(draws: Array, value: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Percentiles of draws [B, ...] over the first axis; `value` where there are no draws."""
    if not len(draws):
        return value, value
    tail = (1 - level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail), axis=0)
    return low, high


def difference(a: Means, b: Means, level: float = 0.95) -> tuple[Array, Array, Array]:
    """Paired difference a − b: value, low, high, three [R]; b may be a single column."""
    value, draws = a.value - b.value, a.draws - b.draws
    return (value, *percentile_interval(draws, value, level))
