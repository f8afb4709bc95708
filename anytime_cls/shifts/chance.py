"""What a shift draws: random numbers that are a function of a key, the same in every version of NumPy."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from scipy.special import ndtri, pdtr, pdtrik

from anytime_cls.draws.keyed import words

Array = np.ndarray[Any, Any]


@final
class Chance:
    """Numbers drawn one after the other from a key; another key's are independent of them."""

    def __init__(self, key: bytes):
        self._key, self._drawn = key, 0

    def uniform(self, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0) -> Array:
        """Between low and high, neither of them: float64 `shape`."""
        self._drawn += 1
        raw = words(self._key + self._drawn.to_bytes(4, "little"), int(np.prod(shape, dtype=int)))
        found: Array = low + (high - low) * (((raw >> np.uint64(11)) + 0.5) * 2.0**-53)
        return found.reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Standard normals: float64 `shape`."""
        found: Array = ndtri(self.uniform(shape))
        return found

    def poisson(self, rate: Array) -> Array:
        """Counts of these means, by the inverse of their distribution: float64 of the shape of `rate`."""
        u = self.uniform(rate.shape)
        positive = np.maximum(rate, 1e-12)
        count = np.ceil(pdtrik(u, positive))
        below = np.maximum(count - 1, 0)
        found: Array = np.where(pdtr(below, positive) >= u, below, count)
        return np.where(rate > 0, found, 0.0)

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> Array:
        """Whole numbers from low to high - 1: int64 `shape`."""
        return np.floor(self.uniform(shape, low, high)).astype(np.int64)
