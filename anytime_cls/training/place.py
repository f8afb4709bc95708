"""Where a model may be trained into. No torch: what makes no sense is refused before it is imported."""

from __future__ import annotations

import os
from pathlib import Path


def no_folder(out: Path) -> ValueError:
    return ValueError(f"{out} is no folder, nor can be one: choose another --out")


def check_place(out: Path) -> None:
    """Raises ValueError if something that is no folder lies there."""
    if os.path.lexists(out) and not out.is_dir():
        raise no_folder(out)
