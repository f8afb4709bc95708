"""One image's tokens, view by view, made when first asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from anytime_cls.draws.views import ViewSampler
from anytime_cls.pixels.crops import (
    center_crop,
    content_key,
    random_crop,
    reduced,
    to_pixels,
)

if TYPE_CHECKING:
    import torch

    from anytime_cls.tokenizers.base import Tokenizer


def crop_of(sampler: ViewSampler, image: Image.Image, size: int, content: bytes, k: int) -> Image.Image:
    """The square [size, size] of an RGB image that order k is scored on."""
    if sampler.crops == "center":
        return center_crop(image, size)
    return random_crop(image, size, sampler.crop_words(content, k))


class Views:
    """One image's tokens, order by order, made when first asked for.

    Parameters
    ----------
    image : upright RGB, as `image.decode` gives it; a reduced copy is kept
    size : pixels a side that the model was trained on
    tokenizer, device : where tokens are made, one view at a time: rounding cannot depend on a batch
    sampler : what a view is

    Attributes
    ----------
    content : the image's key (`image.content_key` of its centre crop): decides its orders and its views
    slowest : seconds that the slowest view so far took to make
    """

    def __init__(
        self,
        image: Image.Image,
        size: int,
        tokenizer: Tokenizer,
        sampler: ViewSampler | None = None,
        device: torch.device | str = "cpu",
    ):
        self.size, self.tokenizer, self.device = size, tokenizer, device
        self.sampler = sampler or ViewSampler()
        self._image = reduced(image, size)  # a few megabytes at most, where a photograph has dozens
        self.content = content_key(center_crop(self._image, size))
        self.slowest = 0.0
        self._tokens: dict[int, np.ndarray] = {}

    def tokens(self, order: int) -> np.ndarray:
        """Token ids of the view that this order is scored on: int64 [N], in raster order."""
        view = order if self.sampler.varies else 0
        if view not in self._tokens:
            began = time.perf_counter()
            self._tokens[view] = self._encode(view)
            self.slowest = max(self.slowest, time.perf_counter() - began)
        return self._tokens[view]

    def seconds_ahead(self, order: int) -> float:
        """What :meth:`tokens` of this order is expected to take: 0 if they are there."""
        return 0.0 if (order if self.sampler.varies else 0) in self._tokens else self.slowest

    def _encode(self, view: int) -> np.ndarray:
        import torch  # not at the top: options are checked before PyTorch is loaded

        sampler, tokenizer = self.sampler, self.tokenizer
        crop = crop_of(sampler, self._image, self.size, self.content, view)
        pixels = torch.from_numpy(to_pixels(crop, self.size, tokenizer.pixel_range))[None].to(self.device)
        normal = None
        if sampler.noise > 0:
            normal = torch.from_numpy(sampler.normal(tokenizer.latent_shape, self.content, view))[None]
        with torch.inference_mode():
            ids = tokenizer.encode(pixels, sampler.noise, normal)
        return ids[0].cpu().numpy()
