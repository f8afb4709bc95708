"""What a race answered."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Standing:
    """One class in a decision."""

    label: str  # its name
    index: int  # the model's class id
    probability: float  # soft-max of mean log-likelihoods at the model's temperature
    mean: float  # order-averaged log-likelihood, nats (Races.means)
    lower: float | None  # confidence bounds of the mean (Race.intervals); None without a bound
    upper: float | None  # as `lower`
    orders: int  # orders it was scored on
    alive: bool  # still in the race at the end

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, repr=False)
class Decision:
    """What a race answered, how sure it is, and what it spent."""

    label: str  # the answer
    index: int  # its id among the model's classes
    probability: float  # soft-max of mean log-likelihoods at the model's temperature
    separation: float  # the smallest δ at which the leader is separated from every rival
    stop: str  # "decided", "max-orders" or "budget"
    orders: int  # orders used (K)
    passes: float  # forward passes run, in whole passes: one over a prefix counts its share of FLOPs
    full_passes: float  # what all K_max orders of all classes cost, in whole passes
    prefix: int | None  # tokens scored, when there was no pull: decided at a rung, or the budget spent
    pass_tokens: int  # tokens of an order that a pass scores: an image's, or a prefix
    seconds: float  # decoded image to answer; of batches shared with other images, its share by rows
    ranking: tuple[Standing, ...]  # every class raced, best first
    evidence: float = 0.0  # nats of the leader's mean above that of all classes raced; 0: not worked out
    shortlist: int | None = None  # classes it went on with, uncalibrated, as the budget allowed no more
    unused: tuple[float, str] | None = None  # of a budget in seconds: what is left, and why
    records: tuple[Record, ...] = field(repr=False, default=())  # every log-likelihood, as it was scored
    classes: tuple[int, ...] = field(repr=False, default=())  # ids of the classes raced: columns
    content: str = field(repr=False, default="")  # SHA-256 of the crop that was scored, hexadecimal
    flops: float = field(repr=False, default=0.0)  # multiply-adds × 2 that the race took

    def __repr__(self) -> str:
        spent = (
            f"{self.orders} order{'s' * (self.orders != 1)}, {self.passes:.3g} passes, {self.seconds:.3g} s"
        )
        return f"Decision({self.label!r}, {100 * self.probability:.1f} %, {self.stop}, {spent})"

    def _repr_html_(self) -> str:
        """The race, drawn: what a notebook shows."""
        from anytime_cls.race.drawn import decision_html

        return decision_html(self)

    def scores(self) -> np.ndarray:
        """Log-likelihoods of the orders used: float64 [K, C], nats; NaN where a class was out.

        Columns are `classes`; without records [0, C].
        """
        matrix = np.full((self.orders, len(self.classes)), np.nan)
        for record in self.records:
            if record.prefix == self.pass_tokens and record.order < self.orders:
                matrix[record.order, record.classes] = record.values
        return matrix

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Plain data for JSON; `top` keeps that many of the ranking."""
        skip = ("records", "classes", "ranking", "content", "flops", "unused")
        row = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in skip}
        if self.shortlist is None:
            del row["shortlist"]
        if self.unused is not None:
            row["unused"] = dict(zip(("seconds", "why"), self.unused, strict=True))
        return row | {"ranking": [standing.to_dict() for standing in self.ranking[:top]]}


@dataclass(frozen=True)
class Failure:
    """An image that could not be read; one line saying why."""

    error: str  # the cause, and what to do


#: Why a race stopped; `CurveRun.stop` indexes this. `error`: the image could not be read.
STOP_NAMES = ("decided", "max-orders", "budget", "error")
SCREENED = 0  # `Record.prefix` of a screen's estimate
UNRANKED = 65535  #: `CurveRun.rank` where the label is unknown


@dataclass(frozen=True)
class Record:
    """Log-likelihoods as they were scored: one order, the classes asked for (positions in the race)."""

    order: int
    classes: np.ndarray
    prefix: int  # tokens: all of them for a whole order; SCREENED for a screen, whose number `order` is
    round: int  # which request of its race this answers, from 0: a stage between two looks
    values: np.ndarray  # float64 [n], nats, each a float32's value
    covariate: float = math.nan  # of the draw, where it has one
