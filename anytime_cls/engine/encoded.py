"""One image as its draws see it, made when first asked for."""

from __future__ import annotations

import time

import numpy as np
from PIL import Image

from anytime_cls.draws.views import ViewSampler
from anytime_cls.pixels.crops import center_crop, content_key, random_crop, reduced, resized_crop
from anytime_cls.scorers.base import Encoded, Scorer

SCREENED = -1  # the view that no draw sees


def crop_of(sampler: ViewSampler, image: Image.Image, size: int, content: bytes, k: int) -> Image.Image:
    """The square [size, size] of an RGB image that order k is scored on."""
    if sampler.crops == "center":
        return center_crop(image, size)
    drawn = random_crop if sampler.crops == "random" else resized_crop
    return drawn(image, size, sampler.crop_words(content, k))


class Views:
    """One image as its draws see it, view by view, encoded when first asked for.

    Parameters
    ----------
    image : upright RGB, as `pixels.decode` gives it; a reduced copy is kept
    size : pixels a side that the model was trained on
    scorer : encodes, one view at a time
    sampler : what a view is

    Attributes
    ----------
    content : the image's key (`pixels.crops.content_key` of its centre crop): decides its draws and its views
    slowest : seconds that the slowest view so far took to make
    """

    def __init__(self, image: Image.Image, size: int, scorer: Scorer, sampler: ViewSampler | None = None):
        self.size, self.scorer = size, scorer
        self.sampler = sampler or ViewSampler()
        self._image = reduced(image, size)  # a few megabytes at most, where a photograph has dozens
        self.content = content_key(center_crop(self._image, size))
        self.slowest = 0.0
        self._encoded: dict[int, Encoded] = {}

    def encoded(self, k: int) -> Encoded:
        """What the scorer reads of the view that draw k is scored on."""
        return self._made(k if self.sampler.varies else 0)

    def screened(self) -> Encoded:
        """What it reads of the centre crop, without noise: screens rank classes by that."""
        return self._made(SCREENED if self.sampler.varies else 0)

    def seconds_ahead(self, k: int) -> float:
        """What :meth:`encoded` of this draw is expected to take: 0 if it is there."""
        return 0.0 if (k if self.sampler.varies else 0) in self._encoded else self.slowest

    def _made(self, view: int) -> Encoded:
        if view not in self._encoded:
            began = time.perf_counter()
            self._encoded[view] = self._encode(view)
            self.slowest = max(self.slowest, time.perf_counter() - began)
        return self._encoded[view]

    def _encode(self, view: int) -> Encoded:
        if view == SCREENED:
            return self.scorer.encode(np.asarray(center_crop(self._image, self.size))[None])[0]
        sampler = self.sampler
        crop = crop_of(sampler, self._image, self.size, self.content, view)
        keys = [sampler.noise_key(self.content, view)]
        return self.scorer.encode(np.asarray(crop)[None], sampler.noise, keys)[0]
