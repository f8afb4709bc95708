"""Token orders: reproducible permutations of an image's token positions.

Order k of an image is a function of (seed, image content, k) alone: not of the batch, the class, the
file's name or how many orders were drawn before. All classes of an image are scored on the same
orders (the paper's shared π_k), so what an order adds to every class cancels in their differences.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

SAMPLERS = ("uniform", "antithetic", "raster", "constant")


@dataclass(frozen=True)
class OrderSampler:
    """Draws the k-th order of an image.

    Parameters
    ----------
    name : `uniform` (independent uniformly random orders, the paper's), `antithetic` (a random order
        and its reverse, scored together), `raster` (left to right, top to bottom: one order only),
        `constant` (one random order, the same for every image)
    n_tokens : N
    seed : any integer
    """

    name: str
    n_tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"unknown order sampler {self.name!r}: choose from {', '.join(SAMPLERS)}")

    @property
    def block(self) -> int:
        """Orders in one pull: orders of a block depend on each other, blocks do not."""
        return 2 if self.name == "antithetic" else 1

    @property
    def distinct(self) -> int | None:
        """How many different orders there are, None for as many as anyone asks for."""
        return 1 if self.name in ("raster", "constant") else None

    def order(self, content: bytes, k: int) -> np.ndarray:
        """Order k of the image with this content key: int64 [N], a permutation of 0 .. N−1."""
        if self.name == "raster":
            return np.arange(self.n_tokens)
        if self.name == "constant":
            return self._random(b"constant", 0)
        if self.name == "antithetic":
            pi = self._random(content, k // 2)
            return pi[::-1].copy() if k % 2 else pi
        return self._random(content, k)

    def _random(self, content: bytes, k: int) -> np.ndarray:
        digest = hashlib.sha256(f"{self.seed}:{k}:".encode() + content).digest()
        # raw Philox words are fixed for ever; Generator.permutation may change between NumPy versions
        words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(self.n_tokens)
        return np.argsort(words, kind="stable")
