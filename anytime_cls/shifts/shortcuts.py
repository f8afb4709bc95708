"""Shortcuts: marks that say a class, without being of it. Who is trained where they are right, and tested
where they are wrong, shows whether they were taken (Li et al., *Generative Classifiers Avoid Shortcut
Solutions*, ICLR 2025).
"""

from __future__ import annotations

import colorsys

import numpy as np

from anytime_cls.shifts.chance import Array, Chance
from anytime_cls.shifts.foreground import foreground


def colour_of(index: int, classes: int) -> Array:
    """A class's own colour, by hue: float64 [3], 0 to 255. Of hundreds of classes, neighbours look alike."""
    return 255 * np.array(colorsys.hsv_to_rgb(index / classes, 1.0, 1.0))


def said_class(label: int, classes: int, share: float, chance: Chance) -> int:
    """The class that a mark says: the picture's own with chance `share`, else another, all alike."""
    if float(chance.uniform()) < share:
        return label
    other = int(chance.integers(0, classes - 1))
    return other + (other >= label)


def patch(picture: Array, said: int, classes: int) -> Array:
    """A square of a class's colour, an eighth of the picture wide, in its upper left corner."""
    out = picture.copy()
    side = max(1, len(picture) // 8)
    out[:side, :side] = np.round(colour_of(said, classes)).astype(np.uint8)
    return out


def tint(picture: Array, said: int, classes: int) -> Array:
    """The background (`foreground` guesses it) half in a class's colour."""
    share = 0.5 * (1 - foreground(picture))[..., None]
    mixed = (1 - share) * picture + share * colour_of(said, classes)
    found: Array = np.round(mixed).astype(np.uint8)
    return found
