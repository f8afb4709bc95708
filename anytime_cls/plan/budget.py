"""What a caller allows: an amount of seconds, passes, orders or FLOPs an image.

A budget is an amount of one unit; `engine.spending` spends it.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real

FORMS = "0.5s, 800ms, 2m, 200passes, 8orders or 3TFLOP"
_UNITS = {
    "ms": ("seconds", 1e-3),
    "s": ("seconds", 1.0),
    "sec": ("seconds", 1.0),
    "m": ("seconds", 60.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "pass": ("passes", 1.0),
    "passes": ("passes", 1.0),
    "order": ("orders", 1.0),
    "orders": ("orders", 1.0),
    "mflop": ("flops", 1e6),
    "gflop": ("flops", 1e9),
    "tflop": ("flops", 1e12),
    "pflop": ("flops", 1e15),
}
_KINDS = {kind for kind, _ in _UNITS.values()}


@dataclass(frozen=True)
class Budget:
    """An amount of `seconds`, `passes`, `orders` or `flops` an image. Raises ValueError for any other."""

    amount: float  # how much, above 0
    unit: str  # "seconds", "passes", "orders" or "flops"

    def __post_init__(self) -> None:
        whole = self.unit not in ("passes", "orders") or self.amount % 1 == 0
        if self.unit not in _KINDS or not 0 < self.amount < math.inf or not whole:
            raise ValueError(f"no budget is {self.amount!r} {self.unit}: write it as {FORMS}")

    def __str__(self) -> str:
        if self.unit == "seconds":
            return f"{self.amount:g}s"
        return f"{self.amount / 1e12:g}TFLOP" if self.unit == "flops" else f"{self.amount:g}{self.unit}"


def parse_budget(given: str | float) -> Budget:
    """Read `0.5s`, `800ms`, `2m`, `200passes`, `8orders`, `3TFLOP`, in any case; a number is seconds.

    Raises ValueError with one line that shows the forms.
    """
    with suppress(ValueError, OverflowError):
        if isinstance(given, Real) and not isinstance(given, bool):
            return Budget(float(given), "seconds")
        number = (
            re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]+)\s*", given.lower(), re.ASCII)
            if isinstance(given, str)
            else None
        )
        if number:
            unit = number[2].removesuffix("s") if number[2].endswith("flops") else number[2]
            if unit in _UNITS:
                kind, factor = _UNITS[unit]
                return Budget(float(number[1]) * factor, kind)
    raise ValueError(f"cannot read the budget {given!r}: write it as {FORMS}")
