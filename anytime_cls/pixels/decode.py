"""Image files to pixels: decode into upright RGB, crop as the models were trained, name by content.

Token ids are argmins over a codebook: one grey level changes them, so the crop must equal the reference's.
"""

from __future__ import annotations

import ctypes
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from anytime_cls.pixels.limits import (
    LimitError,
    allow_raised,
    check_header,
    check_pixels,
    check_scans,
    read_all,
)

# The formats read. The rest stay shut: EPS would start Ghostscript on a stranger's file, TGA takes noise.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000", "HEIF")
HEIF = find_spec("pillow_heif") is not None  # the extra [heif]
HEIC = frozenset({".heic", ".heif", ".hif"})
PANORAMA = 100  # long side / short side above which the crops first cut the ends off
Floats = NDArray[np.float32]
Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]
_OPENING: dict[type[Exception], str] = {
    FileNotFoundError: "no such file: check the path",
    IsADirectoryError: "a folder, not an image: name the files in it",
    PermissionError: "permission denied: make the file readable",
}
_LOOKS_LIKE = {
    b"ftypheic": "an HEIC photo: pip install pillow-heif, or save it as JPEG",
    b"ftypheix": "an HEIC photo: pip install pillow-heif, or save it as JPEG",
    b"<": "a web page or XML: if it was downloaded, fetch the image again; if it is SVG, save it as PNG",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
}
# catch_warnings changes the whole process: two threads in it at once could leave warnings off for good. And a
# fork while another thread is inside must not leave the child's lock shut.
_QUIET = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_QUIET.acquire, after_in_child=_QUIET.release, after_in_parent=_QUIET.release)


class ImageError(ValueError):
    """A picture that cannot be read. str(error) is one line: the cause and what to do, without the path."""


def decode(source: Source) -> Image.Image:
    """The picture in `source` as an upright 8-bit RGB image, detached from any file.

    source: a path, the bytes of a file, a binary file object (read to its end), a Pillow image, or a uint8
    array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (grey, RGB, RGBA; 0..255).

    Animations and multi-page files give their first frame, a Pillow image its current one. EXIF orientation
    is applied, transparent pixels are laid on white, 16-bit and wider grey is scaled (`_grey8`), and colour
    profiles are ignored, as in the reference preprocessing.

    Raises ImageError, and nothing else, for a source that is missing, empty, broken, too large or no image.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        with _errors():
            return _rgb(source)
    with _opened(source) as file, _errors():
        head = file.read(256)
        check_header(head, file)
        try:
            with Image.open(file, formats=_known()) as image:
                check_pixels(image)
                check_scans(image, file)
                return _rgb(image)
        except UnidentifiedImageError:
            raise ImageError(_not_an_image(head)) from None


@cache
def _known() -> list[str]:
    """The formats that can be read here: not every build of Pillow has all."""
    Image.init()
    _quiet_libtiff()
    if HEIF:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

        register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def _quiet_libtiff() -> None:
    """Keeps libtiff, the copy that comes with Pillow, from printing its own lines on standard error."""
    package = Path(Image.__file__).parent
    for library in (*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


@contextmanager
def _opened(source: Any) -> Iterator[IO[bytes]]:
    """A seekable binary file over a path, bytes or file object; closed again if it was opened here."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        try:
            file = open(source, "rb")  # noqa: SIM115 - closed below; only opening it is guarded here
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            hint = _OPENING.get(type(error), f"cannot be opened ({_one_line(error)}): check the path")
            raise ImageError(hint) from None
        with file:
            yield file if file.seekable() else _read(file)  # a pipe, as from <(curl ...), cannot seek
    elif hasattr(source, "read"):
        yield _read(source)
    else:
        raise ImageError(f"cannot read an image from a {type(source).__name__}: give a path, bytes or array")


def _read(file: Any) -> IO[bytes]:
    try:
        return io.BytesIO(read_all(file))
    except LimitError as error:
        raise ImageError(str(error)) from None
    except (OSError, TypeError, ValueError) as error:  # TypeError: it gave text
        raise ImageError(f"cannot be read ({_one_line(error)}): open it in binary mode ('rb')") from None


@contextmanager
def _errors() -> Iterator[None]:
    """Pillow without its warnings, and with whatever it raises as an ImageError."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        allow_raised()
        try:
            yield
        except ImageError:
            raise
        except LimitError as error:
            raise ImageError(str(error)) from None
        except (Image.DecompressionBombError, MemoryError) as error:
            raise ImageError(f"too large to decode ({_one_line(error)}): scale it down") from None
        except Exception as error:  # on a broken file Pillow's readers raise almost any kind
            raise ImageError(f"broken or cut short ({_one_line(error)}): fetch or save it again") from None


def _not_an_image(head: bytes) -> str:
    if not head:
        return "empty (0 bytes): fetch or save it again"
    for start, what in _LOOKS_LIKE.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start) or head[4:12] == start:
            return f"not an image that can be read but {what}"
    return "not an image that can be read: give JPEG, PNG, WebP, GIF, TIFF or BMP"


def _one_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:160]


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype}: give uint8 values, 0 to 255")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise ImageError(f"an array of shape {list(array.shape)}: give [H, W] or [H, W, 1, 3 or 4]")
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _rgb(image: Image.Image) -> Image.Image:
    """A new upright RGB image without metadata, so that decoding twice turns once."""
    check_pixels(image)
    image.load()
    info = image.info
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey8(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    else:
        image = image.convert("RGB")
    image.info = dict(info)
    with suppress(Exception):  # broken EXIF beside sound pixels
        ImageOps.exif_transpose(image, in_place=True)
        image.getexif().clear()
    image.info = {}
    return image


def _grey8(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float grey as 8-bit grey.

    16 bits keep their high byte: what Pillow does for 16-bit RGB, so that both saves of a grey picture agree,
    and the exact inverse of 8 bits widened. In the wider modes nothing says what white is, so the values do:
    floats within 0..1, anything within 0..255 or 0..65535, or else stretched from the least to the greatest.
    """
    values = np.asarray(image)
    # Pillow scales a PPM of more than 8 bits to 16 bits, in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        grey = values >> 8
    elif not np.isfinite(values).all():
        raise ImageError("holds values that are not numbers (NaN or infinite): save it as 8-bit grey or RGB")
    else:
        black, white = float(values.min()), float(values.max())
        if black >= 0 and white <= 65535:
            unit = image.mode == "F" and white <= 1
            black, white = 0.0, 1.0 if unit else 255.0 if white <= 255 else 65535.0
        grey = np.rint((values - black) / max(white - black, 1e-30) * 255)
    key = image.info.get("transparency")
    if isinstance(key, int):  # PNG's one transparent grey value
        grey = np.where(values == key, 255, grey)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp",
    ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".jp2", ".j2k", ".jpx", *(HEIC if HEIF else ()),
})  # fmt: skip
