"""Shares, and intervals around them, in the one form that people read: `85.2 % [83.5, 86.6]`."""

from __future__ import annotations


def percent(p: float, digits: int = 1) -> str:
    """A share of one: `85.2 %`. Never 100 % unless it is all, nor 0 % unless it is none."""
    least = 0.5 * 10 ** -(digits + 2)  # what would be rounded to nothing
    unit = 10**-digits
    if 1 - least <= p < 1:
        return f">{100 - unit:.{digits}f} %"
    return f"<{unit:.{digits}f} %" if 0 < p < least else f"{100 * p:.{digits}f} %"


def percent_interval(value: float, low: float, high: float, digits: int = 1) -> str:
    """A share with the ends of its interval: `85.2 % [83.5, 86.6]`."""
    return f"{percent(value, digits)} [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
