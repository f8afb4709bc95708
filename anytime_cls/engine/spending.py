"""Spend a budget without overrunning it.

`Spending` answers one question before every batch: does this much more still fit? Seconds are predicted by a
:class:`~anytime_cls.engine.cost.CostModel`; the rest is arithmetic.
"""

from __future__ import annotations

import math
import time

from anytime_cls.engine.cost import CostModel
from anytime_cls.plan.budget import Budget

# kept back for stalls that nothing foretold: of a budget in seconds, seconds at most
SPARE, STALL = 0.05, 0.025
LAST = 3  # times a step's price: with less left it may be the last
LOOKUP = 0.01  # whole passes: what takes less is a look-up, beside which a pass is dear


class Spending:
    """One image's budget as it is spent.

    Parameters
    ----------
    budget : None for no limit
    cost : predicts a batch's seconds
    n_tokens : N
    started : `time.perf_counter()` when the image's clock began
    length : tokens of the orders that are raced, None for all; calls for fewer (rungs) take no order
    """

    def __init__(
        self,
        budget: Budget | None,
        cost: CostModel,
        n_tokens: int,
        started: float,
        length: int | None = None,
    ):
        self.budget, self.cost, self.n_tokens, self.started = budget, cost, n_tokens, started
        self.length = length or n_tokens
        self.passes = 0.0  # in whole passes: a prefix counts its share of FLOPs
        self.flops = 0.0
        self.orders = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def price(self, rows: int, prefix: int, orders: float = 1.0) -> float:
        """What `rows` passes over `prefix` tokens cost, in the budget's unit."""
        assert self.budget is not None
        match self.budget.unit:
            case "seconds":
                return self.cost.seconds(rows, prefix)
            case "passes":
                return self.cost.passes(rows, prefix, orders)
            case "flops":
                return self.cost.flops(prefix, rows)
        return self._counted(orders, prefix)

    def _counted(self, orders: float, prefix: int) -> float:
        """Orders, as a decision counts them: of the race's own length, whatever that is."""
        return orders if prefix >= self.length else 0.0

    @property
    def left(self) -> float:
        """What is left, in the budget's unit; ∞ without one."""
        if self.budget is None:
            return math.inf
        spent = {"seconds": self.seconds, "passes": self.passes, "flops": self.flops, "orders": self.orders}
        return self.budget.amount - spent[self.budget.unit]

    def fits(self, rows: int, prefix: int, orders: float = 1.0, seconds: float = 0.0) -> bool:
        """Whether this much more is expected to stay within the budget; `seconds` come before the passes."""
        if self.budget is None:
            return True
        left = self.left * (1 + 1e-9)
        if self.budget.unit != "seconds":
            return self.price(rows, prefix, orders) <= left
        before, price = seconds + self.cost.rest, self.cost.seconds(rows, prefix)
        if (
            before + LAST * price > left
        ):  # it may be the last step, which even if it is late has to end in time
            price = self.cost.latest(rows, prefix) + min(SPARE * self.budget.amount, STALL)
        return before + price <= left

    def charge(self, rows: int, prefix: int, orders: float) -> None:
        """Count what was spent."""
        self.passes += self.cost.passes(rows, prefix, orders)
        shared, each = self.cost.affine(prefix)
        self.flops += rows * each + orders * shared
        self.orders += self._counted(orders, prefix)

    def affords(self, flops: float) -> bool:
        """Whether a screen of so many FLOPs fits, priced as passes of as many."""
        if self.budget is None or self.budget.unit == "orders":
            return True
        price = {"flops": flops, "passes": flops / self.cost.whole}
        if self.budget.unit == "seconds":
            passes = math.ceil(price["passes"] - LOOKUP)  # a look-up is no batch
            price["seconds"] = self.cost.seconds(passes, self.n_tokens) if passes else 0.0
        return price[self.budget.unit] <= self.left * (1 + 1e-9)

    def charge_flops(self, flops: float) -> None:
        """Count what a screen spent."""
        self.passes += flops / self.cost.whole
        self.flops += flops

    def most_rows(self, prefix: int, seconds: float = 0.0) -> int:
        """The most passes over `prefix` tokens that fit, of one order; `seconds` come before them."""
        low, high = 0, 1 << 20  # the price grows with them: bisect
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle, prefix, seconds=seconds) else (low, middle - 1)
        return low

    def longest_prefix(self, rows: int, seconds: float = 0.0) -> int:
        """The most tokens of one order that `rows` passes can afford, at least 1; `seconds` are kept back."""
        low, high = 1, self.n_tokens  # the price grows with the prefix: bisect
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(rows, middle, seconds=seconds) else (low, middle - 1)
        return low
