"""What a picture may take before it is decoded: memory by its mode and format, scans, a header's bytes.

One number raises all of them: pixels of an ordinary 8-bit picture, by `ANYTIME_CLS_MAX_PIXELS` (which
`--max-pixels` sets, so that workers have it too).
"""

from __future__ import annotations

import os
import re
from typing import IO

from PIL import Image

MAX_PIXELS = 178_956_970  # the largest picture decoded; above it Pillow, too, sees a decompression bomb
VARIABLE = "ANYTIME_CLS_MAX_PIXELS"
HEADER = 1 << 16  # bytes of a PPM's header, which is read byte by byte
SCANS = 20  # of a JPEG; progressive ones have about 10. More are decoded while they take no longer than
MANY_SCANS = 100  # three of the largest pictures, and never more than these
_BYTES = 8  # a pixel of an RGB picture: decoded, and once more as it is handed on
_MODES = {
    "I": 32,
    "F": 32,
    "RGBA": 16,
    "LA": 16,
    "PA": 16,
    "La": 16,
    "RGBa": 16,
}  # docs/reliability.md has what was measured
_FORMATS = {"WEBP": 16, "TIFF": 16, "AVIF": 24, "HEIF": 24, "JPEG2000": 32}
_SLOW = 180 * _BYTES  # a PPM that Pillow decodes in Python: seconds for a million pixels


class LimitError(ValueError):
    """A picture past a limit. str(error) is one line: which, and what to do."""


def max_pixels() -> int:
    """Pixels of the largest 8-bit picture that is decoded."""
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isdecimal() and int(text) > 0 else MAX_PIXELS


def allow_raised() -> None:
    """Lifts Pillow's own limit where ours was raised above it: ours is looked at next."""
    if max_pixels() > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = None


def bytes_a_pixel(image: Image.Image) -> int:
    """What decoding an opened picture, and making it 8-bit RGB, takes at most."""
    tiles = getattr(image, "tile", ())
    if image.format == "PPM" and tiles and tiles[0][0] in ("ppm", "ppm_plain"):
        return _SLOW
    mode = 16 if image.mode.startswith("I;") else _MODES.get(image.mode, _BYTES)
    return max(mode, _FORMATS.get(image.format or "", 0), 16 if image.has_transparency_data else 0)


def check_pixels(image: Image.Image) -> None:
    """Raises LimitError for an opened picture that is too large for its mode and format."""
    width, height = image.size
    each = bytes_a_pixel(image)
    most = max_pixels() * _BYTES // each
    if not 0 < width * height <= most:
        kind = "" if each == _BYTES else f" of such a {image.format or 'picture'} ({image.mode})"
        raise LimitError(
            f"{width:,} x {height:,} pixels, not 1 to {most:,} in all{kind}: scale it, or raise --max-pixels"
        )


def check_header(head: bytes, file: IO[bytes]) -> None:
    """Raises LimitError for a PPM whose header goes on for too long. The file is left where it was."""
    if re.match(rb"P[1-6]\s", head) is None:
        return
    at = file.tell()
    file.seek(0)
    text = re.sub(rb"#[^\r\n]*([\r\n]|\Z)", b" ", file.read(HEADER))
    file.seek(at)
    if len(text.split(None, 4)) < 4 and len(head) >= 256:
        raise LimitError(f"a header of over {HEADER:,} bytes: save it again, without comments")


def check_scans(image: Image.Image, file: IO[bytes]) -> None:
    """Raises LimitError for a JPEG of more scans than pictures have: each is decoded over all its pixels."""
    if image.format not in ("JPEG", "MPO"):
        return
    at, scans, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(at)
    pixels = image.size[0] * image.size[1]
    if scans > MANY_SCANS or (scans > SCANS and scans * pixels > 3 * max_pixels()):
        raise LimitError(f"a JPEG of {scans:,} scans, which would take too long: save it again")


def read_all(file: IO[bytes]) -> bytes:
    """What is left of a pipe. Raises LimitError before it takes more than the largest picture's bytes."""
    most = 4 * max_pixels()
    data = file.read(most + 1)
    if len(data) > most:
        raise LimitError(f"over {most:,} bytes without an end: give a file, or raise --max-pixels")
    return data
