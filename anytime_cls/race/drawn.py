"""A race as a small picture: SVG, made of text alone, for the report and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anytime_cls.race.decision import Decision

Array = np.ndarray
_STYLE = (  # of a notebook's cell, whose background may be dark
    ".race{max-width:32em;font:8px system-ui,sans-serif}.race text{fill:currentColor}"
    ".race text.answer{fill:#0072b2;font-weight:600}.race polyline{fill:none;stroke:#8a8f96;stroke-width:.8}"
    ".race circle{fill:#8a8f96}.race polyline.answer{stroke:#0072b2;stroke-width:1.8}"
    ".race circle.answer{fill:#0072b2}.race .axis{stroke:#8a8f96;stroke-width:.5}"
)


def decision_html(decision: Decision) -> str:
    """A decision in a line, and its race below; without the race where it kept no scores."""
    words = escape(_clean(repr(decision)))
    names = {standing.index: standing.label for standing in decision.ranking}
    if not decision.orders or not decision.records or not names:
        return f"<code>{words}</code>"
    labels = [names.get(index, str(index)) for index in decision.classes]
    answer = decision.classes.index(decision.index)
    return f"<code>{words}</code>{race_svg(decision.scores(), answer, labels, style=_STYLE)}"


def race_svg(scores: Array, answer: int, labels: Sequence[str], truth: int = -1, style: str = "") -> str:
    """The race as a small inline SVG: each class's mean log-likelihood less the answer's, against orders.

    A class's line ends, with a dot, where it left. Named are the answer, the truth, and the last to leave.

    scores : [K, C] nats, NaN where a class was out. answer, truth : columns; -1 for an unknown truth. style :
    CSS, where no page has it.
    """
    gaps = running_gaps(scores, answer)
    n = len(gaps)
    if not n:
        return ""
    left = (~np.isnan(gaps)).sum(axis=0)  # orders each class was in
    ends = gaps[np.maximum(left - 1, 0), np.arange(gaps.shape[1])]
    raced = np.flatnonzero(left).tolist()  # others left at a rung, before the first order
    rank = sorted(raced, key=lambda c: (-left[c], -ends[c]))
    rank = [answer, *[c for c in rank if c != answer]]
    drawn = rank[:24]  # of a thousand classes the rest would be a grey block
    if truth in raced and truth not in drawn:
        drawn.append(truth)
    named = list(dict.fromkeys([answer, *([truth] if truth in raced else []), *rank[:4]]))[:4]
    low = min(-1.0, 1.12 * float(min(np.nanmin(gaps[:, c]) for c in rank[:4])))
    high = max(0.12 * -low, 1.15 * float(np.nanmax(gaps)))
    x0, x1, y0, y1 = 34.0, 176.0, 8.0, 104.0

    def x(k: float) -> float:
        return x0 + (x1 - x0) * k / n

    def y(gap: float) -> float:
        return y0 + (y1 - y0) * (high - max(gap, low)) / (high - low)

    parts = [f'<line class="axis" x1="{x0}" y1="{y(0):.1f}" x2="{x1}" y2="{y(0):.1f}"/>']
    for c in reversed(drawn):
        kind = "answer" if c == answer else "truth" if c == truth else "rival"
        points = [(x0, y(0)), *((x(k + 1), y(float(gaps[k, c]))) for k in range(int(left[c])))]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        if 0 < left[c] < n or (n == 1 and c != answer):
            parts.append(f'<circle class="{kind}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2"/>')
    spots = sorted((y(float(ends[c])), c) for c in named if left[c])
    at = -np.inf
    heights = []
    for spot, _ in spots:  # names no closer than a line
        at = max(spot, at + 10)
        heights.append(at)
    over = max(0.0, (heights[-1] if heights else 0) - (y1 + 4))
    for (_, c), height in zip(spots, heights, strict=True):
        kind = "answer" if c == answer else "truth" if c == truth else "rival"
        name = labels[c] if len(labels[c]) <= 15 else labels[c][:14] + "…"
        parts.append(
            f'<text class="{kind}" x="{x1 + 6}" y="{height - over + 3:.1f}">{escape(_clean(name))}</text>'
        )
    ticks = [0, n] if n < 8 else [0, n // 2, n]
    parts += [f'<text class="tick" x="{x(k):.1f}" y="118" text-anchor="middle">{k}</text>' for k in ticks]
    parts.append(f'<text class="tick" x="{(x0 + x1) / 2}" y="129" text-anchor="middle">orders</text>')
    parts.append(f'<text class="tick" x="{x0 - 4}" y="{y(0) + 3:.1f}" text-anchor="end">0</text>')
    parts.append(f'<text class="tick" x="{x0 - 4}" y="{y1 + 3}" text-anchor="end">{low:.0f}</text>')
    parts.append(
        f'<text class="tick" x="{x0 - 4}" y="{(y(0) + y1) / 2 + 3:.1f}" text-anchor="end">nats</text>'
    )
    alt = (
        f"{labels[answer]} leads after {n} orders; "
        + ", ".join(f"{labels[c]} left after {left[c]}" for c in rank[1:4] if left[c] < n)
    ).rstrip("; ")
    return (
        f'<svg class="race" viewBox="0 0 270 132" role="img" aria-label="{escape(_clean(alt))}">'
        + (f"<style>{style}</style>" if style else "") + "".join(parts) + "</svg>"
    )  # fmt: skip


def running_gaps(scores: Array, answer: int) -> Array:
    """Mean over orders so far of class − answer: [K, C] nats, NaN after a class left."""
    counts = np.arange(1, len(scores) + 1)[:, None]
    return np.cumsum(scores - scores[:, [answer]], axis=0) / counts


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
