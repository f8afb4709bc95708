"""One race with nothing left open: what was asked for and what the model's card says, settled once.

Made once (`plan.make`), never changed; commands, the API, the engine, resume, replay and certify read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from anytime_cls.draws.base import Draws
from anytime_cls.draws.views import ViewSampler
from anytime_cls.plan.budget import Budget
from anytime_cls.race.bounds import Bound
from anytime_cls.race.fitted import Design
from anytime_cls.race.rules import Rule
from anytime_cls.scorers.base import Shape

Why = Literal["typed", "preset", "recommended", "model", "default"]


@dataclass(frozen=True)
class RacePlan:
    """How every image of a run is raced. `design.steps` is always a number: nothing here means "whole"."""

    # whose scores
    model: str  # its name
    method: str  # one of `scorers.registry.names()`
    weights_sha256: str
    encoder_sha256: str
    tokens: int  # of an image
    class_ids: tuple[int, ...]  # the model's, in the race's order
    labels: tuple[str, ...]  # of these
    # of what
    noise: float
    seed: int
    design: Design
    block: int  # orders a pull
    record: tuple[int, ...]  # further steps whose running scores are kept, ascending
    screens: tuple[str, ...]  # that estimate every class before the first pull, and are kept
    fallback: str  # a screen for images whose budget allows no order of all classes; "": none
    # who leaves, when it ends, how sure it is
    rule: Rule  # with its priors, thresholds, rungs
    delta: float  # as asked for; a calibrated rule's own risk may be smaller
    reporting: (
        Bound  # what separations are by: the rule's own bound on pairs where it has one, else `paired`'s
    )
    aggregate: str
    temperature: float
    fitted: bool  # whether a temperature was fitted to such races
    budget: Budget | None
    # not compared
    shape: Shape = field(compare=False, repr=False)
    why: Mapping[str, Why] = field(default_factory=dict, compare=False, repr=False)

    @property
    def pulls(self) -> int:
        """Pulls after which a race ends."""
        return self.design.k_max // self.block

    @property
    def whole(self) -> bool:
        """Whether a pass scores all of an image."""
        return self.design.steps >= self.tokens

    @property
    def full_passes(self) -> float:
        """All classes on K_max whole draws, in whole passes: classes · K_max, or less where classes share
        compute. A joint model's only draw is one pass."""
        design, one, two = self.design, *(self.shape.flops(self.tokens, n) for n in (1, 2))
        shared = 2 * one - two
        alike = 0 if not shared else (shared + (two - one) * design.n_classes) / one
        return float(design.k_max * (alike or design.n_classes))

    @property
    def draws(self) -> Draws:
        """What an image's classes share, draw by draw."""
        return self.shape.draws(self.design.draws, self.design.steps)

    @property
    def views(self) -> ViewSampler:
        """What the model sees of an image on each order."""
        return ViewSampler(self.design.crops, self.noise, self.seed)


@dataclass(frozen=True)
class Runtime:
    """Where a run computes, which changes no decision: not a part of the plan.

    device, dtype : as typed. batch_size : most passes in a batch, None for the device's. threads : of the
    CPU, at most, None for torch's choice. fixed : as many of them, whatever is faster.
    """

    device: str = "auto"
    dtype: str = "float32"
    batch_size: int | None = None
    threads: int | None = None
    fixed: bool = False
