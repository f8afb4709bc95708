"""CIFAR-10-C's corruptions of 32×32 pictures, made here: its nineteen, at its five severities.

Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*,
ICLR 2019; parameters as in `make_cifar_c.py` of hendrycks/robustness. Each takes uint8 [32, 32, 3] as floats
from 0 to 1, its parameters and a `Chance`, and gives floats, which `corrupt` clips and cuts to bytes as they
did. Frost differs: its six photographs are not ours to ship, so its crystals are drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from anytime_cls.shifts import filters
from anytime_cls.shifts.chance import Array, Chance

SIDE = 32
Corruption = Callable[[Array, Any, Chance], Array]


def corrupt(picture: Array, name: str, severity: int, chance: Chance) -> Array:
    """A picture uint8 [32, 32, 3] under a corruption of `TABLE`, severity 1 to 5."""
    make, parameters = TABLE[name]
    found = make(picture / 255.0, parameters[severity - 1], chance)
    cut: Array = (found.clip(0, 1) * 255).astype(np.uint8)  # down, as theirs
    return cut


# --- noise --------------------------------------------------------------------------------------------------


def gaussian_noise(x: Array, sd: float, chance: Chance) -> Array:
    return x + sd * chance.normal(x.shape)


def shot_noise(x: Array, photons: float, chance: Chance) -> Array:
    return chance.poisson(x * photons) / photons


def impulse_noise(x: Array, share: float, chance: Chance) -> Array:
    hit, salt = chance.uniform(x.shape) <= share, chance.uniform(x.shape) <= 0.5
    return np.where(hit, salt.astype(float), x)


def speckle_noise(x: Array, sd: float, chance: Chance) -> Array:
    return x + sd * x * chance.normal(x.shape)


# --- blur ---------------------------------------------------------------------------------------------------


def gaussian_blur(x: Array, sigma: float, chance: Chance) -> Array:
    return filters.smooth(x, sigma)


def glass_blur(x: Array, given: tuple[float, int, int], chance: Chance) -> Array:
    """Pixels take the colour of one beside them. (The published code means to swap the two; as NumPy reads
    it, it copies, and so does this.)"""
    sigma, reach, rounds = given
    x = np.floor(filters.smooth(x, sigma) * 255)
    span = range(len(x) - reach, reach, -1)
    for _ in range(rounds):
        moves = iter(chance.integers(-reach, reach, (len(span) ** 2, 2)).tolist())
        for row in span:
            for column in span:
                across, down = next(moves)
                x[row, column] = x[row + down, column + across]
    return filters.smooth(x / 255, sigma)


def defocus_blur(x: Array, given: tuple[float, float], chance: Chance) -> Array:
    """A disk, its rim softened by a Gaussian of 3×3 pixels."""
    radius, alias = given
    at = np.arange(-8, 9)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    rim = np.exp(-(np.arange(-1, 2) ** 2) / (2 * alias**2))
    return filters.correlate(x, filters.correlate(disk / disk.sum(), np.outer(rim, rim) / rim.sum() ** 2))


def motion_blur(x: Array, given: tuple[int, float], chance: Chance) -> Array:
    return filters.motion(x, *given, float(chance.uniform((), -45, 45)))


def zoom_blur(x: Array, last: float, chance: Chance) -> Array:
    factors = np.arange(1, last, 0.01)
    total: Array = x + sum(filters.clipped_zoom(x, factor) for factor in factors)
    return total / (len(factors) + 1)


# --- weather ------------------------------------------------------------------------------------------------


def snow(x: Array, given: tuple[float, ...], chance: Chance) -> Array:
    mean, sd, zoom, least, radius, sigma, kept = given
    layer = filters.clipped_zoom(mean + sd * chance.normal((*x.shape[:2], 1)), zoom)[..., 0]
    layer = np.floor(np.where(layer < least, 0, layer).clip(0, 1) * 255) / 255
    layer = filters.motion(layer, int(radius), sigma, float(chance.uniform((), -135, -45)))[..., None]
    whiter = np.maximum(x, filters.grey(x)[..., None] * 1.5 + 0.5)
    return kept * x + (1 - kept) * whiter + layer + np.rot90(layer, 2)


def frost(x: Array, given: tuple[float, float], chance: Chance) -> Array:
    return given[0] * x + given[1] * _crystals(len(x), chance)


def _crystals(side: int, chance: Chance) -> Array:
    """Ice on a pane: bright needles in a few directions on a bluish haze, in 0 to 1: [S, S, 3]."""
    needles = np.zeros((side, side))
    for degrees in chance.uniform((5,), 0, 360):
        seeds = (chance.uniform((side, side)) < 0.02) * chance.uniform((side, side), 0.4, 1.0)
        needles = np.maximum(needles, filters.motion(seeds, 6, 3.0, float(degrees)) * 4)
    haze = filters.plasma(1 << (side - 1).bit_length(), 2.0, chance)[:side, :side]
    light = (0.6 * haze + needles).clip(0, 1)[..., None]
    found: Array = light * np.array([0.88, 0.95, 1.0])
    return found


def fog(x: Array, given: tuple[float, float], chance: Chance) -> Array:
    amount, decay = given
    brightest = x.max()
    thick = amount * filters.plasma(SIDE, decay, chance)[: len(x), : len(x), None]
    found: Array = (x + thick) * brightest / (brightest + amount)
    return found


def spatter(x: Array, given: tuple[float, ...], chance: Chance) -> Array:
    """Drops of water (a pale turquoise), or at the last two severities of mud."""
    mean, sd, sigma, least, strength, mud = given
    drops = filters.smooth(mean + sd * chance.normal(x.shape[:2]), sigma)
    drops = np.where(drops < least, 0, drops)
    if mud:
        cover = filters.smooth((drops > least).astype(float), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        brown: Array = x * (1 - cover) + cover * np.array([63, 42, 20]) / 255
        return brown
    drops = np.floor(drops * 255)
    rim = ~filters.edges(drops, 50, 150)
    far = np.minimum(ndimage.distance_transform_edt(rim) if not rim.all() else np.inf, 20.0)
    far = _equalised(np.floor(filters.box(np.broadcast_to(far, drops.shape).astype(float))))
    lit = filters.correlate(far, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2.0]])).clip(0, 255)
    wet = drops * np.round(filters.box(lit))
    wet = strength * wet / wet.max() if wet.max() > 0 else wet
    found: Array = x + wet[..., None] * np.array([175, 238, 238]) / 255
    return found


def _equalised(x: Array) -> Array:
    """Histogram equalisation of whole numbers 0 to 255, as OpenCV's: [S, S]."""
    count = np.bincount(x.astype(int).ravel(), minlength=256)
    first = count[np.flatnonzero(count)[0]]
    if first == x.size:
        return x
    found: Array = np.round((np.cumsum(count) - first) * 255 / (x.size - first)).clip(0)[x.astype(int)]
    return found


