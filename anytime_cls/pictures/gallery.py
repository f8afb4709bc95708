"""The easiest and the hardest images of a run, with their races, for the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anytime_cls.curves.progress import plan_of, replayed
from anytime_cls.curves.study import StudyRun
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import ImageError, decode
from anytime_cls.plan.plan import RacePlan
from anytime_cls.traces.read import Trace

Array = np.ndarray
THUMBNAIL = 96  # pixels a side, where the picture is larger


@dataclass(frozen=True, eq=False)
class RaceShown:
    """An image and its race. scores: [K used, C], nats, NaN where a class was out. picture: data URI."""

    id: str
    label: str  # "" where unknown
    answer: int
    truth: int
    orders: int
    passes: float
    probability: float
    scores: Array
    picture: str


def choose(run: StudyRun, n: int) -> tuple[list[int], list[int]]:
    """The n easiest images (fewest passes, then most probable answer) and the n hardest: study rows."""
    unsure = 1 - np.nan_to_num(run.probability, nan=0.5)
    order = np.lexsort((unsure, run.passes))
    return order[:n].tolist(), order[::-1][: min(n, max(0, len(order) - n))].tolist()


def shown(trace: Trace, run: StudyRun, rows: list[int], ids: list[str], truth: Array) -> list[RaceShown]:
    """The races of some of the study's images. run: live in this trace, or a replay of it (a full one)."""
    place = {str(key): at for at, key in enumerate(trace.images["id"])}
    out, plan = [], plan_of(trace, run)
    for row in rows:
        at = place[ids[row]]
        scores = race_scores(trace, at, plan)
        label = int(truth[row])
        out.append(RaceShown(
            ids[row], trace.labels[label] if label >= 0 else "", int(run.prediction[row]), label,
            int(run.orders[row]), float(run.passes[row]), float(run.probability[row]), scores,
            thumbnail(trace, at),
        ))  # fmt: skip
    return out


def race_scores(trace: Trace, at: int, plan: RacePlan | None) -> Array:
    """What one race scored, order by order: [K used, C]. plan: of a replay; None: the trace's own."""
    if plan is None:
        return trace.matrix(at)[: int(trace.images["orders"][at])]
    _, scored = next(replayed(trace, plan, np.array([at])))
    scores = scored.orders[0]
    found: Array = scores[~np.isnan(scores).all(axis=1)]
    return found


def thumbnail(trace: Trace, at: int) -> str:
    """The image as a data URI, if its file is still where the trace says; else "". Small ones as they are."""
    root = str(trace.attrs.get("root", ""))
    places = [str(trace.images["path"][at])]
    if root:
        places.append(str(Path(root) / str(trace.images["id"][at])))
    for place in places:
        try:
            if not Path(place).is_file():
                continue
            image = decode(place)
        except (ImageError, OSError, ValueError):
            continue
        memory = io.BytesIO()
        if max(image.size) <= 64:
            image.save(memory, "PNG")
            kind = "png"
        else:
            center_crop(image, THUMBNAIL).save(memory, "JPEG", quality=85)
            kind = "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(memory.getvalue()).decode()}"
    return ""


def race_svg(race: RaceShown, labels: list[str]) -> str:
    """The race as a small inline SVG: each class's mean log-likelihood less the answer's, against orders.

    A class's line ends, with a dot, where it left. Named are the answer, the truth, and the last to leave.
    """
    from html import escape

    gaps = running_gaps(race.scores, race.answer)
    n = len(gaps)
    if not n:
        return ""
    left = (~np.isnan(gaps)).sum(axis=0)  # orders each class was in
    ends = gaps[np.maximum(left - 1, 0), np.arange(gaps.shape[1])]
    raced = np.flatnonzero(left).tolist()  # others left at a rung, before the first order
    rank = sorted(raced, key=lambda c: (-left[c], -ends[c]))
    rank = [race.answer, *[c for c in rank if c != race.answer]]
    drawn = rank[:24]  # of a thousand classes the rest would be a grey block
    if race.truth in raced and race.truth not in drawn:
        drawn.append(race.truth)
    named = list(dict.fromkeys([race.answer, *([race.truth] if race.truth in raced else []), *rank[:4]]))[:4]
    low = min(-1.0, 1.12 * float(min(np.nanmin(gaps[:, c]) for c in rank[:4])))
    high = max(0.12 * -low, 1.15 * float(np.nanmax(gaps)))
    x0, x1, y0, y1 = 34.0, 176.0, 8.0, 104.0

    def x(k: float) -> float:
        return x0 + (x1 - x0) * k / n

    def y(gap: float) -> float:
        return y0 + (y1 - y0) * (high - max(gap, low)) / (high - low)

    parts = [f'<line class="axis" x1="{x0}" y1="{y(0):.1f}" x2="{x1}" y2="{y(0):.1f}"/>']
    for c in reversed(drawn):
        kind = "answer" if c == race.answer else "truth" if c == race.truth else "rival"
        points = [(x0, y(0)), *((x(k + 1), y(float(gaps[k, c]))) for k in range(int(left[c])))]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        if 0 < left[c] < n or (n == 1 and c != race.answer):
            parts.append(f'<circle class="{kind}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2"/>')
    spots = sorted((y(float(ends[c])), c) for c in named if left[c])
    at = -np.inf
    heights = []
    for spot, _ in spots:  # names no closer than a line
        at = max(spot, at + 10)
        heights.append(at)
    over = max(0.0, (heights[-1] if heights else 0) - (y1 + 4))
    for (_, c), height in zip(spots, heights, strict=True):
        kind = "answer" if c == race.answer else "truth" if c == race.truth else "rival"
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
        f"{labels[race.answer]} leads after {n} orders; "
        + ", ".join(f"{labels[c]} left after {left[c]}" for c in rank[1:4] if left[c] < n)
    ).rstrip("; ")
    return (
        f'<svg class="race" viewBox="0 0 270 132" role="img" aria-label="{escape(_clean(alt))}">'
        + "".join(parts) + "</svg>"
    )  # fmt: skip


def running_gaps(scores: Array, answer: int) -> Array:
    """Mean over orders so far of class − answer: [K, C] nats, NaN after a class left."""
    counts = np.arange(1, len(scores) + 1)[:, None]
    return np.cumsum(scores - scores[:, [answer]], axis=0) / counts


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
