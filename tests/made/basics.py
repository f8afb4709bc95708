"""What most tests use: the tiny model's labels, and a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TINY_LABELS = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cli(capsys: Any, *arguments: object) -> str:
    """Standard output of `anytime-cls ARGUMENTS` in this process, which has to succeed."""
    from anytime_cls_cli.main import main

    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return str(out)


def write_photo(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 120, (40, 48, 3))
    ramp = np.linspace(0, 135, 48)[None, :, None]
    Image.fromarray((noise + ramp).astype(np.uint8)).save(path, "JPEG", quality=90)
    return path
