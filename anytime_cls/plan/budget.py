"""What a caller allows: an amount of seconds, passes, orders or FLOPs an image.

A budget is an amount of one unit; `engine.spending` spends it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Budget:
    """An amount of `seconds`, `passes`, `orders` or `flops` an image."""

    amount: float
    unit: str

    def __str__(self) -> str:
        if self.unit == "seconds":
            return f"{self.amount:g}s"
        return f"{self.amount / 1e12:g}TFLOP" if self.unit == "flops" else f"{self.amount:g}{self.unit}"


def parse_budget(text: str) -> Budget:
    """Read `0.5s`, `800ms`, `2m`, `200passes`, `8orders`, `3TFLOP` (case does not matter).

    Raises ValueError with one line that shows the forms.
    """
    number = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]+)\s*", text.lower())
    if number:
        unit = number[2]
        unit = unit[:-1] if unit.endswith("flops") else unit
        if unit in _UNITS:
            kind, factor = _UNITS[unit]
            amount = float(number[1]) * factor
            whole = kind not in ("passes", "orders") or amount == int(amount)
            if amount > 0 and math.isfinite(amount) and whole:
                return Budget(amount, kind)
    raise ValueError(f"cannot read the budget {text!r}: write it as {FORMS}")
