"""Token orders: reproducible permutations of an image's token positions.

Order k of an image is a function of (seed, image content, k) alone: not of the batch, the class, the
file's name or how many orders were drawn before. All classes of an image are scored on the same
orders (the paper's shared π_k), so what an order adds to every class cancels in their differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytime_cls.draws.base import Draw
from anytime_cls.draws.keyed import permutation

SAMPLERS = ("uniform", "antithetic", "stratified", "raster", "constant")


def check_sampler(name: str) -> None:
    """Raises ValueError for an unknown sampler."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown order sampler {name!r}: choose from {', '.join(SAMPLERS)}")


def block_of(name: str) -> int:
    """Orders in one pull of a sampler: antithetic pairs depend on each other and are scored together."""
    return 2 if name == "antithetic" else 1


def distinct_orders(name: str) -> int | None:
    """How many different orders a sampler has, None for as many as anyone asks for."""
    return 1 if name in ("raster", "constant") else None


@dataclass(frozen=True)
class OrderSampler:
    """Draws the k-th order of an image.

    Parameters
    ----------
    name : `uniform` (independent uniformly random orders, the paper's), `antithetic` (a random order
        and its reverse, scored together), `stratified` (N/m orders whose first m tokens, all that a
        pass then scores, are a random partition of the image; then a fresh partition), `raster` (left to
        right, top to bottom: one order only), `constant` (one random order, the same for every image)
    n_tokens : N
    seed : any integer
    prefix : m, the tokens a pass scores; `stratified` needs it, a divisor of N below N

    Raises ValueError for an unknown name or an m that does not divide.
    """

    name: str
    n_tokens: int
    seed: int = 0
    prefix: int | None = None

    def __post_init__(self) -> None:
        check_sampler(self.name)
        if self.name == "stratified":
            m = self.prefix or self.n_tokens
            if self.n_tokens % m or m == self.n_tokens:
                divisors = [d for d in range(1, self.n_tokens) if self.n_tokens % d == 0]
                raise ValueError(
                    f"stratified orders need a prefix that divides the image's {self.n_tokens} tokens: "
                    f"one of {', '.join(map(str, divisors))}"
                )

    @property
    def steps(self) -> int:
        """Tokens of an order that a pass scores."""
        return self.prefix or self.n_tokens

    @property
    def block(self) -> int:
        """Orders in one pull."""
        return block_of(self.name)

    @property
    def distinct(self) -> int | None:
        """How many different orders there are, None for as many as anyone asks for."""
        return distinct_orders(self.name)

    def at(self, seed: int, content: bytes, k: int) -> Draw:
        """Order k of the image with this content key, as a draw."""
        return Draw(k, (self._order(seed, content, k),))

    def order(self, content: bytes, k: int) -> np.ndarray:
        """Order k of the image with this content key: int64 [N], a permutation of 0 .. N−1."""
        return self._order(self.seed, content, k)

    def _order(self, seed: int, content: bytes, k: int) -> np.ndarray:
        if self.name == "raster":
            return np.arange(self.n_tokens)
        if self.name == "constant":
            return self._random(seed, b"constant", 0)
        if self.name == "antithetic":
            pi = self._random(seed, content, k // 2)
            return pi[::-1].copy() if k % 2 else pi
        if self.name == "stratified":
            assert self.prefix is not None
            block, stratum = divmod(k, self.n_tokens // self.prefix)
            pi, start = self._random(seed, content, block), self.prefix * stratum
            return np.concatenate((pi[start:], pi[:start]))
        return self._random(seed, content, k)

    def _random(self, seed: int, content: bytes, k: int) -> np.ndarray:
        return permutation(f"{seed}:{k}:".encode() + content, self.n_tokens).copy()