# --- digital ------------------------------------------------------------------------------------------------


def contrast(x: Array, factor: float, chance: Chance) -> Array:
    mean = x.mean(axis=(0, 1), keepdims=True)
    found: Array = (x - mean) * factor + mean
    return found


def brightness(x: Array, amount: float, chance: Chance) -> Array:
    """More V of HSV, which at the same H and S scales all three colours."""
    value = x.max(axis=2, keepdims=True)
    raised = (value + amount).clip(0, 1)
    found: Array = np.where(value > 0, x * raised / np.maximum(value, 1e-12), raised)
    return found


def saturate(x: Array, given: tuple[float, float], chance: Chance) -> Array:
    """S of HSV times one number and plus another; the hue of a grey is red, as HSV has it."""
    value, least = x.max(axis=2, keepdims=True), x.min(axis=2, keepdims=True)
    was = (value - least) / np.maximum(value, 1e-12)
    now = (was * given[0] + given[1]).clip(0, 1)
    red = value * (1 - now * np.array([0.0, 1.0, 1.0]))
    found: Array = np.where(was > 0, value - (value - x) * now / np.maximum(was, 1e-12), red)
    return found


def jpeg_compression(x: Array, quality: int, chance: Chance) -> Array:
    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=quality)
    return _floats(Image.open(file))


def pixelate(x: Array, share: float, chance: Chance) -> Array:
    few = (int(len(x) * share),) * 2
    return _floats(_picture(x).resize(few, Image.Resampling.BOX).resize((len(x),) * 2, Image.Resampling.BOX))


def elastic_transform(x: Array, given: tuple[float, float, float], chance: Chance) -> Array:
    """Three points moved by up to so much, and all between them with them; then every pixel a little."""
    amount, sigma, most = (SIDE * share for share in given)
    middle, reach = len(x) // 2, len(x) // 3
    was = np.array([[1, 1], [1, -1], [-1, -1]]) * reach + float(middle)  # (x, y)
    now = was + chance.uniform(was.shape, -most, most)
    back = np.linalg.solve(np.c_[now, np.ones(3)], was)  # (x, y, 1) there → (x, y) here
    row, column = np.mgrid[: len(x), : len(x)].astype(float)
    from_x, from_y = np.moveaxis(np.stack([column, row, np.ones_like(row)], axis=2) @ back, 2, 0)
    x = _read_at(x, from_y, from_x, "mirror")
    right, down = (
        filters.smooth(chance.uniform(row.shape, -1, 1), sigma, "reflect", 3) * amount for _ in range(2)
    )
    return _read_at(x, row + down, column + right, "reflect")


def _read_at(x: Array, row: Array, column: Array, mode: str) -> Array:
    """Every channel read between its pixels, bilinear."""
    return np.stack(
        [ndimage.map_coordinates(x[..., c], [row, column], order=1, mode=mode) for c in range(3)], axis=2
    )


def _picture(x: Array) -> Image.Image:
    return Image.fromarray(np.round(x * 255).astype(np.uint8))


def _floats(picture: Image.Image) -> Array:
    """Whole levels, a little above, so that cutting down gives them back."""
    found: Array = (np.asarray(picture, float) + 1e-6) / 255
    return found


TABLE: dict[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian-noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot-noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse-noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus-blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass-blur": (glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion-blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom-blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (snow, ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9), (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8))),
    "frost": (frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic-transform": (elastic_transform, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06),
                                              (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg-compression": (jpeg_compression, (80, 65, 58, 50, 40)),
    "speckle-noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian-blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "spatter": (spatter, ((0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0),
                          (0.65, 0.3, 1, 0.69, 0.5, 0), (0.65, 0.1, 0.7, 0.69, 0.6, 1),
                          (0.65, 0.1, 0.5, 0.68, 0.6, 1))),
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}  # fmt: skip
