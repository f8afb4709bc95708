"""A scorer of one's own: how near an image's pixels are to each class's colour. See docs/scorers.md.

anytime-cls classify photo.jpg --model colours:rgb --rule fixed
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import ImageColor

from anytime_cls.draws.orders import OrderSampler
from anytime_cls.models.card import ModelCard

COLOURS = ["red", "green", "blue", "grey"]  # where nobody names others: open vocabulary, any CSS colour
SIZE, PIXELS = 16, 64  # a crop's side; pixels of it that a draw looks at


@dataclass(frozen=True)
class Shape:  # on the card: a plan needs no weights
    steps: int = PIXELS
    unit: str = "nats"
    joint: bool = False
    screens: ClassVar = {}  # none that rank all classes at once

    def draws(self, name, steps):
        return OrderSampler(name, PIXELS, prefix=steps)  # which pixels, in which order

    def flops(self, steps, classes=1):
        return 9.0 * steps * classes


class Scorer:  # on a device: NumPy in, NumPy out
    shape, device, dtype, screens = Shape(), "cpu", "float32", {}

    def __init__(self, labels=COLOURS):
        self.means = np.array([ImageColor.getrgb(label)[:3] for label in labels], float)

    def encode(self, crops, noise=0.0, keys=()):
        return [crop.reshape(-1, 3)[:: SIZE * SIZE // PIXELS].astype(float) for crop in crops]

    def width(self, steps):
        return steps

    def score(self, pieces, at):
        out = []
        for pixels, draw, classes in pieces:  # Σ log N(pixel; the class's colour, 60²), pixel after pixel
            seen = pixels[draw.what[0][: at[-1]]]
            log_p = -((seen[None] - self.means[classes][:, None]) ** 2).sum(axis=2) / (2 * 60.0**2)
            out.append(np.cumsum(log_p, axis=1).astype(np.float32).astype(float)[:, np.asarray(at) - 1])
        return out


class Colours:  # what the entry point names
    def card(self, source, labels=None):
        labels = list(labels or COLOURS)  # the data set's, or --classes
        sha = hashlib.sha256(repr(labels).encode()).hexdigest()
        return ModelCard.of("colours", source, labels, SIZE, Shape(), [sha])

    def load(self, card, device, dtype):
        return Scorer(card.labels)
