"""Where a command may write: looked at before the work, not after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import Refused


def check_output(option: str, path: Path, overwrite: bool, read: Sequence[str | Path] = ()) -> None:
    """Refuses a file that cannot be, or must not be, written: one of those `read`, whatever `overwrite` says.

    A link stands for what it leads to.
    """
    from anytime_cls.files import NotRegular, destination

    try:
        folder = destination(path).absolute().parent
        if not folder.is_dir():
            raise Refused(f"{folder} is not a folder: {option} writes into an existing one")
        if os.path.realpath(path) in map(os.path.realpath, read):
            raise Refused(f"{path} is a file that is read here: name another for {option}")
        if path.exists() and not overwrite:
            raise Refused(f"{path} exists already: name another for {option}, or replace it with --overwrite")
        writable = os.access(folder, os.W_OK)
    except NotRegular as error:
        raise Refused(f"{path} is {error.what}: name a file for {option}") from None
    except NotADirectoryError:
        raise Refused(f"{path} is below a file, not a folder: name another for {option}") from None
    except OSError as error:
        raise Refused(f"{path} cannot be written ({error.strerror}): name another for {option}") from None
    if not writable:
        raise Refused(f"{folder} cannot be written: check its permissions, or name another with {option}")
