"""Pictures as they come: every kind of file, arrays, every way to be broken."""

import gc
import io
import os
import struct
import threading
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_data import CORNERS, GREY, PATIENT, SIDES, noise, pixels, png, png16, refused, saved
from PIL import Image, ImageOps

from anytime_cls.pixels import limits
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import ImageError, decode

# ---- every kind of file


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_files_come_back_as_they_were(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.of_any_name"
    path.write_bytes(saved(Image.fromarray(CORNERS), kind, **({"lossless": True} if kind == "WEBP" else {})))
    with open(path, "rb") as file, Image.open(path) as opened:
        for source in (path, str(path), path.read_bytes(), file, opened):
            np.testing.assert_array_equal(pixels(source), CORNERS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_files_come_back_nearly(kind: str) -> None:
    blurred = np.asarray(Image.fromarray(CORNERS).resize((96, 64), Image.Resampling.BICUBIC))
    got = pixels(saved(Image.fromarray(blurred), kind, quality=95))
    assert np.abs(got.astype(int) - blurred).mean() < 6


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "RGBa", "RGBX"])
def test_every_mode_of_an_opaque_picture(mode: str) -> None:
    source = Image.fromarray(CORNERS)
    source = source.convert("RGBA").convert("RGBa") if mode == "RGBa" else source.convert(mode)
    grey = mode in ("1", "L", "LA")
    want = np.asarray(Image.fromarray(CORNERS).convert("L").convert("RGB")) if grey else CORNERS
    if mode == "1":
        assert set(np.unique(pixels(source))) == {0, 255}
    else:
        assert np.abs(pixels(source).astype(int) - want).max() <= {"YCbCr": 2, "HSV": 3}.get(mode, 0)


