"""Files of results that other programs left behind, as NumPy: no code of theirs is ever run."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.models.card import ModelError
from anytime_cls.models.pickles import unpickled

TENSORS = (".pt", ".pth")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*TENSORS, *ARRAYS)
_UNPACKED = 1 << 30  # bytes of what an archive holds, or so many times its own
_DAMAGED = (OSError, ValueError, EOFError, MemoryError, OverflowError, NotImplementedError, KeyError,
            SyntaxError, zipfile.BadZipFile, zlib.error)  # fmt: skip
_DEPTH = 4  # of dicts and lists in each other
_MOST = 1 << 20  # items of one


def read_results(path: Path) -> Any:
    """What is in a `.pt`, `.pth`, `.npy` or `.npz` file: arrays, numbers, texts, dicts and lists of them.

    Raises ModelError for anything else in it, a file that is damaged or hostile, and tensors that claim more
    than the file stores.
    """
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path}: not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix in ARRAYS:
        return _arrays(path)
    return _plain(path, unpickled(path, results=True), path.stat().st_size, 0)


def _arrays(path: Path) -> Any:
    """An array, mapped, or several by name."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                claimed = sum(member.file_size for member in archive.infolist())
            if claimed > max(_UNPACKED, 64 * path.stat().st_size):
                raise ValueError(f"it claims to hold {claimed:,} bytes")
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except _DAMAGED as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: truncated, or no array of numbers ({line[:100]})") from None


def _plain(path: Path, value: Any, size: int, depth: int) -> Any:
    """Tensors as arrays, NumPy's numbers as Python's."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.numel() * value.element_size() > size:
            raise ModelError(f"{path}: a tensor that the file does not store")
        return value.detach().to(torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict | list | tuple) and depth < _DEPTH and len(value) <= _MOST:
        if isinstance(value, dict):
            keys = [key.item() if isinstance(key, np.generic) else key for key in value]
            if all(isinstance(key, int | str) for key in keys):
                items = (_plain(path, item, size, depth + 1) for item in value.values())
                return dict(zip(keys, items, strict=True))
        else:
            return [_plain(path, item, size, depth + 1) for item in value]
    raise ModelError(f"{path}: holds a {type(value).__name__}, which no file of results has")
