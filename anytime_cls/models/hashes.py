"""SHA-256 of weights, remembered by path, size and time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from anytime_cls.files import cache_folder, replace_file
from anytime_cls.models.card import ModelError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, read now."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file's content, computed once for its place, size and time of change.

    Hashing a model of over a gigabyte takes seconds. Kept in $XDG_CACHE_HOME/anytime-cls/sha256.json. Raises
    ModelError if the file cannot be read.
    """
    try:
        stat, place = path.stat(), str(path.resolve())
        key, known = [stat.st_size, stat.st_mtime_ns], _read_digests()
        entry = known.get(place)
        if isinstance(entry, list) and entry[:2] == key and len(entry) == 3:
            return str(entry[2])
        digest = file_sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    remember_sha256(path, digest)
    return digest


def remember_sha256(path: Path, digest: str) -> None:
    """Keep a hash for `cached_sha256`, if the cache can be written."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        known = _read_digests() | {str(path.resolve()): [stat.st_size, stat.st_mtime_ns, digest]}
        target = _digests_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, json.dumps(known, indent=0).encode())


def _digests_file() -> Path:
    return cache_folder() / "sha256.json"


def _read_digests() -> dict[str, Any]:
    try:
        known = json.loads(_digests_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
