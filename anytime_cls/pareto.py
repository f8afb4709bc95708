"""Accuracy against compute: paired bootstrap, bands, the Pareto front, the saving at equal accuracy.

Pure NumPy, on plain arrays: a column is one run (a rule at one setting), a row one image. Every interval is
a percentile bootstrap over images (Efron & Tibshirani 1993) with the same resamples for every column, so that
what makes an image set easy or hard cancels in differences and ratios between rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray

_ROOM = 1 << 22  # resample weights in memory at once (32 MiB)
_SAME = 1e-9  # accuracies closer than this are equal: they are counts of images over one number


@dataclass(frozen=True, eq=False)
class Means:
    """Means of R columns over the images, and over B resamples of the images.

    value: float64 [R]. draws: float64 [B, R]; row b is the same resample in every `Means` made with the same
    number of images, resamples and seed.
    """

    value: Array
    draws: Array

    def __getitem__(self, columns: Any) -> Means:
        """Some of the columns."""
        return Means(self.value[columns], self.draws[:, columns])

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Percentile interval of every column: two [R]; the means themselves where B is 0."""
        return percentile_interval(self.draws, self.value, level)


def bootstrap(values: Array, resamples: int = 1000, seed: int = 0) -> Means:
    """Means of columns [I, R] over images, with B resamples drawn with replacement.

    Raises ValueError without images, for negative `resamples`, and for values that are not finite: a NaN
    would silently spread over every resample that draws its image.
    """
    values = np.asarray(values, float)
    n_images = len(values)
    if not n_images:
        raise ValueError("no images to take means over")
    if resamples < 0:
        raise ValueError(f"resamples must not be negative, got {resamples}")
    if not np.isfinite(values).all():
        raise ValueError("values to average must be finite")
    rng = np.random.default_rng(seed)
    chunk = max(1, _ROOM // n_images)
    draws = np.empty((resamples, values.shape[1]))
    for first in range(0, resamples, chunk):
        rows = min(chunk, resamples - first)
        # multinomial weights: how often each image was drawn; a product with them is a resample's sum
        drawn = rng.integers(0, n_images, (rows, n_images)) + np.arange(rows)[:, None] * n_images
        weights = np.bincount(drawn.ravel(), minlength=rows * n_images).reshape(rows, n_images)
        draws[first : first + rows] = weights.astype(float) @ values / n_images
    return Means(values.sum(axis=0) / n_images, draws)


def percentile_interval(draws: Array, value: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Percentiles of draws [B, ...] over the first axis; `value` where there are no draws."""
    if not len(draws):
        return value, value
    tail = (1 - level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail), axis=0)
    return low, high


def wilson(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval of a proportion. What a bootstrap cannot give where all images are alike (0 or 1)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at 0 and at 1 the interval ends there; rounding must not push it off
    return (0.0 if share == 0 else max(0.0, centre - half)), (1.0 if share == 1 else min(1.0, centre + half))


def difference(a: Means, b: Means, level: float = 0.95) -> tuple[Array, Array, Array]:
    """Paired difference a − b: value, low, high, three [R]; b may be a single column."""
    value, draws = a.value - b.value, a.draws - b.draws
    return (value, *percentile_interval(draws, value, level))


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
    """How many times cheaper a run is than the cheapest fixed K that is as accurate.

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


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in equal-width bins that hold images; parallel [b], and the ECE."""

    confidence: Array  # mean probability in the bin
    accuracy: Array
    low: Array  # Wilson's 95 % interval of the accuracy
    high: Array
    count: Array
    left: Array  # the bin's edges
    right: Array
    ece: float
    ece_low: float
    ece_high: float


def reliability(
    probability: Array, correct: Array, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> Reliability:
    """The reliability diagram: probability of the answer [I] and whether it was right [I].

    ECE = Σ_b (n_b / n) |accuracy_b − confidence_b| (Guo et al., ICML 2017), with a bootstrap interval. The
    ECE of a finite sample is biased upwards (noise in a bin adds), and so is its interval.
    """
    probability, correct = np.asarray(probability, float), np.asarray(correct, float)
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    member = np.eye(bins)[bin_of]
    gap = bootstrap(member * (correct - probability)[:, None], resamples, seed)
    ece, draws = np.abs(gap.value).sum(), np.abs(gap.draws).sum(axis=1)
    low, high = percentile_interval(draws, ece)
    count = member.sum(axis=0).astype(int)
    held = np.flatnonzero(count)
    accuracy = (member * correct[:, None]).sum(axis=0)[held] / count[held]
    intervals = np.array([wilson(a, n) for a, n in zip(accuracy, count[held], strict=True)])
    return Reliability(
        confidence=(member * probability[:, None]).sum(axis=0)[held] / count[held],
        accuracy=accuracy, low=intervals[:, 0], high=intervals[:, 1], count=count[held],
        left=edges[held], right=edges[held + 1],
        ece=float(ece), ece_low=float(low), ece_high=float(high),
    )  # fmt: skip
