"""Rows of numbers as a page shows them: an interval beside its number, few columns, digits that are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 200  # of a table on a page; its CSV file has all
#: Columns of the picture of accuracy against compute that a page shows, of the forty that its CSV has.
_POINTS = ("curve", "knob", "value", "k_mean", "x_mean", "y_mean", "saving", "default")


@dataclass(frozen=True)
class Shown:
    """rows: {focus, cells}, a cell a head. words: how many columns, from the left, are text."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    words: int
    left_out: str = ""


def shown_table(kind: str, rows: Sequence[Mapping[str, Any]], caption: str) -> Shown:
    """The numbers of a picture of this kind."""
    if not rows:
        return Shown(caption, [], [], 0)
    keys = [key for key in rows[0] if not _is_end(key, rows[0])]
    if kind in ("pareto", "every"):
        keys = [key for key in _POINTS if key in rows[0]]
    heads = [_head(key, rows[0]) for key in keys]
    words = 0
    while words < len(keys) and isinstance(rows[0][keys[words]], str):
        words += 1
    cells = [
        {"focus": False, "cells": [_number(row, key) for key in keys]} for row in rows[:MOST_ROWS]
    ]  # fmt: skip
    left = f"The first {MOST_ROWS} of {len(rows):,} rows: the CSV file beside this page has all."
    return Shown(caption, heads, cells, max(1, words), left if len(rows) > MOST_ROWS else "")


def share(row: Mapping[str, Any], name: str) -> str:
    """A proportion in percent with its interval, "–" if it is not known."""
    if math.isnan(row[name]):
        return "–"
    return f"{100 * row[name]:.1f} [{100 * row[name + '_low']:.1f}, {100 * row[name + '_high']:.1f}]"


def _ends(key: str, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The columns that hold a number's interval."""
    stem = key.removesuffix("_mean")
    if f"{stem}_low" in row and f"{stem}_high" in row:
        return f"{stem}_low", f"{stem}_high"
    keys = list(row)
    at = keys.index(key)
    return ("low", "high") if keys[at + 1 : at + 3] == ["low", "high"] else None


def _is_end(key: str, row: Mapping[str, Any]) -> bool:
    return any(key in (_ends(other, row) or ()) for other in row)


def _head(key: str, row: Mapping[str, Any]) -> str:
    if key in ("x_mean", "y_mean"):
        return str(row[key[0]])
    return {"k_mean": "orders", "value": "at", "default": "marked"}.get(key, key.replace("_", " "))


def _number(row: Mapping[str, Any], key: str) -> str:
    value, ends = row.get(key, ""), _ends(key, row) if key in row else None
    if ends is None or not isinstance(value, float) or any(_plain(row[end]) in ("", "–") for end in ends):
        return _plain(value)
    if row[ends[0]] == value == row[ends[1]]:
        return _plain(value)
    return f"{_plain(value)} [{', '.join(_plain(row[end]) for end in ends)}]"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int | float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)
