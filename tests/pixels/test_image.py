"""Pictures made the model's: the crop equal to the reference byte for byte, the pixels, the content key."""

import hashlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from image_data import PATIENT, SIDES, noise, saved
from PIL import Image

from anytime_cls.pixels import decode as module
from anytime_cls.pixels.crops import center_crop, content_key, to_pixels
from anytime_cls.pixels.decode import decode

PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13  # see _resize
GOLDEN = Path(__file__).parents[1] / "golden" / "center_crop.npz"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "center_crop.npz"

# ---- the crop


def adm(picture: Image.Image, size: int) -> np.ndarray:
    """The published algorithm, word for word, in Pillow's own order of passes and on strips of any length."""
    while min(*picture.size) >= 2 * size:
        picture = picture.resize([x // 2 for x in picture.size], resample=Image.Resampling.BOX)
    scale = size / min(*picture.size)
    picture = picture.resize([round(x * scale) for x in picture.size], Image.Resampling.BICUBIC)
    whole = np.array(picture)
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    return whole[top : top + size, left : left + size]


@pytest.mark.parametrize("path", [GOLDEN, SHARED], ids=["shipped", "shared"])
def test_crop_equals_the_reference_byte_for_byte(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not here: the full golden set lives outside the repository")
    golden = np.load(path)
    compared = 0
    for name in golden.files:
        if name.startswith("crop_"):
            _, index, size = name.split("_")
            got = np.asarray(center_crop(Image.fromarray(golden[f"image_{index}"]), int(size)))
            np.testing.assert_array_equal(got, golden[name])
            compared += 1
    assert compared >= 4


@PATIENT
@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 99))
def test_crop_equals_the_algorithm_at_every_size(height: int, width: int, size: int, seed: int) -> None:
    picture = Image.fromarray(noise(height, width, seed))
    assume(PILLOW_13 or height < 1.5 * width)
    np.testing.assert_array_equal(np.asarray(center_crop(picture, size)), adm(picture, size))


def test_crop_of_tall_pictures_is_the_same_with_every_pillow() -> None:
    tall = [(400, 150), (1203, 300), (90, 31)]  # the golden set has one such picture, too large to ship
    crops = b"".join(center_crop(Image.fromarray(noise(*shape)), 32).tobytes() for shape in tall)
    assert (
        hashlib.sha256(crops).hexdigest()
        == "8124c772794072cdfd0aaed5272ca2dd59d0845514e43f7309c30daadb2095cd"
    )


@pytest.mark.parametrize("width", [3000, 3001, 3002, 3003])
@pytest.mark.parametrize(
    "turn",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not PILLOW_13, reason="Pillow < 13 orders its passes otherwise")
        ),
    ],
)
def test_a_strip_with_its_ends_cut_off_keeps_its_centre(width: int, turn: bool) -> None:
    def both(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        picture = Image.fromarray(strip.transpose(1, 0, 2) if turn else strip)
        return np.asarray(center_crop(picture, 32)), adm(picture, 32)

    np.testing.assert_array_equal(*both(noise(16, width)))  # 16 to 32 is a whole ratio: nothing moves
    slope = np.clip(130 + 3.5 * (np.arange(width) - width / 2), 0, 255).astype(np.uint8)
    got, want = both(np.repeat(np.broadcast_to(slope, (17, width))[..., None], 3, 2))
    assert np.ptp(want) > 50  # 1.9 grey levels to a pixel, so one pixel's shift is at most 3
    assert np.abs(got.astype(int) - want).max() <= 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (10, 20000), (2, 2), (3, 301), (700, 699)])
def test_crop_of_odd_shapes_is_square_and_keeps_a_flat_colour(shape: tuple[int, int]) -> None:
    flat = Image.new("RGB", shape, (9, 99, 199))
    got = np.asarray(center_crop(flat, 256))
    assert got.shape == (256, 256, 3) and (got == (9, 99, 199)).all()


def test_a_long_strip_makes_no_vast_image(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    resize = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        made.append(size[0] * size[1])
        return resize(self, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", spy)
    for size in ((1, 300_000), (300_000, 1)):
        center_crop(Image.new("RGB", size), 256)
        assert made and max(made) <= module.PANORAMA * 256 * 256


def test_crop_refuses_what_it_would_get_wrong() -> None:
    with pytest.raises(ValueError, match="decode"):
        center_crop(Image.new("P", (8, 8)), 4)
    with pytest.raises(ValueError, match="size"):
        center_crop(Image.new("RGB", (8, 8)), 0)


# ---- pixels and key


def test_pixels_are_the_float32_arithmetic_of_the_reference() -> None:
    every = np.arange(768, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)
    picture = Image.fromarray(every)
    unit = every.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    half = np.float32(0.5)
    for got, want in [
        (to_pixels(picture, 16), (unit - half) / half),
        (to_pixels(picture, 16, (0.0, 1.0)), unit),
    ]:
        assert got.dtype == np.float32 and got.shape == (3, 16, 16) and got.flags.c_contiguous
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(to_pixels(picture, 16, (2.0, 6.0)), unit * 4 + 2, rtol=1e-6)
    with pytest.raises(ValueError, match="rise"):
        to_pixels(picture, 16, (1.0, 1.0))


def test_pixels_are_those_of_the_crop() -> None:
    picture = Image.fromarray(noise(50, 70))
    want = np.asarray(center_crop(picture, 8)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(to_pixels(picture, 8, (0, 1)), want, atol=1e-7)


def test_content_key_is_fixed_for_ever_and_by_content_only() -> None:
    array = noise(8, 8)
    key = content_key(array)
    # A change here changes every image's orders.
    assert key.hex() == "5f24c146e4837c6c9d06897daee76587b653fd898f3da76cbb1b85d2cfed80e0"
    assert key == content_key(Image.fromarray(array)) == content_key(decode(saved(decode(array), "PNG")))
    assert key == content_key(np.asfortranarray(array))
    other = array.copy()
    other[3, 3, 1] ^= 1
    assert len({key, content_key(other), content_key(array.reshape(4, 16, 3)), content_key(array[:4])}) == 4
    for bad in (array[:, :, 0], array.astype(np.float32), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            content_key(bad)  # type: ignore[arg-type]
