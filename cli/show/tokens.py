"""The picture as its tokens, which light up as they are scored: beside the bars of the live view."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.segment import Segment
from rich.style import Style

if TYPE_CHECKING:
    from anytime_cls.engine.job import Job

DARK = 0.25  # brightness of a token that no order has scored yet
MOST = 16  # tokens a side; more are not told apart
_GREY = 150  # of a token where the picture's colours are not known


class Tokens:
    """Which tokens of one image were scored, and how they look.

    steps : tokens of the image; drawn where they make a square of at most `MOST` a side
    pixels : uint8 [side, side, 3], the picture at one pixel a token; None: grey
    """

    def __init__(self, steps: int, pixels: np.ndarray | None = None):
        side = math.isqrt(steps)
        self.side = side if side * side == steps and 2 <= side <= MOST else 0
        self.counts = np.zeros(steps, int)
        self.pixels = np.full((side, side, 3), _GREY, np.uint8) if pixels is None else pixels
        self._prefix: dict[int, int] = {}  # tokens counted, by order
        self._seen = 0

    @property
    def width(self) -> int:
        """Columns that the drawing takes; 0 where there is none."""
        return self.side * self._scale

    @property
    def _scale(self) -> int:
        return 2 if self.side <= MOST // 2 else 1

    def take(self, job: Job) -> None:
        """Count what was recorded since the last time. Draws that are no orders light nothing."""
        order_of: Any = getattr(job.draws, "order", None)
        new, self._seen = job.records[self._seen :], len(job.records)
        for record in new:
            before = self._prefix.get(record.order, 0)
            if order_of is not None and record.prefix > before:
                self._prefix[record.order] = record.prefix
                self.counts[order_of(job.content, record.order)[before : record.prefix]] += 1

    def lines(self) -> list[list[Segment]]:
        """The drawing: a half block holds two rows, so that tokens are square."""
        if not self.side:
            return []
        lit = (self.counts > 0).reshape(self.side, self.side)
        shown = np.where(lit[..., None], self.pixels, self.pixels * DARK).astype(int)
        shown = shown.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        if len(shown) % 2:
            shown = np.concatenate([shown, np.zeros_like(shown[:1])])
        return [
            [Segment("▀", Style(color=_rgb(top), bgcolor=_rgb(low))) for top, low in zip(*pair, strict=True)]
            for pair in zip(shown[::2], shown[1::2], strict=True)
        ]


def _rgb(colour: np.ndarray) -> str:
    red, green, blue = colour.tolist()
    return f"rgb({red},{green},{blue})"


def picture_of(source: Any, size: int, steps: int) -> np.ndarray | None:
    """The centre crop that the model sees, at one pixel a token: uint8 [side, side, 3]. None for what cannot
    be read: the race will say why."""
    from PIL import Image

    from anytime_cls.pixels.crops import center_crop
    from anytime_cls.pixels.decode import ImageError, decode

    side = math.isqrt(steps)
    if side * side != steps or side > MOST:
        return None
    try:
        crop = center_crop(decode(source), size)
    except ImageError:
        return None
    return np.asarray(crop.resize((side, side), Image.Resampling.BOX))
