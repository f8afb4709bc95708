"""Files that are there whole or not at all: written under another name, then renamed."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_KINDS = (
    (stat.S_ISREG, ""), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


class NotRegular(OSError):
    """What is there is no regular file but `what`: "a folder", "a device", ..."""

    def __init__(self, what: str, path: str | os.PathLike[str]):
        self.what = what
        super().__init__(errno.EINVAL, f"it is {what}, not a regular file", os.fspath(path))


def kind(mode: int) -> str:
    """What a `st_mode` is of, for people: "a folder", "a device", ...; empty for a regular file."""
    return next((name for test, name in _KINDS if test(mode)), "a special file")


def regular(path: str | os.PathLike[str]) -> os.stat_result:
    """The status of the regular file that `path` leads to, links followed.

    Nothing is opened, so nothing can hang. Raises NotRegular for whatever else is there, and OSError as
    `os.stat` does (FileNotFoundError for nothing, or a link to nothing).
    """
    found = os.stat(path)
    if what := kind(found.st_mode):
        raise NotRegular(what, path)
    return found


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened to read bytes; it cannot hang, even if a FIFO takes the name meanwhile.

    Raises as `regular`, and OSError as `open`.
    """
    regular(path)  # a look first: opening a device may already do something
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - handed to the caller
    if what := kind(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegular(what, path)
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def destination(path: str | os.PathLike[str]) -> Path:
    """Where a file written to `path` goes: there, or where a link leads, even if nothing is there yet.

    Raises NotRegular if what is there is no regular file, OSError for links in a circle and the like.
    """
    with suppress(FileNotFoundError):
        regular(path)
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


@contextmanager
def replacing(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A file beside `path` to write to; it becomes `path` at the end, and goes if anything goes wrong.

    A link stays, and the file it leads to is replaced. Anything but a regular file is not (NotRegular).

        with replacing("numbers.csv") as temporary:
            temporary.write_text(text)

    durable: synced to the disk before it takes the name, and the name after it, so that a power cut costs
    neither the old file nor the new one. The block's errors pass through, an OSError naming `path`.
    """
    target = destination(path)
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, target)
        if durable:
            sync(target.absolute().parent)
    except OSError as error:
        if error.filename in (str(temporary), temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def cache_folder() -> Path:
    """Where this user's calibrations, hashes and copies are kept: XDG_CACHE_HOME, or ~/.cache.

    Raises FileNotFoundError for a user without a home folder, which some containers have.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "no home folder is known: set XDG_CACHE_HOME") from None
    return Path(base) / "anytime-cls"


def replace_file(path: str | Path, content: bytes | memoryview, durable: bool = False) -> None:
    """Writes a file whole or not at all; OSError, naming `path`, if it cannot be."""
    with replacing(path, durable) as temporary:
        temporary.write_bytes(content)


def lock(path: str | Path) -> IO[str]:
    """Locks a file, made if it is not there, until it is closed or this process ends.

    Raises BlockingIOError if another process has it. Where the file system has no locks, nothing is locked.
    """
    file = open(path, "a")  # noqa: SIM115 - handed to the caller
    try:
        if fcntl:  # lockf, not flock: a forked worker that outlives its run must not hold the lock
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise BlockingIOError from error
    return file


def sync(path: Path) -> None:
    """A file, or a folder's renames, to the disk; nothing where the system cannot."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
