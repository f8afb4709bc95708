"""Which of a sample's members, or of a table's columns, is the picture to race."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anytime_cls.pixels.decode import EXTENSIONS

_ENDINGS = {ending[1:] for ending in EXTENSIONS}
_CALLED = {"image", "img", "picture", "photo", *_ENDINGS}
_OTHERS = {
    "mask", "masks", "depth", "disparity", "seg", "segmentation", "label", "labels", "annotation", "gt",
    "normal", "normals", "edge", "edges", "flow", "alpha", "matte", "thumb", "thumbnail",
}  # fmt: skip


def picture(names: Iterable[str]) -> str | None:
    """The one that is called so ("jpg", "png", "image", "image.webp", ...), else the only one.

    One that is called a mask, a depth and the like is none. None if there is no picture; ValueError, naming
    them, if several are left and nothing says which.
    """
    there = [name for name in names if not _OTHERS & {*re.split(r"[\W_]+", name.lower())}]
    best = [name for name in there if _stem(name) in _CALLED] or there
    if len(best) > 1:
        shown = ", ".join(best[:5]) + (f", ... ({len(best)} in all)" if len(best) > 5 else "")
        raise ValueError(f"several may be the picture: {shown}; call one 'image' or 'jpg'")
    return best[0] if best else None


def _stem(name: str) -> str:
    stem, _, ending = name.lower().rpartition(".")
    return stem if stem and ending in _ENDINGS else name.lower()
