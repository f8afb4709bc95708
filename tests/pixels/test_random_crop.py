"""Random crops: the reference's transform byte for byte, its distribution, and crops of reduced pictures."""

import hashlib
import math
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from image_data import PATIENT, SIDES, noise
from PIL import Image

from anytime_cls.pixels.crops import center_crop, crop_sides, random_crop, reduced
from anytime_cls.pixels.decode import decode

PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13  # see crops._resize
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
WORDS = st.tuples(*[st.integers(0, 2**64 - 1)] * 3)


class Draws:
    """`random.randrange` with the draws decided beforehand, and what was asked for."""

    def __init__(self, words: tuple[int, ...]):
        self.words, self.ranges = list(words), []

    def __call__(self, low: int, high: int) -> int:
        self.ranges.append((low, high))
        return low + self.words.pop(0) % (high - low)


def reference(picture: Image.Image, size: int, randrange: Draws) -> np.ndarray:
    """RandAR/dataset/augmentation.py of github.com/ziqipang/RandAR (MIT): `random_crop_arr`."""
    side = randrange(math.ceil(size / 1.0), math.ceil(size / 0.8) + 1)
    while min(*picture.size) >= 2 * side:
        picture = picture.resize([x // 2 for x in picture.size], resample=Image.Resampling.BOX)
    scale = side / min(*picture.size)
    picture = picture.resize([round(x * scale) for x in picture.size], Image.Resampling.BICUBIC)
    whole = np.array(picture)
    top = randrange(0, whole.shape[0] - size + 1)
    left = randrange(0, whole.shape[1] - size + 1)
    return whole[top : top + size, left : left + size]


@PATIENT
@given(SIDES, SIDES, st.integers(1, 40), WORDS, st.integers(0, 99))
def test_equals_the_reference_at_every_size(
    height: int, width: int, size: int, words: tuple[int, ...], seed: int
) -> None:
    assume(PILLOW_13 or height < 1.5 * width)
    picture = Image.fromarray(noise(height, width, seed))
    got = np.asarray(random_crop(picture, size, words))
    np.testing.assert_array_equal(got, reference(picture, size, Draws(words)))


def test_the_reference_code_itself_gave_these_bytes() -> None:
    """`random_crop_arr` run on noise(391, 500, 3), its draws decided: 256 pixels at s = 256, 320 and 271."""
    picture = Image.fromarray(noise(391, 500, 3))
    words = [(0, 0, 0), (64, 64, 144), (2**63 + 7, 123456789, 987654321)]
    crops = b"".join(random_crop(picture, 256, w).tobytes() for w in words)
    want = "d7c88784498b4c49b6bbb3a1c2c0e350ef1de8b2465eec168d8c4a198e59882b"
    assert hashlib.sha256(crops).hexdigest() == want


def test_draws_the_same_ranges_as_the_reference() -> None:
    assert crop_sides(256) == (256, 320) and crop_sides(32) == (32, 40) and crop_sides(33) == (33, 42)
    for words, side in (((0, 0, 0), 256), ((64, 0, 0), 320), ((65, 0, 0), 256)):
        draws = Draws(words)
        reference(Image.fromarray(noise(300, 400)), 256, draws)
        assert draws.ranges[0] == (256, 321)
        assert draws.ranges[1:] == [(0, side - 255), (0, round(400 * side / 300) - 255)]


def test_shows_the_share_of_the_picture_that_it_should() -> None:
    """A ramp along both sides tells where a crop lies: its ends span 0.8 to 1.0 of the short side."""
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None], (240, 240))
    picture = Image.fromarray(np.stack([ramp, ramp.T, ramp], axis=2))
    rng = np.random.default_rng(0)
    spans, tops = [], []
    for _ in range(300):
        crop = np.asarray(random_crop(picture, 48, [int(w) for w in rng.integers(0, 2**62, 3)])).astype(float)
        spans.append((crop[-1, 24, 0] - crop[0, 24, 0]) / (47 / 48) / 240)
        tops.append((crop[0, 24, 0], crop[24, 0, 1]))
    assert 0.79 < min(spans) < 0.82 and 0.98 < max(spans) < 1.01
    corners = np.array(tops)
    assert corners.max() > 40 and corners.min() < 3  # the far corner of 0.8 is 48 grey levels in
    assert abs(np.corrcoef(corners.T)[0, 1]) < 0.75  # both grow as the crop shrinks, but are drawn apart


@PATIENT
@given(SIDES, SIDES, st.integers(1, 12), WORDS)
def test_a_reduced_picture_has_the_same_crops(
    height: int, width: int, size: int, words: tuple[int, ...]
) -> None:
    picture = Image.fromarray(noise(height, width))
    small = reduced(picture, size)
    assert min(small.size) < 2 * crop_sides(size)[1] or small.size == picture.size
    assert center_crop(small, size).tobytes() == center_crop(picture, size).tobytes()
    assert random_crop(small, size, words).tobytes() == random_crop(picture, size, words).tobytes()


@pytest.mark.parametrize("shape", [(81, 8100), (8100, 81), (17, 1710), (3, 900), (90, 9001)])
def test_a_reduced_strip_has_the_same_crops(shape: tuple[int, int]) -> None:
    """Its ends are cut off before it is halved; halved first, other ends would be."""
    picture = Image.fromarray(noise(*shape))
    for size in (1, 8, 32):
        small = reduced(picture, size)
        for words in ((0, 0, 0), (3, 5, 2**40)):
            assert random_crop(small, size, words).tobytes() == random_crop(picture, size, words).tobytes()
        assert center_crop(small, size).tobytes() == center_crop(picture, size).tobytes()


def test_a_photograph_is_reduced_to_what_its_crops_need() -> None:
    assert reduced(Image.new("RGB", (6000, 4000)), 256).size == (750, 500)
    assert reduced(decode(CAT), 256).size == decode(CAT).size


def test_refuses_what_it_would_get_wrong() -> None:
    picture = Image.new("RGB", (8, 8))
    for words in ((0, 0), (0, 0, -1), ()):
        with pytest.raises(ValueError, match="three integers"):
            random_crop(picture, 4, words)
    with pytest.raises(ValueError, match="decode"):
        random_crop(Image.new("P", (8, 8)), 4, (0, 0, 0))
    with pytest.raises(ValueError, match="size"):
        random_crop(picture, 0, (0, 0, 0))
