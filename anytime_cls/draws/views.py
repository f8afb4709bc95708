"""What the model sees of an image on one order: the same centre crop always, or a new view every order.

The paper's classifier can take a new random crop of the image for every order, and can blend noise into the
tokenizer's latents. Either way the order's tokens are one draw that all classes share, so what a view adds
to every class cancels in their differences, as it does for the order.

View k of an image is a function of (seed, image content, k) alone, as its orders are: not of the batch,
the device, the classes, or which views were made before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

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

    def crop_words(self, content: bytes, k: int) -> list[int]:
        """What the random crop of order k is drawn by (`pixels.crops.random_crop`): three 64-bit words."""
        return [int(word) for word in self._words("crop", content, k, 3)]

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
