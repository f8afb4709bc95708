"""How long a race will take, before it starts: arithmetic on a calibrated cost model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anytime_cls.plan.budget import Budget
from anytime_cls.race.rules import Rule

if TYPE_CHECKING:
    from anytime_cls.engine.engine import Engine

LONG = 1e12  # FLOPs of an image from which people want to know how long it takes: seconds on a CPU


@dataclass(frozen=True)
class Estimate:
    """What one image takes: between the earliest moment a race may be decided, and all that it may run.

    For rule `fixed` the two differ only by the caution of the cost model. Passes are whole ones; one over a
    prefix counts its share of FLOPs. `full`: all that it may run whatever the budget, which ends the race if
    that is more than `most`.
    """

    least: float  # seconds, as expected
    most: float  # seconds, rarely exceeded
    least_passes: float
    most_passes: float
    full: float
    full_passes: float

    @property
    def budget(self) -> bool:
        """Whether the budget ends the race before it has run everything."""
        return self.full > self.most


def estimate(
    engine: Engine,
    rule: Rule,
    n_classes: int,
    max_orders: int,
    block: int = 1,
    length: int | None = None,
    budget: Budget | None = None,
    tokenizing: float = 0.0,
    views: bool = False,
) -> Estimate:
    """Seconds and passes of one image's race over `n_classes` classes.

    Parameters
    ----------
    engine : calibrated; its `cost` predicts seconds, `rows` and `tile` say how passes are batched
    rule : its first look (or rung) is when a race may end
    max_orders : K_max in orders, `block` of them to a pull
    length : tokens of an order that a pass scores; None for all
    budget : what the image may spend; the race stops there
    tokenizing : seconds that one image's tokens take; counted once, or with `views` once an order

    Raises ValueError if the engine was not calibrated: an estimate of nothing would look like a fast machine.
    """
    cost, length = engine.cost, length or engine.n_tokens
    if cost.slope <= 0:
        raise ValueError("the engine's clock is not calibrated: call calibrate() or warm_up() first")
    rungs = [stage.source for stage in rule.first_stages if isinstance(stage.source, int)]
    first = min(rule.looks(n_classes, max_orders // block)[0] * block, max_orders)

    def batched(orders: int, tokens: int) -> float:
        """Rows and batches of all classes on so many orders, in expected seconds."""
        rows = orders * n_classes
        padded = rows + -rows % engine.tile(tokens)
        batches = math.ceil(padded / engine.rows(tokens))
        return cost.overhead * batches + cost.slope * cost.passes(padded, tokens, orders)

    screens = [stage.source for stage in rule.first_stages if isinstance(stage.source, str)]
    screening = sum(engine.scorer.screens[name].flops(n_classes) for name in screens) / cost.whole
    caution = cost.seconds(1, length) / cost.expected(1, length)
    at_rungs = sum(batched(1, tokens) for tokens in rungs)
    rung_passes = sum(cost.passes(n_classes, tokens) for tokens in rungs)
    per_order = cost.passes(n_classes, length)
    least_orders = 0 if rungs or screens else first  # a race may be decided by its screen, or its first rung
    least = batched(1, rungs[0]) if rungs else batched(first, length)
    least_passes = cost.passes(n_classes, rungs[0]) if rungs else first * per_order
    if screens:
        least, least_passes = cost.slope * screening, screening
    most = caution * (cost.slope * screening + at_rungs + batched(max_orders, length))
    most_passes = screening + rung_passes + max_orders * per_order
    least += tokenizing * (max(1, least_orders) if views else 1)
    most += tokenizing * (max_orders if views else 1)
    if budget is None:
        return Estimate(least, most, least_passes, most_passes, most, most_passes)

    match budget.unit:
        case "seconds":
            share = min(1.0, budget.amount / most)
            allowed, passes = budget.amount, share * most_passes
        case "passes":
            passes = budget.amount
            allowed = passes / most_passes * most
        case "flops":
            passes = budget.amount / cost.whole
            allowed = passes / most_passes * most
        case _:  # orders, as long as the race's
            passes = rung_passes + budget.amount * per_order
            allowed = passes / most_passes * most
    if allowed >= most:
        return Estimate(least, most, least_passes, most_passes, most, most_passes)
    return Estimate(
        min(least, allowed), allowed, min(least_passes, passes), passes, full=most, full_passes=most_passes
    )
