"""Exit codes, and the one line that goes with them. Imports nothing, so that --help is instant."""

from __future__ import annotations

import contextlib
import sys

FAILED, USAGE, INTERRUPTED, PIPE = 1, 2, 130, 141


class Refused(Exception):
    """What was asked for makes no sense; one line saying why. Exit code 2."""


def complain(line: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    with contextlib.suppress(OSError):
        print(f"anytime-cls: {readable(' '.join(line.split()))}", file=sys.stderr, flush=True)
    return code


def readable(text: str) -> str:
    """The text with everything that cannot be printed (control codes, bytes that are no UTF-8) as U+FFFD."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
