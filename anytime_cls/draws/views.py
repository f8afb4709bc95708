"""What the model sees of an image on one order: the same centre crop always, or a new view every order.

The paper's classifier can take a new random crop of the image for every order, and can blend noise into the
tokenizer's latents. Either way the order's tokens are one draw that all classes share, so what a view adds
to every class cancels in their differences, as it does for the order.

View k of an image is a function of (seed, image content, k) alone, as its orders are: not of the batch,
the device, the classes, or which views were made before.
"""

from __future__ import annotations

from dataclasses import dataclass

from anytime_cls.draws.keyed import words

CROPS = ("center", "random", "resized")


@dataclass(frozen=True)
class ViewSampler:
    """Draws the k-th view of an image.

    Parameters
    ----------
    crops : `center` (one crop for all orders), `random` (a new one every order, as the paper's classifier
        takes it) or `resized` (a new one every order, of other proportions, half of them mirrored)
    noise : t of the latent noise (`tokenizers.base`), in [0, 1]; drawn anew every order
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
        return self.crops != "center" or self.noise > 0

    def crop_words(self, content: bytes, k: int) -> list[int]:
        """What the crop of order k is drawn by: 64-bit words, three for `pixels.crops.random_crop`, five for
        `pixels.crops.resized_crop`."""
        n = 5 if self.crops == "resized" else 3
        return [int(word) for word in words(self._key("crop", content, k), n)]

    def noise_key(self, content: bytes, k: int) -> bytes:
        """What order k's latent noise is drawn by (`keyed.normal`)."""
        return self._key("noise", content, k)

    def _key(self, what: str, content: bytes, k: int) -> bytes:
        """A key that nothing else draws by: orders.py names its own otherwise."""
        return f"{what}:{self.seed}:{k}:".encode() + content
