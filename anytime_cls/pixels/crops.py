"""An upright picture's crops: the centre, as ADM takes it, or random ones; and pixels for a tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anytime_cls.pixels.decode import PANORAMA, Floats

CROP_SHARES = (0.8, 1.0)  # a random crop's side, as a share of the picture's short side: from, to
RESIZED_AREA = 0.5  # of a resized crop, the least share of the centre crop
RESIZED_RATIO = 4 / 3  # and the greatest of its proportions


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square of an RGB image, scaled to [size, size], as ADM prepared ImageNet.

    Halve with BOX while the short side is >= 2 * size; BICUBIC to short side = size; cut the centre: byte for
    byte `center_crop_arr` of openai/guided-diffusion, which LlamaGen and RandAR kept.

    A picture longer than PANORAMA times its short side, as no photograph is, would be stretched into a vast
    strip only to be cut. Its ends are cut off first: the same content, shifted by less than one output pixel.
    """
    image = _resized(_halved(image, size), size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def random_crop(image: Image.Image, size: int, words: Sequence[int]) -> Image.Image:
    """A random square of an RGB image, scaled to [size, size], as RandAR and the paper's classifier take it.

    The short side is scaled to s, uniform among the whole numbers from size / 1.0 to size / 0.8 (256 to 320
    for 256 pixels), halving with BOX while it is >= 2 * s, then BICUBIC; then any window of size × size is
    equally likely: `random_crop_arr` of ziqipang/RandAR (MIT). So a crop shows 0.8 to 1.0 of the short side.

    words: three integers from 0 that decide s, the top and the left, each modulo its number of choices; for a
    random crop, random ones of 64 bits. Pictures longer than PANORAMA: as in :func:`center_crop`.
    """
    if len(words) != 3 or min(words) < 0:
        raise ValueError(f"a random crop takes three integers from 0, not {list(words)}")
    first, last = crop_sides(size)
    side = first + words[0] % (last - first + 1)
    image = _resized(_halved(image, side), side)
    top, left = words[1] % (image.height - size + 1), words[2] % (image.width - size + 1)
    return image.crop((left, top, left + size, top + size))


def resized_crop(image: Image.Image, size: int, words: Sequence[int]) -> Image.Image:
    """A random rectangle of the centre crop of an RGB image, stretched to [size, size], or its mirror image.

    As torchvision's RandomResizedCrop and RandomHorizontalFlip: its area is uniform from RESIZED_AREA of the
    crop to all of it, its proportions log-uniform from 1 / RESIZED_RATIO to RESIZED_RATIO, its sides cut to
    the crop's, any place equally likely; BILINEAR. It is cut from the centre crop at `size`, not from the
    picture, so that a photograph's is no sharper than what small models are trained on
    (`training.distort.crops`).

    words: five integers of 64 bits that decide area, proportions, left, top and mirroring.
    """
    if len(words) != 5 or not all(0 <= word < 1 << 64 for word in words):
        raise ValueError(f"a resized crop takes five integers from 0 to 2^64 - 1, not {list(words)}")
    area, ratio, x, y, mirror = (word / 2**64 for word in words)
    share = RESIZED_AREA + (1 - RESIZED_AREA) * area
    proportion = RESIZED_RATIO ** (2 * ratio - 1)
    width = size * min(1.0, math.sqrt(share * proportion))
    height = size * min(1.0, math.sqrt(share / proportion))
    left, top = x * (size - width), y * (size - height)
    how, crop = Image.Resampling.BILINEAR, center_crop(image, size)
    # one pass at a time: which of them Pillow runs first has changed, and rounding between them shows it
    crop = crop.resize((size, size), how, (left, 0, left + width, size))
    crop = crop.resize((size, size), how, (0, top, size, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else crop


def crop_sides(size: int) -> tuple[int, int]:
    """The least and the greatest short side that a picture is scaled to before a random crop of `size`."""
    low, high = CROP_SHARES
    return math.ceil(size / high), math.ceil(size / low)


def reduced(image: Image.Image, size: int) -> Image.Image:
    """An RGB image made as small as it can be with all its crops at `size` keeping every byte.

    The halvings that all crops begin with, done once: a caller that crops an image often need not keep a
    whole photograph. (A strip whose ends a crop may cut off comes back as it is: cutting comes first.)
    """
    if 2 * max(image.size) > PANORAMA * min(image.size):
        return image
    return _halved(image, crop_sides(size)[1])


def to_pixels(image: Image.Image, size: int, pixel_range: tuple[float, float] = (-1.0, 1.0)) -> Floats:
    """Centre-crop an RGB image to float32 [3, size, size]; see `scaled`."""
    return scaled(np.asarray(center_crop(image, size)), pixel_range)


def scaled(crop: NDArray[np.uint8], pixel_range: tuple[float, float] = (-1.0, 1.0)) -> Floats:
    """A crop uint8 [S, S, 3] as float32 [3, S, S] with 0..255 mapped to `pixel_range`.

    In float32 and in torchvision's order (ToTensor, then Normalize), so that (-1, 1) is exactly
    (v/255 - 0.5)/0.5, LlamaGen's input, and (0, 1) exactly v/255, MaskGIT's.
    """
    low, high = pixel_range
    if not low < high:
        raise ValueError(f"pixel_range must rise, not {pixel_range}")
    pixels = crop.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean, std = np.float32(-low / (high - low)), np.float32(1 / (high - low))
    return np.ascontiguousarray((pixels - mean) / std)


def content_key(image: Image.Image | NDArray[np.uint8]) -> bytes:
    """SHA-256 (32 bytes) of an RGB image's shape and pixels, a Pillow image or a uint8 array [H, W, 3].

    Taken on the crop that the model sees, it is the picture's identity: its orders are seeded from it, so the
    same pixels get the same orders whatever the path, file format or batch. Changing it changes every result.
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"not uint8 [H, W, 3] but {pixels.dtype} {list(pixels.shape)}")
    return hashlib.sha256(f"{pixels.shape}:".encode() + pixels.tobytes()).digest()


def _halved(image: Image.Image, side: int) -> Image.Image:
    """The ends of a strip cut off, and halved with BOX while the short side is >= 2 * side."""
    if side < 1:
        raise ValueError(f"size must be at least 1, not {side}")
    if image.mode != "RGB":
        raise ValueError(f"the image's mode is {image.mode}, not RGB: decode() it first")
    left, top = (max(extent - PANORAMA * min(image.size), 0) // 2 for extent in image.size)
    if left or top:
        image = image.crop((left, top, image.width - left, image.height - top))
    while min(image.size) >= 2 * side:
        image = _resize(image, image.width // 2, image.height // 2, Image.Resampling.BOX)
    return image


def _resized(image: Image.Image, side: int) -> Image.Image:
    """BICUBIC to short side = side."""
    scale = side / min(image.size)
    return _resize(image, round(image.width * scale), round(image.height * scale), Image.Resampling.BICUBIC)


def _resize(image: Image.Image, width: int, height: int, how: Image.Resampling) -> Image.Image:
    """Image.resize, its two passes in an order of our own: rounding between them shows it, by up to 3 levels.

    Pillow 13 runs the vertical pass first if the height shrinks by over twice what the width does, older ones
    always last. Here all do as 13 does, with which the reference crops were made.
    """
    tall = image.height - height > max(0, 2 * (image.width - width))
    between = (image.width, height) if tall else (width, image.height)
    return image.resize(between, how).resize((width, height), how)
