"""Made-up pictures and files of them that the image tests decode."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from anytime_cls.pixels.decode import ImageError, decode

# Four corners of different colours: any turn, flip or channel swap shows.
CORNERS = np.zeros((16, 24, 3), np.uint8)
CORNERS[:8, :12], CORNERS[:8, 12:] = (255, 0, 0), (0, 255, 0)
CORNERS[8:, :12], CORNERS[8:, 12:] = (0, 0, 255), (255, 255, 0)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
# A busy machine is not a failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIDES = st.integers(1, 90)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for the kinds that Pillow reads but does not write. rows: with filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def png16(values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, colour, rows, *chunks)


def pixels(source: object) -> np.ndarray:
    out = decode(source)  # type: ignore[arg-type]
    assert out.mode == "RGB"
    return np.asarray(out)


def refused(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(source)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 250
    return text
