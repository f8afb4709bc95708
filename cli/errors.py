"""Exit codes, and the one line that goes with them. Imports nothing heavy, so that --help is instant."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap

FAILED, USAGE, INTERRUPTED, PIPE = 1, 2, 130, 141
_LONGEST = 300  # characters of a word, such as a path, that are shown


class Refused(Exception):
    """What was asked for makes no sense; one line saying why. Exit code 2."""


def complain(line: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    words = (w if len(w) <= _LONGEST else f"{w[:_LONGEST]}..." for w in without_secrets(line).split())
    with contextlib.suppress(OSError):
        text = f"anytime-cls: {readable(' '.join(words))}"
        print(_broken(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)
    return code


def _broken(line: str) -> str:
    """The line as a terminal shows it: broken between words, a command to copy in a line of its own."""
    width = shutil.get_terminal_size().columns
    if len(line) <= width:
        return line
    text, colon, command = line.partition(": anytime-cls ")
    parts = textwrap.wrap(text + colon[:1], width, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*parts, *([f"anytime-cls {command}"] if command else [])])


def without_secrets(text: str) -> str:
    """The text without what may be a secret in its URLs: the query, and a user's name and password."""
    text = re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]+", r"\1?...", text)
    return re.sub(r"://[^\s/?@'\"]+@", "://...@", text)


def readable(text: str) -> str:
    """The text with everything that cannot be printed (control codes, bytes that are no UTF-8) as U+FFFD."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def explained(error: OSError) -> str:
    """What the system would not do, and where."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None or isinstance(error.filename, int):
        return reason
    return f"{os.fsdecode(error.filename)}: {reason}"


def out_of_memory(error: BaseException) -> bool:
    """Whether there is not enough memory, as Python or PyTorch says it."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
