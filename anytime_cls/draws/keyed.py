"""Random numbers from a key: the same on every machine and in every version, whatever was drawn before."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def words(key: bytes, n: int) -> np.ndarray:
    """Random 64-bit words uint64 [n] that no other key gives."""
    # raw Philox words are fixed for ever; a Generator's permutation may change between NumPy versions
    digest = hashlib.sha256(key).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n)


def normal(key: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals: float32 `shape`."""
    from scipy.special import ndtri  # here: only latent noise waits for SciPy

    uniform = ((words(key, int(np.prod(shape))) >> np.uint64(11)) + 0.5) * 2.0**-53  # 53 bits, never 0 or 1
    found: np.ndarray = ndtri(uniform).astype(np.float32).reshape(shape)
    return found


@lru_cache(maxsize=1024)  # the orders of a stratified block share one, and so do an antithetic pair's
def permutation(key: bytes, n: int) -> np.ndarray:
    """A uniformly random permutation of 0 .. n−1, int64 [n]; it is cached, so nobody may write to it."""
    return np.argsort(words(key, n), kind="stable")
