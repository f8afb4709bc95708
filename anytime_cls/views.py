"""What the model sees of an image on one order: the same centre crop always, or a new view every order.

The paper's classifier can take a new random crop of the image for every order, and can blend noise into the
tokenizer's latents. Either way the order's tokens are one draw that all classes share, so what a view adds
to every class cancels in their differences, as it does for the order.

View k of an image is a function of (seed, image content, k) alone, as its orders are: not of the batch,
the device, the classes, or which views were made before.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.special import ndtri

from anytime_cls.image import center_crop, content_key, random_crop, reduced, to_pixels

if TYPE_CHECKING:
    import torch

    from anytime_cls.tokenizer import Tokenizer

CROPS = ("center", "random")


@dataclass(frozen=True)
class ViewSampler:
    """Draws the k-th view of an image.

    Parameters
    ----------
    crops : `center` (one crop for all orders) or `random` (a new one every order, `image.random_crop`)
    noise : t of the latent noise (`tokenizer.with_noise`), in [0, 1]; drawn anew every order
    seed : any integer; the same as the orders' gives views independent of them

    Raises ValueError for an unknown kind of crops or a noise outside [0, 1].
    """

    crops: str = "center"
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crops not in CROPS:
            raise ValueError(f"unknown crops {self.crops!r}: choose from {', '.join(CROPS)}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"latent noise must lie between 0 and 1, not {self.noise:g}")

    @property
    def varies(self) -> bool:
        """Whether every order has tokens of its own. (Then even one order, as `raster`, has many pulls.)"""
        return self.crops == "random" or self.noise > 0

    def crop(self, image: Image.Image, size: int, content: bytes, k: int) -> Image.Image:
        """The square [size, size] of an RGB image that order k is scored on."""
        if self.crops == "center":
            return center_crop(image, size)
        return random_crop(image, size, [int(word) for word in self._words("crop", content, k, 3)])

    def normal(self, shape: tuple[int, ...], content: bytes, k: int) -> np.ndarray:
        """Standard normals for order k's latent noise: float32 `shape`."""
        words = self._words("noise", content, k, int(np.prod(shape)))
        uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53  # 53 bits, never 0 or 1
        return ndtri(uniform).astype(np.float32).reshape(shape)

    def _words(self, what: str, content: bytes, k: int, n: int) -> np.ndarray:
        """Random 64-bit words [n] that nothing else draws: orders.py names its own otherwise."""
        digest = hashlib.sha256(f"{what}:{self.seed}:{k}:".encode() + content).digest()
        # raw Philox words are fixed for ever, as for the orders
        return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n)


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
        crop = sampler.crop(self._image, self.size, self.content, view)
        pixels = torch.from_numpy(to_pixels(crop, self.size, tokenizer.pixel_range))[None].to(self.device)
        normal = None
        if sampler.noise > 0:
            normal = torch.from_numpy(sampler.normal(tokenizer.latent_shape, self.content, view))[None]
        with torch.inference_mode():
            ids = tokenizer.encode(pixels, sampler.noise, normal)
        return ids[0].cpu().numpy()
