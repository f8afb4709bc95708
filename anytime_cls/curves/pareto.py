"""Accuracy against compute: paired bootstrap, bands, the Pareto front, the saving at equal accuracy.

Pure NumPy, on plain arrays: a column is one run (a rule at one setting), a row one image. Every interval is
a percentile bootstrap over images (Efron & Tibshirani 1993) with the same resamples for every column, so that
what makes an image set easy or hard cancels in differences and ratios between rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytime_cls.stats.bootstrap import Means, percentile_interval

Array = np.ndarray
_SAME = 1e-9  # accuracies closer than this are equal: they are counts of images over one number


def interpolate(x: Array, y: Array, grid: Array) -> Array:
    """Curves [B, P] read at costs `grid` [G]: [B, G], piecewise linear in log x.

    x: positive costs, in any order. Left and right of its points a curve keeps its end values.
    """
    order = np.argsort(x, axis=1, kind="stable")
    log_x = np.log(np.take_along_axis(x, order, axis=1))
    y = np.take_along_axis(y, order, axis=1)
    at = np.log(grid)
    return np.stack([np.interp(at, u, v) for u, v in zip(log_x, y, strict=True)])


@dataclass(frozen=True, eq=False)
class Band:
    """A curve on a grid of costs: grid, value, low and high, four [G]."""

    grid: Array
    value: Array
    low: Array
    high: Array


def band(x: Means, y: Means, grid: Array, level: float = 0.95, against: Means | None = None) -> Band:
    """A curve's band on the part of `grid` that its points span: y at equal x, resample by resample.

    The columns of x (costs) and y (accuracies) are the points of one curve. Plain, the band is the interval
    of the accuracy itself, most of which is which images one happened to test. With `against`, a single
    column,
    it is that of the paired difference to it, drawn around the curve: what remains when rules are compared
    on the same images.
    """
    inside = (grid >= x.value.min() * (1 - _SAME)) & (grid <= x.value.max() * (1 + _SAME))
    grid = grid[inside]
    value = interpolate(x.value[None], y.value[None], grid)[0]
    if not len(y.draws):
        return Band(grid, value, value, value)
    draws = interpolate(x.draws, y.draws, grid)
    if against is not None:
        draws = draws - against.draws.reshape(-1, 1) + against.value.reshape(-1)[0]
    return Band(grid, value, *percentile_interval(draws, value, level))


def common_grid(x: Array, points: int = 200) -> Array:
    """Costs evenly spaced in log x over all points [R], the points themselves included: sorted [G]."""
    even = np.geomspace(x.min(), x.max(), points) if x.max() > x.min() else x[:1]
    return np.unique(np.concatenate([even, x]))


def pareto_front(x: Array, y: Array) -> Array:
    """Points that no other dominates: bool [R].

    A point is dominated if another costs no more (x) and is no worse (y), and is better in one of the two.
    Equal points do not dominate each other.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    order = np.lexsort((-y, x))  # by cost, the best first among equal costs
    front = np.zeros(len(x), bool)
    best, best_x = -np.inf, np.nan
    for i in order:
        if y[i] > best or (y[i] == best and x[i] == best_x):
            front[i] = True
            best, best_x = y[i], x[i]
    return front


def front_steps(x: Array, y: Array, right: float) -> tuple[Array, Array]:
    """The front as a step line: best y reachable at a cost, out to `right`. Two [F + 1], x ascending."""
    on = pareto_front(x, y)
    order = np.argsort(x[on], kind="stable")
    xs, ys = x[on][order], y[on][order]
    return np.append(xs, max(right, xs[-1])), np.append(ys, ys[-1])


@dataclass(frozen=True)
class Saving:
    """How many times cheaper a run is than the cheapest baseline (fixed K, or a screen alone) as accurate.

    ratio, low, high: cost of that fixed K / cost of the run, with its bootstrap interval; below 1 the run
    costs more than a fixed K that is as accurate. index: the fixed K's column. reached: False if no fixed K
    is as accurate; then `index` is the most accurate of them (which is less accurate than the run, so the
    ratio understates what was saved).
    """

    ratio: float
    low: float
    high: float
    index: int
    reached: bool


def saving(
    x: Means, y: Means, point: int, fixed: Array, level: float = 0.95, reference: int | None = None
) -> Saving:
    """The saving at equal accuracy of column `point`, against columns `fixed` (int [P]: fixed K = 1, 2, ...).

    K* = argmin { cost_K : accuracy_K ≥ accuracy_point },  saving = cost_K* / cost_point

    In every resample K* is found anew, so the interval knows that K* is itself uncertain. Of many fixed K the
    first that happens to reach the accuracy counts: chance speaks for the fixed K, so the saving errs low.
    With `reference` (a column, as K_max) the saving is against that column instead, whatever its accuracy.
    """
    if reference is not None:
        fixed = np.array([reference])
    at, reached = _cheapest(x.value[None, fixed], y.value[None, fixed], y.value[None, point])
    if reference is not None:
        reached[:] = y.value[reference] >= y.value[point] - _SAME
    ratio = x.value[fixed[at[0]]] / x.value[point]
    where, _ = _cheapest(x.draws[:, fixed], y.draws[:, fixed], y.draws[:, point])
    costs = np.take_along_axis(x.draws[:, fixed], where[:, None], axis=1)[:, 0]
    low, high = percentile_interval(costs / x.draws[:, point], ratio, level)
    return Saving(float(ratio), float(low), float(high), int(fixed[at[0]]), bool(reached[0]))


def _cheapest(x: Array, y: Array, wanted: Array) -> tuple[Array, Array]:
    """Of P points a row, the cheapest with y ≥ wanted, else the cheapest of the best: index [B], bool [B]."""
    enough = np.asarray(y >= wanted[:, None] - _SAME)
    reached: Array = enough.any(axis=1)  # type: ignore[assignment]
    best = y >= y.max(axis=1, keepdims=True) - _SAME
    eligible = np.where(reached[:, None], enough, best)
    return np.where(eligible, x, np.inf).argmin(axis=1), reached
