"""Names written at curves: where they cover nothing, and nearer to their own curve than to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

Array = np.ndarray
_STEP = 2.0  # pixels between the points that stand for a line
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True, eq=False)
class Named:
    """A name, and the line that it belongs to: x, y [P] in data units, a point or more."""

    text: str
    colour: str
    x: Array
    y: Array


def write_names(
    figure: Figure, ax: Axes, names: Sequence[Named], taken: Sequence[Bbox] = (), size: float = 6.5,
    others: Sequence[tuple[Array, Array]] = (),
) -> None:  # fmt: skip
    """Writes every name beside its line, inside the axes.

    taken : boxes in pixels where nothing may be written. others : faint lines without a name, (x, y) in data
    units, which a name may cross if it must.
    Limits and scales must be final.
    """
    figure.draw_without_rendering()  # text has an extent from here on
    lines = [_pixels(ax, name.x, name.y) for name in names]
    foreign = [_pixels(ax, x, y) for x, y in others]
    boxes, frame, unit = list(taken), ax.get_window_extent(), figure.dpi / 72
    for number, name in enumerate(names):
        label = ax.text(0, 0, name.text, color=name.colour, fontsize=size, zorder=9, ha="center", va="center")
        label.set_bbox({"facecolor": "#ffffff", "alpha": 0.7, "edgecolor": "none", "pad": 0.4})
        extent = label.get_window_extent()
        rest = [line for other, line in enumerate(lines) if other != number]
        place = _place(lines[number], rest, foreign, boxes, frame, (extent.width, extent.height), unit)
        label.set_position(tuple(ax.transData.inverted().transform(place).tolist()))
        boxes.append(_box(place, extent.width + 2 * unit, extent.height + unit))


def _pixels(ax: Axes, x: Array, y: Array) -> Array:
    """A line as points a few pixels apart, those inside the axes: [N, 2]."""
    ends = ax.transData.transform(np.stack([x, y], axis=1))
    parts = [ends[:1]]
    for a, b in pairwise(ends):
        steps = int(min(np.hypot(*(b - a)) // _STEP, 4000)) + 1
        parts.append(a + (b - a) * np.linspace(0, 1, steps + 1)[1:, None])
    points = np.concatenate(parts)
    frame = ax.get_window_extent()
    inside = _inside(Bbox.from_extents(frame.x0 - 1, frame.y0 - 1, frame.x1 + 1, frame.y1 + 1), points)
    found: Array = points[inside] if inside.any() else np.clip(ends[-1:], frame.min, frame.max)
    return found


def _place(
    own: Array, rest: Sequence[Array], faint: Sequence[Array], boxes: Sequence[Bbox], frame: Bbox,
    size: tuple[float, float], unit: float,
) -> Array:  # fmt: skip
    """The centre [2] of the best of many places along a line; unit: pixels a point (1/72 inch)."""
    width, height = size
    everything = np.concatenate([own, *rest])
    background = np.concatenate([np.empty((0, 2)), *faint])
    starts = own[np.unique(np.linspace(0, len(own) - 1, 41).astype(int))]
    best, least = starts[-1], np.inf
    for distance in (4.5, 8.0, 13.0):
        for side in _SIDES:
            offset = np.array(side) * (width / 2 + distance * unit * 0.7, height / 2 + distance * unit * 0.7)
            for turn, start in enumerate(starts):
                centre = start + offset
                box = _box(centre, width + 2 * unit, height + 2 * unit)
                outside = max(frame.x0 - box.x0, box.x1 - frame.x1, frame.y0 - box.y0, box.y1 - frame.y1, 0.0)
                cost = 50 * outside + distance + 2.0 * (1 - turn / len(starts))
                cost += 4.0 * float(_inside(box, everything).sum())
                cost += 0.5 * float(_inside(box, background).sum())
                cost += sum(60.0 + 0.02 * area for b in boxes if (area := _overlap(box, b)) > 0)
                if cost < least:
                    gap = _gap(box, own)
                    near = min((_gap(box, line) for line in rest), default=np.inf)
                    cost += 8.0 * max(0.0, (gap + 3 * unit - near) / unit)  # whose name it is must be plain
                if cost < least:
                    best, least = centre, cost
    found: Array = best
    return found


def _box(centre: Array, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(centre[0] - width / 2, centre[1] - height / 2, width, height)


def _inside(box: Bbox, points: Array) -> Array:
    found: Array = np.asarray(((points >= box.min) & (points <= box.max)).all(axis=1))
    return found


def _overlap(a: Bbox, b: Bbox) -> float:
    """Pixels² that two boxes share."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else both.width * both.height


def _gap(box: Bbox, points: Array) -> float:
    """Pixels from a box to the nearest of some points."""
    away = np.maximum(np.maximum(box.min - points, points - box.max), 0)
    return float(np.hypot(away[:, 0], away[:, 1]).min())
