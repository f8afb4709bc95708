"""Which files of a folder are pictures to read, and what is said of those that are left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from anytime_cls.files import kind
from anytime_cls.pixels.decode import EXTENSIONS, HEIC, HEIF

_REASONS = 8  # named in a line


def left_out(entry: os.DirEntry[str]) -> str:
    """Why a file that a folder lists is not read, in a word or two: its suffix, or what it is.

    Empty for a picture: a regular file with a picture's suffix. A link to nothing counts as one, too, since
    its error belongs among the results.
    """
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in EXTENSIONS:
        return suffix or "without a suffix"
    try:
        return "" if entry.is_file() else odd(entry.path)
    except OSError:
        return ""


def odd(path: str) -> str:
    """What is at a path that is neither a regular file nor a folder: "device", "socket", ...; else empty."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISDIR(mode) else kind(mode).removeprefix("a ")


def say_left_out(counts: Mapping[str, int]) -> str:
    """How many files had which of `left_out`'s reasons, as one line for people; empty for none."""
    parts = [f"{n:,} {why}" for why, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if len(parts) > _REASONS:
        parts[_REASONS:] = [f"{len(parts) - _REASONS} further kinds"]
    hint = "; pip install pillow-heif reads HEIC" if not HEIF and HEIC & counts.keys() else ""
    return f"left out: {', '.join(parts)}{hint}" if parts else ""