def test_adobe_cmyk_jpeg_is_not_a_negative() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink: no cyan
    data = saved(cmyk, "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(pixels(data).astype(int) - (255, 0, 0)).max() <= 3


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, (255, 0, 128)
    half = round((200 * 128 + 255 * 127) / 255), round(255 * 127 / 255), round(255 * 127 / 255)
    want = np.array([[(200, 0, 0), (255, 255, 255), half]])
    for source in (rgba, saved(Image.fromarray(rgba), "PNG"), saved(Image.fromarray(rgba), "TIFF")):
        assert np.abs(pixels(source).astype(int) - want).max() <= 1
    grey = Image.fromarray(rgba).convert("LA")
    assert (pixels(saved(grey, "PNG"))[0, 1] == 255).all() and (pixels(grey)[0, 1] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("form", ["index", "bytes"])
def test_palette_with_a_transparent_colour(kind: str, form: str) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    alpha = 1 if form == "index" or kind == "GIF" else b"\xff\x00"
    got = pixels(saved(picture, kind, transparency=alpha))
    assert got.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_one_transparent_colour_in_rgb_and_grey() -> None:
    rgb = saved(Image.fromarray(CORNERS), "PNG", transparency=(0, 255, 0))
    want = CORNERS.copy()
    want[:8, 12:] = 255
    np.testing.assert_array_equal(pixels(rgb), want)
    grey = pixels(saved(Image.fromarray(GREY), "PNG", transparency=7))
    assert (grey.reshape(-1, 3)[7] == 255).all() and (grey.reshape(-1, 3)[8] == 8).all()


def test_16_bit_grey_keeps_its_high_byte_and_agrees_with_16_bit_rgb() -> None:
    values = np.random.default_rng(1).integers(0, 65536, (8, 9)).astype(np.uint16)
    want = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    ppm = b"P5 9 8 65535\n" + values.astype(">u2").tobytes()
    for source in (
        png16(values, 0),
        saved(Image.fromarray(values), "PNG"),
        saved(Image.fromarray(values), "TIFF"),
        png16(np.repeat(values[..., None], 3, 2), 2),
        ppm,
        Image.fromarray(values),
    ):
        np.testing.assert_array_equal(pixels(source), want)


def test_16_bit_grey_with_alpha_or_a_transparent_value() -> None:
    opaque = png16(np.array([[[0x8000, 0xFFFF], [0x8000, 0]]]), 4)
    assert pixels(opaque)[0, :, 0].tolist() == [0x80, 255]
    keyed = png16(np.array([[1000, 40000]]), 0, (b"tRNS", struct.pack(">H", 1000)))
    assert pixels(keyed)[0, :, 0].tolist() == [255, 40000 >> 8]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 17.4, 255.0]], np.float32), [0, 17, 255]),
        (np.array([[0.0, 32896.0, 65535.0]], np.float32), [0, 128, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[3, 77, 255]], np.int32), [3, 77, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-5, 0, 100_000]], np.int32), [0, 0, 255]),
        (np.array([[0, 1, 0]], np.int32), [0, 1, 0]),
        (np.array([[-7, -7, -7]], np.int32), [0, 0, 0]),
    ],
)
def test_wide_grey_is_scaled_by_the_range_it_fills(values: np.ndarray, want: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (Image.fromarray(values), saved(Image.fromarray(values), "TIFF")):
            assert pixels(source)[0, :, 0].tolist() == want


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_grey_that_is_not_numbers_is_refused(bad: float) -> None:
    assert "NaN" in refused(Image.fromarray(np.array([[0.5, bad]], np.float32)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    assert (pixels(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    upright = Image.fromarray(CORNERS)
    undo = {6: 8, 8: 6}.get(orientation, orientation)  # lays the upright picture as a turned camera would
    exif = Image.Exif()
    exif[0x0112] = undo
    tagged = upright.copy()
    tagged.info["exif"] = exif.tobytes()
    exif[0x0112] = orientation
    stored = ImageOps.exif_transpose(tagged)
    options = (
        {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    )
    data = saved(stored, kind, exif=exif, **options)
    out = decode(data)
    assert out.size == (24, 16)
    assert np.abs(np.asarray(out).astype(int) - CORNERS).mean() < (3 if kind == "JPEG" else 0.01)
    np.testing.assert_array_equal(pixels(out), np.asarray(out))  # decoding the result does not turn it again
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(data))), np.asarray(out))
    assert not out.info and not out.getexif()


def test_orientation_and_alpha_and_16_bits_together() -> None:
    rgba = np.full((2, 3, 4), 255, np.uint8)
    rgba[0, 0] = 0, 0, 0, 0
    rgba[1, 2, :3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    got = pixels(saved(Image.fromarray(rgba), "PNG", exif=exif))
    assert got.shape == (3, 2, 3) and got.min(2).tolist() == [[255, 255], [255, 255], [0, 255]]
    wide = np.array([[0, 65535], [0, 0], [0, 0]], np.uint16)
    got = pixels(saved(Image.fromarray(wide), "PNG", exif=exif))
    assert got[..., 0].tolist() == [[0, 0, 0], [0, 0, 255]]


def test_broken_exif_beside_sound_pixels_is_ignored() -> None:
    data = saved(Image.fromarray(CORNERS), "PNG", exif=b"Exif\0\0garbage")
    np.testing.assert_array_equal(pixels(data), CORNERS)


@PATIENT
@given(st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"]), SIDES, SIDES)
def test_any_mode_at_any_size_decodes_to_its_size(mode: str, width: int, height: int) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.zeros((height, width), np.uint16))
    else:
        picture = Image.fromarray(noise(height, width)).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    for source in (picture, saved(picture, kind)):
        out = decode(source)
        assert out.size == (width, height) and out.mode == "RGB"
        assert center_crop(out, 8).size == (8, 8)


# ---- arrays


def test_arrays() -> None:
    np.testing.assert_array_equal(pixels(CORNERS), CORNERS)
    np.testing.assert_array_equal(pixels(CORNERS[::-1, ::2]), CORNERS[::-1, ::2])  # not contiguous
    for grey in (GREY, GREY[..., None]):
        np.testing.assert_array_equal(pixels(grey), np.repeat(GREY[..., None], 3, 2))
    assert pixels(np.zeros((1, 1), np.uint8)).tolist() == [[[0, 0, 0]]]


def test_the_picture_does_not_share_memory_with_its_array() -> None:
    array = CORNERS.copy()
    out = decode(array)
    array[:] = 0
    np.testing.assert_array_equal(np.asarray(out), CORNERS)


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((3, 32, 32), np.uint8), "[3, 32, 32]"),
        (np.zeros((4, 4, 2), np.uint8), "[4, 4, 2]"),
        (np.zeros((2, 4, 4, 3), np.uint8), "[2, 4, 4, 3]"),
        (np.zeros(4, np.uint8), "[4]"),
        (np.zeros((0, 4, 3), np.uint8), "[0, 4, 3]"),
        (np.zeros((), np.uint8), "[]"),
    ],
)
def test_arrays_that_are_not_pictures_are_refused(array: np.ndarray, word: str) -> None:
    assert word in refused(array)


# ---- what cannot be read


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.jpg")
    assert "folder" in refused(tmp_path)
    assert "opened" in refused("a\0b.jpg")
    assert "opened" in refused("x" * 5000)
    for nothing in (3, None, ["a.jpg"]):
        assert type(nothing).__name__ in refused(nothing)


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(saved(Image.fromarray(CORNERS), "PNG"))
    if os.geteuid() == 0:  # root reads everything: let open say what it would say to others

        def shut(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", shut)
    path.chmod(0)
    assert "permission" in refused(path)


def test_files_that_are_not_images(tmp_path: Path) -> None:
    for data, word in [
        (b"", "empty"),
        (b"hello, world\n" * 9, "not an image"),
        (b"\n <!DOCTYPE html><html>404</html>", "web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n", "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "not an image",
        ),  # no Ghostscript
        (b"\xff\xd8\xff", "not an image"),
        (bytes(range(256)) * 4, "not an image"),
    ]:
        path = tmp_path / "file.jpg"
        path.write_bytes(data)
        assert word in refused(path) and word in refused(data) and word in refused(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_files_cut_short_are_refused(kind: str) -> None:
    data = saved(Image.fromarray(noise(64, 64)), kind)
    for share in (0.3, 0.6, 0.9):
        refused(data[: int(len(data) * share)])
    assert decode(data).size == (64, 64)


def test_file_objects_that_do_not_give_bytes(tmp_path: Path) -> None:
    assert "rb" in refused(io.StringIO("text"))
    closed = io.BytesIO(b"x")
    closed.close()
    assert "read" in refused(closed)


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    data = saved(Image.fromarray(CORNERS), "PNG")
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(pixels(path), CORNERS)
    writer.join()


def test_decompression_bombs_are_refused_before_decoding() -> None:
    assert "too large" in refused(png(60_000, 60_000, 8, 2, b""))  # only the header is there
    assert "too large" in refused(png(13_378, 13_377, 8, 2, b""))  # just above the limit
    assert "cut short" in refused(png(13_377, 13_377, 1, 0, b""))  # just below it


def test_between_pillows_warning_and_the_limit_there_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # Pillow warns above 300 pixels; CORNERS has 384
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pixels(saved(Image.fromarray(CORNERS), "PNG")), CORNERS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a caller who lifted Pillow's limit still has ours
    monkeypatch.setattr(limits, "MAX_PIXELS", 300)
    assert "300" in refused(saved(Image.fromarray(CORNERS), "PNG"))
    assert "300" in refused(CORNERS) and "300" in refused(Image.fromarray(CORNERS))


def test_an_image_without_pixels_is_refused() -> None:
    assert "0 x 5" in refused(Image.new("RGB", (0, 5)))


def test_a_damaged_tiff_prints_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    whole = saved(Image.new("RGB", (64, 64), "red"), "TIFF", compression="tiff_lzw")
    assert "broken" in refused(whole[:8] + b"\xfb" * 32 + whole[40:]) and not capfd.readouterr().err


def test_no_handle_is_left_open_and_no_warning_escapes(tmp_path: Path) -> None:
    good = tmp_path / "good.tif"
    good.write_bytes(saved(Image.fromarray(CORNERS), "TIFF"))
    short = tmp_path / "short.tif"
    short.write_bytes(good.read_bytes()[:-40])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for path in (good, short, text):
            try:
                decode(path).load()
            except ImageError:
                assert path != good
        gc.collect()
        after = len(os.listdir("/proc/self/fd")) if before else 0
    assert before == after and not caught


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    data = saved(Image.fromarray(noise(64, 64)), "PNG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


SEEDS = [
    saved(Image.fromarray(CORNERS).convert("P" if kind == "GIF" else "RGB"), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
]


@settings(PATIENT, max_examples=300)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4)), max_size=6))
def test_a_damaged_file_gives_a_picture_or_an_image_error(
    data: bytes, damage: list[tuple[int, bytes]]
) -> None:
    broken = bytearray(data)
    for place, new in damage:
        place %= len(broken)
        broken[place : place + len(new)] = new
    try:
        with patch.object(limits, "MAX_PIXELS", 100_000):  # a damaged header may claim a slow gigabyte
            out = decode(bytes(broken))
    except ImageError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert out.mode == "RGB" and min(out.size) > 0


@PATIENT
@given(st.binary(max_size=300))
def test_any_bytes_give_a_picture_or_an_image_error(data: bytes) -> None:
    try:
        assert decode(data).mode == "RGB"
    except ImageError as error:
        assert str(error) and "\n" not in str(error)
