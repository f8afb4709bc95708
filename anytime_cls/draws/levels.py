"""Draws of methods that read no whole order: a time and its noise, a context of tokens, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytime_cls.draws.base import Draw
from anytime_cls.draws.keyed import normal, permutation, words

STRATA = 4  # times of a pull, one in every quarter: pulls are then much alike, single times are not
LEVELS = {"uniform": 1, "levels": STRATA, "antithetic": 2 * STRATA}  # sampler → draws a pull
CONTEXTS = ("uniform", "levels")


@dataclass(frozen=True)
class Once:
    """The only draw of a method that leaves nothing to chance."""

    name: str = "uniform"
    steps: int = 1
    block: int = 1
    distinct: int | None = 1

    def at(self, seed: int, content: bytes, k: int) -> Draw:
        """Nothing is drawn."""
        return Draw(k)


def van_der_corput(k: int) -> float:
    """k's binary digits, mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, ... Any first n are well spread."""
    found, part = 0.0, 0.5
    while k:
        found += part * (k & 1)
        k, part = k >> 1, part / 2
    return found


@dataclass(frozen=True)
class LevelSampler:
    """Draws the k-th (t, ε) of an image.

    Parameters
    ----------
    name : `uniform` (t and ε anew every draw), `levels` (a random offset an image, then van der Corput's
        sequence: any first n times are well spread, and every four draws, a pull, have one in each
        quarter), `antithetic` (the same times, each once with ε and once with −ε: pulls of eight)
    shape : of ε, [D, g, g]

    Raises ValueError for an unknown name.
    """

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.name not in LEVELS:
            raise ValueError(f"unknown sampler {self.name!r} of times: choose from {', '.join(LEVELS)}")

    @property
    def steps(self) -> int:
        return 1

    @property
    def block(self) -> int:
        """Draws in one pull."""
        return LEVELS[self.name]

    @property
    def distinct(self) -> int | None:
        return None

    def at(self, seed: int, content: bytes, k: int) -> Draw:
        """`what`: t float64 [], ε float32 `shape`; the covariate is t, in [0, 1)."""
        pair, mirrored = divmod(k, 2) if self.name == "antithetic" else (k, 0)
        t = _time(self.name, seed, content, pair)
        noise = normal(f"noise:{seed}:{pair}:".encode() + content, self.shape)
        return Draw(k, (np.array(t), -noise if mirrored else noise), covariate=t)


@dataclass(frozen=True)
class ContextSampler:
    """Draws the k-th (order, number of its tokens revealed) of an image.

    Parameters
    ----------
    name : `uniform` (both anew every draw) or `levels` (how many are revealed is spread as the times of
        :class:`LevelSampler` are)
    n_tokens : N

    Raises ValueError for an unknown name.
    """

    name: str
    n_tokens: int

    def __post_init__(self) -> None:
        if self.name not in CONTEXTS:
            raise ValueError(f"unknown sampler {self.name!r} of contexts: choose from {', '.join(CONTEXTS)}")

    @property
    def steps(self) -> int:
        return 1

    @property
    def block(self) -> int:
        """Draws in one pull."""
        return LEVELS[self.name]

    @property
    def distinct(self) -> int | None:
        return None

    def at(self, seed: int, content: bytes, k: int) -> Draw:
        """`what`: an order int64 [N], and how many of its first tokens are revealed, int64 [], from 0 to
        N − 1; the covariate is that number."""
        revealed = int(self.n_tokens * _time(self.name, seed, content, k))
        order = permutation(f"context:{seed}:{k}:".encode() + content, self.n_tokens).copy()
        return Draw(k, (order, np.array(revealed)), covariate=float(revealed))


def _time(name: str, seed: int, content: bytes, k: int) -> float:
    """In [0, 1): each is uniform; those of an image are independent, or well spread."""
    if name == "uniform":
        return _uniform(f"time:{seed}:{k}:".encode() + content)
    return (_uniform(f"time:{seed}:".encode() + content) + van_der_corput(k)) % 1.0


def _uniform(key: bytes) -> float:
    """In [0, 1), 53 bits."""
    return float(int(words(key, 1)[0]) >> 11) * 2.0**-53
