"""What of a picture is its subject, guessed from its colours alone: no model, no labels, no masks to fetch.

What looks like the border is background; what does not, and lies towards the middle, is the subject. It is a
guess: on photographs with a plain background a good one, on others an oval about the middle.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from anytime_cls.shifts import filters
from anytime_cls.shifts.chance import Array

COLOURS = 4  # of the border
SHARE = (0.12, 0.7)  # of a picture that a subject may cover; else the oval is taken


def foreground(picture: Array) -> Array:
    """How much each pixel of uint8 [S, S, 3] belongs to the subject, 0 to 1: float64 [S, S]."""
    x = picture / 255.0
    side = len(x)
    rim = max(1, side // 16)
    border = np.concatenate([x[:rim], x[-rim:], x[:, :rim].swapaxes(0, 1), x[:, -rim:].swapaxes(0, 1)])
    means = _means(border.reshape(-1, 3))
    far = np.sqrt(((x[:, :, None] - means) ** 2).sum(axis=3)).min(axis=2)
    place = np.linspace(-1, 1, side)
    near = np.exp(-(place[:, None] ** 2 + place**2))  # of the middle
    shown = filters.smooth(far * near, side / 40)
    mask = shown > _otsu(shown)
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=max(1, side // 32)))
    mask = _largest(mask, near)
    if not SHARE[0] <= mask.mean() <= SHARE[1]:
        mask = place[:, None] ** 2 + place**2 < 0.45
    found: Array = filters.smooth(mask.astype(float), side / 64).clip(0, 1)
    return found


def background(picture: Array, mask: Array) -> Array:
    """A picture with its subject painted over by what is around it: floats 0 to 1 [S, S, 3].

    From fine to coarse, whatever is not known yet takes the mean of what is known around it.
    """
    x, known = picture / 255.0, (mask < 0.05).astype(float)
    out, filled = x * known[..., None], known.copy()
    sigma = len(x) / 32
    while filled.min() < 0.5 and sigma < 4 * len(x):
        weight = filters.smooth(known, sigma)
        around = filters.smooth(x * known[..., None], sigma) / np.maximum(weight, 1e-9)[..., None]
        new = (filled < 0.5) & (weight > 1e-3)
        out[new], filled[new] = around[new], 1.0
        sigma *= 2
    out[filled < 0.5] = x.mean(axis=(0, 1))  # no background at all
    found: Array = out
    return found


def _means(colours: Array) -> Array:
    """A few colours that stand for these [n, 3]: k-means from evenly spaced ones by brightness."""
    order = np.argsort(colours.sum(axis=1), kind="stable")
    means: Array = colours[order[np.linspace(0, len(colours) - 1, COLOURS).astype(int)]].copy()
    for _ in range(10):
        nearest = ((colours[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        for k in range(COLOURS):
            if (nearest == k).any():
                means[k] = colours[nearest == k].mean(axis=0)
    return means


def _otsu(x: Array) -> float:
    """The threshold that parts values best in two (Otsu, 1979)."""
    edges = np.linspace(x.min(), x.max() + 1e-9, 65)
    count = np.histogram(x, edges)[0]
    below = np.cumsum(count)[:-1]
    middle = (edges[:-1] + edges[1:]) / 2
    mass = np.cumsum(count * middle)
    above = x.size - below
    low, high = mass[:-1] / np.maximum(below, 1), (mass[-1] - mass[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * (high - low) ** 2)])


def _largest(mask: Array, weight: Array) -> Array:
    """The connected part with most weight."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sums = ndimage.sum(weight, parts, range(1, count + 1))
    found: Array = parts == 1 + int(np.argmax(sums))
    return found
