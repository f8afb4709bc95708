"""Exit codes, and the one line that goes with them. Imports nothing, so that --help is instant."""

from __future__ import annotations

import contextlib
import re
import sys

FAILED, USAGE, INTERRUPTED, PIPE = 1, 2, 130, 141


class Refused(Exception):
    """What was asked for makes no sense; one line saying why. Exit code 2."""


def complain(line: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    with contextlib.suppress(OSError):
        print(
            f"anytime-cls: {readable(without_secrets(' '.join(line.split())))}", file=sys.stderr, flush=True
        )
    return code


def without_secrets(text: str) -> str:
    """The text without what may be a secret in its URLs: the query, and a user's name and password."""
    text = re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]+", r"\1?...", text)
    return re.sub(r"://[^\s/?@'\"]+@", "://...@", text)


def readable(text: str) -> str:
    """The text with everything that cannot be printed (control codes, bytes that are no UTF-8) as U+FFFD."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
