"""Filters on float arrays that corruptions share, with the borders and conventions of their libraries."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from anytime_cls.shifts.chance import Array, Chance


def smooth(x: Array, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Gaussian blur over the first two axes, as skimage.filters.gaussian: [S, S] or [S, S, c]."""
    if sigma <= 0:
        return x
    sigmas = (sigma, sigma) + (0,) * (x.ndim - 2)
    found: Array = ndimage.gaussian_filter(x, sigmas, mode=mode, truncate=truncate)
    return found


def correlate(x: Array, kernel: Array) -> Array:
    """A kernel [k, k] over every channel, borders mirrored about the last pixel (OpenCV's filter2D)."""
    shaped = kernel.reshape(kernel.shape + (1,) * (x.ndim - 2))
    found: Array = ndimage.correlate(x, shaped, mode="mirror")
    return found


def box(x: Array, side: int = 3) -> Array:
    """The mean of side × side pixels, borders mirrored (OpenCV's blur): [S, S]."""
    found: Array = ndimage.uniform_filter(x, side, mode="mirror")
    return found


def clipped_zoom(x: Array, factor: float) -> Array:
    """The centre of a square picture [S, S, c] enlarged by a factor from 1, bilinear, to the same size."""
    side = len(x)
    inner = int(np.ceil(side / factor))
    top = (side - inner) // 2
    zoomed = ndimage.zoom(x[top : top + inner, top : top + inner], (factor, factor, 1), order=1)
    trim = (len(zoomed) - side) // 2
    found: Array = zoomed[trim : trim + side, trim : trim + side]
    return found


def motion(x: Array, radius: int, sigma: float, degrees: float) -> Array:
    """Blur in one direction, half a Gaussian long, as ImageMagick's MotionBlurImage: [S, S] or [S, S, c].

    Weights are those of 0 .. 2 · radius pixels' distance; each pixel of the trail is the nearest whole one,
    at borders the last.
    """
    steps = np.arange(2 * radius + 1)
    weight = np.exp(-(steps**2) / (2 * sigma**2))
    weight /= weight.sum()
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
    out = np.zeros_like(x, dtype=float)
    for step, share in zip(steps, weight, strict=True):
        right, below = int(np.ceil(step * cosine - 0.5)), int(np.ceil(step * sine - 0.5))
        at_row = np.clip(rows + below, 0, x.shape[0] - 1)
        at_column = np.clip(columns + right, 0, x.shape[1] - 1)
        out += share * x[np.ix_(at_row, at_column)]
    return out


def plasma(side: int, decay: float, chance: Chance) -> Array:
    """A plasma fractal by diamonds and squares, from 0 to 1: float64 [side, side], side a power of two."""
    out = np.zeros((side, side))
    step, wobble = side, 100.0

    def jolted(total: Array) -> Array:
        return total / 4 + wobble * chance.uniform(total.shape, -wobble, wobble)

    while step >= 2:
        half = step // 2
        corners = out[::step, ::step]
        across = corners + np.roll(corners, -1, axis=0)
        out[half::step, half::step] = jolted(across + np.roll(across, -1, axis=1))
        middles, corners = out[half::step, half::step], out[::step, ::step]
        upright = middles + np.roll(middles, 1, axis=0)
        out[::step, half::step] = jolted(upright + corners + np.roll(corners, -1, axis=1))
        level = middles + np.roll(middles, 1, axis=1)
        out[half::step, ::step] = jolted(level + corners + np.roll(corners, -1, axis=0))
        step, wobble = half, wobble / decay
    out -= out.min()
    found: Array = out / out.max()
    return found


def grey(x: Array) -> Array:
    """Luminance of ITU-R BT.601: [S, S, 3] → [S, S]."""
    found: Array = x @ np.array([0.299, 0.587, 0.114])
    return found


def edges(x: Array, low: float, high: float) -> Array:
    """Canny's edges of [S, S] in 0 .. 255: Sobel, L1 norm, thinned, kept where joined to a strong one."""
    down, across = (ndimage.sobel(x.astype(float), axis=axis, mode="nearest") for axis in (0, 1))
    size = np.abs(down) + np.abs(across)
    angle = np.degrees(np.arctan2(down, across)) % 180
    padded = np.pad(size, 1)
    thin = np.zeros(x.shape, bool)
    for least, most, row, column in (
        (0.0, 22.5, 0, 1), (22.5, 67.5, 1, 1), (67.5, 112.5, 1, 0), (112.5, 157.5, 1, -1),
        (157.5, 180.0, 0, 1),
    ):  # fmt: skip
        here = (angle >= least) & (angle < most)
        after = padded[1 + row : 1 + row + len(x), 1 + column : 1 + column + x.shape[1]]
        before = padded[1 - row : 1 - row + len(x), 1 - column : 1 - column + x.shape[1]]
        thin |= here & (size > before) & (size >= after)
    weak = thin & (size > low)
    groups, count = ndimage.label(weak, np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[np.unique(groups[weak & (size > high)])] = True
    strong[0] = False
    found: Array = strong[groups]
    return found
