"""The standard streams and the terminal's size, put right before a command runs. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .errors import Refused


class _Stream:
    """A standard stream that says its name when it cannot be written; without one, it drops the rest.

    So a log whose disk is full does not end a run.
    """

    def __init__(self, stream: Any, name: str = ""):
        self._stream, self._name = stream, name

    def write(self, data: Any) -> Any:
        return self._try(self._stream.write, data)

    def flush(self) -> Any:
        return self._try(self._stream.flush)

    @property
    def buffer(self) -> _Stream:
        return _Stream(self._stream.buffer, self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except OSError as error:
            if self._name:
                error.filename = self._name
                raise
            return silence(self._stream)


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """The block finds three open streams, a working directory, and a terminal that is somewhat wide.

    Standard output that is closed is refused: answers would be lost, or end up in whichever file is opened
    next. So is a working directory that is gone, where PyTorch ends the process. Raises Refused.
    """
    _size()
    closed = sys.stdout is None
    for handle in range(3):  # else the next file to be opened takes the number, and what is printed with it
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if closed:
        raise Refused("standard output is closed: send it to a file, or to /dev/null")
    try:
        os.getcwd()
    except OSError:
        raise Refused("the working directory is gone, or cannot be read: cd to another") from None
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    out, err = _Stream(sys.stdout, "standard output"), _Stream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def _size() -> None:
    """COLUMNS and LINES that no terminal has count as not set: at a width of 0 nothing would be printed."""
    for name, least in (("COLUMNS", 20), ("LINES", 2)):
        text = os.environ.get(name, "")
        if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= 10_000):
            os.environ.pop(name, None)


def silence(stream: Any) -> None:
    """What is still to be written, and what is printed from now on, goes nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
