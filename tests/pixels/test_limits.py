"""Pictures that would take much memory or time: refused before they are decoded, naming the limit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from anytime_cls.pixels import limits
from anytime_cls.pixels.decode import ImageError, decode
from anytime_cls_cli.main import main


@pytest.fixture(autouse=True)
def own_limit(monkeypatch):
    """10,000 pixels of 8-bit RGB."""
    monkeypatch.setenv(limits.VARIABLE, "10000")


def saved(mode: str, kind: str, side: int = 80, **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **options)
    return file.getvalue()


def said(data: bytes) -> str:
    with pytest.raises(ImageError) as error:
        decode(data)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("mode", "kind", "most"), [
    ("RGBA", "PNG", 5000), ("LA", "PNG", 5000), ("I;16", "PNG", 5000), ("I", "TIFF", 2500),
    ("F", "TIFF", 2500), ("I;16", "TIFF", 5000), ("RGB", "TIFF", 5000), ("RGB", "WEBP", 5000),
    ("RGB", "JPEG2000", 2500),
])  # fmt: skip
def test_modes_and_formats_that_take_more_have_fewer_pixels(mode, kind, most):
    if kind.upper() not in Image.SAVE and not Image.init() and kind.upper() not in Image.SAVE:
        pytest.skip(f"no {kind} here")
    data = saved(mode, kind)
    assert f"80 x 80 pixels, not 1 to {most:,} in all of such a" in said(data) and "--max-pixels" in said(
        data
    )
    assert decode(saved(mode, kind, side=49)).size == (49, 49)
    assert decode(saved("RGB", "PNG")).size == (80, 80)


def test_the_limit_can_be_raised(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(limits, "MAX_PIXELS", 2000)
    assert decode(saved("RGB", "PNG")).size == (80, 80)  # Pillow's own limit gives way to ours
    monkeypatch.setenv(limits.VARIABLE, "nonsense")
    assert limits.max_pixels() == limits.MAX_PIXELS


def test_the_command_raises_it(tmp_path, tiny_model_dir, capsys):
    (tmp_path / "x.png").write_bytes(saved("RGB", "PNG", side=120))
    command = ["classify", str(tmp_path / "x.png"), "--model", str(tiny_model_dir), "--device", "cpu", "-q",
               "--budget", "4passes"]  # fmt: skip
    assert main(command) == 1
    assert (
        "120 x 120 pixels, not 1 to 10,000 in all: scale it, or raise --max-pixels" in capsys.readouterr().out
    )
    assert main([*command, "--max-pixels", "20000"]) == 0


def test_a_ppm_that_is_decoded_slowly_has_fewer_pixels():
    for head in (b"P6 60 60 254\n", b"P3 60 60 255\n"):
        assert "60 x 60 pixels, not 1 to 55 in all" in said(head + b"0 " * 20_000)
    assert decode(b"P6 60 60 255\n" + bytes(60 * 60 * 3)).size == (60, 60)
    assert decode(b"P6 7 7 254\n" + bytes(147)).size == (7, 7)


def test_a_ppm_header_has_a_limit():
    comment = b"#" + b"x" * 10_000_000 + b"\n"
    for data in (b"P6\n" + comment + b"2 2 255\n" + bytes(12), b"P5 2 " + b" " * 10_000_000 + b"2 255\n1234"):
        assert "a header of over 65,536 bytes" in said(data)
    assert decode(b"P6\n# made by hand\n2 2\n255\n" + bytes(12)).size == (2, 2)


def test_a_jpeg_of_endless_scans_is_refused():
    data = saved("L", "JPEG", progressive=True)
    at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    for more, refused in ((5, False), (30, True), (2000, True)):
        scans = data[:end] + data[at:end] * more + data[end:]
        if refused:
            assert "scans, which would take too long" in said(scans)
        else:
            assert decode(scans).size == (80, 80)
    small = saved("L", "JPEG", side=8, progressive=True)
    at, end = small.rindex(b"\xff\xda"), small.rindex(b"\xff\xd9")
    assert decode(small[:end] + small[at:end] * 60 + small[end:]).size == (8, 8)


def test_a_pipe_without_an_end_is_refused():
    class Endless(io.RawIOBase):
        def read(self, size=-1):
            assert 0 < size <= 40_001
            return bytes(size)

    with pytest.raises(ImageError, match="over 40,000 bytes without an end"):
        decode(Endless())


def test_ordinary_pictures_are_decoded_as_ever():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert (np.asarray(decode(file.getvalue())) == pixels).all()
