"""Files that are there whole or not at all: written under another name, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to; it becomes `path` at the end, and goes if anything goes wrong.

        with replacing("numbers.csv") as temporary:
            temporary.write_text(text)

    durable: synced to the disk before it takes the name, and the name after it, so that a power cut costs
    neither the old file nor the new one. The block's errors pass through, an OSError naming `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.absolute().parent)
    except OSError as error:
        if error.filename in (str(temporary), temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def cache_folder() -> Path:
    """Where this user's calibrations, hashes and copies are kept: XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "anytime-cls"


def replace_file(path: str | Path, content: bytes | memoryview, durable: bool = False) -> None:
    """Writes a file whole or not at all; OSError, naming `path`, if it cannot be."""
    with replacing(path, durable) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """A file, or a folder's renames, to the disk; nothing where the system cannot."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
