"""What numbers depend on outside this package: versions, the checkout's commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np

from anytime_cls._version import __version__


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; the JPEG library too, since it decides pixels."""
    import PIL
    from PIL import features

    jpeg = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    number = features.version("libjpeg_turbo") or features.version("jpg") or "missing"
    return {
        "anytime_cls": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": f"{jpeg} {number}",
    }


def git_revision() -> str | None:
    """The commit of the checkout this program runs from, if it does."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
