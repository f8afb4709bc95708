"""A draw: what all classes of an image share in one evaluation, as a function of (seed, content, k) alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Draw:
    """An order, a (t, ε), or nothing."""

    k: int
    what: tuple[np.ndarray, ...] = ()  # only the scorer looks inside
    covariate: float = float("nan")  # recorded: t of a diffusion draw, the context of a masked one
    cost: float = 1.0  # in average draws, where draws differ


class Draws(Protocol):
    """A sampler of draws. NumPy only: a plan is made before anything is loaded."""

    @property
    def name(self) -> str: ...  # as typed (`--orders`) and recorded
    @property
    def steps(self) -> int: ...  # parts whose running sums may be asked for: tokens of a pass; else 1
    @property
    def block(self) -> int: ...  # draws a pull: those that depend on each other (antithetic, strata)
    @property
    def distinct(self) -> int | None: ...  # how many different ones there are; None: as many as asked for
    def at(self, seed: int, content: bytes, k: int) -> Draw:
        """Draw k of the image with this content key: a function of these three alone."""
