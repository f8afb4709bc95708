"""Shifts in the spirit of ImageNet-Sketch, -R and Stylized-ImageNet, and of swapped backgrounds (ImageNet-9).

All are made of the pictures at hand, so they stand in for those sets and are not them: sketches are edges and
not drawings, styles are other pictures' colours and grain and not paintings, subjects are guessed.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from anytime_cls.shifts import filters
from anytime_cls.shifts.chance import Array, Chance
from anytime_cls.shifts.foreground import background, foreground


def greyscale(picture: Array) -> Array:
    """Luminance alone: uint8 [S, S, 3]."""
    return _bytes(np.repeat(filters.grey(picture / 255.0)[..., None], 3, axis=2))


def sketch(picture: Array) -> Array:
    """Dark lines on white, as strong as the edge is: uint8 [S, S, 3]."""
    # a line of half a pixel at 32 is no line of four at 256
    level = filters.smooth(filters.grey(picture / 255.0), 0.09 * np.sqrt(len(picture)))
    strength = np.hypot(*(ndimage.sobel(level, axis=axis, mode="nearest") for axis in (0, 1)))
    strength = strength / max(float(np.quantile(strength, 0.97)), 1e-3)
    return _bytes(np.repeat(1 - strength.clip(0, 1)[..., None] ** 0.8, 3, axis=2))


def texture(picture: Array, other: Array, chance: Chance) -> Array:
    """A picture's shapes in another's colours and grain: uint8 [S, S, 3].

    Its coarse part gets the mean and covariance of the other's colours (what AdaIN, by which
    Stylized-ImageNet was made, does to a network's features); its fine part is the other's, shifted about.
    """
    sigma = len(picture) / 24
    own, theirs = picture / 255.0, other / 255.0
    coarse = filters.smooth(own, sigma)
    painted = _coloured(coarse, filters.smooth(theirs, sigma))
    grain = theirs - filters.smooth(theirs, sigma)
    down, across = chance.integers(0, len(picture), (2,)).tolist()
    return _bytes(painted + np.roll(grain, (down, across), axis=(0, 1)))


def swapped(picture: Array, other: Array) -> Array:
    """A picture's subject on another's background, both guessed (`foreground`): uint8 [S, S, 3]."""
    mask = foreground(picture)[..., None]
    return _bytes(mask * (picture / 255.0) + (1 - mask) * background(other, foreground(other)))


def _coloured(x: Array, like: Array) -> Array:
    """Colours moved to the mean and covariance of others', main axis to main axis, so that what stands apart
    in the one still does in the other: [S, S, 3]."""
    flat, wanted = x.reshape(-1, 3), like.reshape(-1, 3)
    (spread, axes), (new_spread, new_axes) = _axes(flat), _axes(wanted)
    out = (flat - flat.mean(axis=0)) @ axes * np.sqrt(new_spread / spread) @ new_axes.T + wanted.mean(axis=0)
    found: Array = out.reshape(x.shape)
    return found


def _axes(colours: Array) -> tuple[Array, Array]:
    """Variances [3] along the main axes [3, 3] of colours, each axis towards the light."""
    values, vectors = np.linalg.eigh(np.cov(colours.T) + 1e-4 * np.eye(3))
    return values, vectors * np.where(vectors.sum(axis=0) < 0, -1, 1)


def _bytes(x: Array) -> Array:
    found: Array = np.round(x.clip(0, 1) * 255).astype(np.uint8)
    return found
