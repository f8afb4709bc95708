"""Resized crops: rectangles of the centre crop, their distribution, and bytes that are fixed for ever."""

import hashlib

import numpy as np
import pytest
from image_data import noise
from PIL import Image
from scipy.stats import kstest

from anytime_cls.draws.views import ViewSampler
from anytime_cls.engine.encoded import crop_of
from anytime_cls.pixels.crops import RESIZED_AREA, RESIZED_RATIO, center_crop, resized_crop

KEY = hashlib.sha256(b"a picture").digest()
HALF, LAST = 1 << 63, (1 << 64) - 1
WHOLE = [LAST, HALF, 0, 0, LAST]  # all of the area, square, not mirrored


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    red, green = np.meshgrid(np.linspace(0, 250, width), np.linspace(0, 250, height))
    return Image.fromarray(np.stack([red, green, red * 0], axis=2).round().astype(np.uint8))


def test_all_of_the_centre_crop_is_the_centre_crop() -> None:
    picture = Image.fromarray(noise(50, 70, 0))
    centre = np.asarray(center_crop(picture, 32), int)
    assert abs(np.asarray(resized_crop(picture, 32, WHOLE), int) - centre).max() <= 1
    mirrored = np.asarray(resized_crop(picture, 32, [*WHOLE[:4], 0]), int)
    assert abs(mirrored - centre[:, ::-1]).max() <= 1


def test_the_rectangle_is_where_its_words_say() -> None:
    """Half the area, twice 4/3 as wide as high at most, in each corner: read off a ramp."""
    picture = ramp(64, 64)
    width, height = (RESIZED_AREA * RESIZED_RATIO) ** 0.5, (RESIZED_AREA / RESIZED_RATIO) ** 0.5
    for x, y in ((0, 0), (LAST, 0), (0, LAST), (LAST, LAST)):
        found = np.asarray(resized_crop(picture, 64, [0, LAST, x, y, LAST]), float)
        left, top = (1 - width) * (x > 0), (1 - height) * (y > 0)
        red, green = found[:, :, 0].mean(0) / 250, found[:, :, 1].mean(1) / 250
        np.testing.assert_allclose([red[0], red[-1]], [left, left + width], atol=0.03)
        np.testing.assert_allclose([green[0], green[-1]], [top, top + height], atol=0.03)


def test_a_crop_is_of_the_centre_crop_whatever_the_picture_is() -> None:
    """Not of a sharper picture: else a photograph's would be unlike those that models were trained on."""
    picture = Image.fromarray(noise(300, 200, 1))
    words = ViewSampler("resized").crop_words(KEY, 3)
    small = center_crop(picture, 32)
    assert resized_crop(picture, 32, words).tobytes() == resized_crop(small, 32, words).tobytes()


def test_statistics_of_the_draws() -> None:
    """Fixed seeds, so this passes or fails for ever."""
    words = np.array([ViewSampler("resized").crop_words(KEY, k) for k in range(3000)]) / 2.0**64
    assert words.shape == (3000, 5)
    for column in words.T:
        assert kstest(column, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(words.T) - np.eye(5)).max() < 0.08


def test_crops_are_fixed_for_ever() -> None:
    """A change here changes every number measured with resized crops."""
    picture, sampler = Image.fromarray(noise(40, 60, 2)), ViewSampler("resized", seed=3)
    found = b"".join(crop_of(sampler, picture, 32, KEY, k).tobytes() for k in range(4))
    want = "74f63122d48d5ffbdd637b10d27b88bf4ddcfbffaff22bf6eeb94c246afa591d"
    assert hashlib.sha256(found).hexdigest() == want


@pytest.mark.parametrize("words", [[0] * 4, [0] * 6, [0, 0, 0, 0, -1], [0, 0, 0, 0, 1 << 64]])
def test_other_words_are_refused(words: list[int]) -> None:
    with pytest.raises(ValueError, match="five integers"):
        resized_crop(ramp(8, 8), 8, words)
