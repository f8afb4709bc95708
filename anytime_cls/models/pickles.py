"""Files of torch.save's, looked through before torch reads them: no code, no bombs, nothing but weights.

torch.load without code still calls what makes memory of a number (`bytearray`, `torch.FloatTensor`), inflates
what is compressed, and hashes tuples of tuples for ever. So first the archive's directory is read, then the
pickle's opcodes, and both are held against what a file of weights is made of.
"""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from anytime_cls.models.card import ModelError

MEMBERS = 10_000  # storages of a file; the largest published model, its optimizer and an average have 1,300
PICKLE = 1 << 25  # bytes of a pickle, which holds no numbers of weights
_DIRECTORY = 200 * MEMBERS  # bytes of an archive's directory
_HASHED = 1_000_000  # parts of a tuple, of tuples in it too
_NEEDED = re.compile(
    r"collections (OrderedDict|Counter)|argparse Namespace|(builtins|__builtin__) (set|complex)"
    r"|torch\._utils _rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?|sparse_tensor)"
    r"|torch\.storage (Typed|Untyped)Storage|torch (\w+Storage|Size|device|b?float\w+|u?int\d+|bool)"
    r"|torch\.serialization _get_layout|torch\.nn\.parameter Parameter"
)
# what a file of results has besides: numbers of NumPy's, which a table of classes gives (`results.py`)
_NUMBERS = re.compile(r"numpy(\._core|\.core)?(\.multiarray scalar| dtype)|_codecs encode|" + _NEEDED.pattern)
_UNSAFE_DTYPE = re.compile(r"[<>=|]?[OVSUaMm]\d*(\[\w+\])?|.*[,;{}].*")  # objects, records, texts, times
_LEGACY = 5  # pickles of a file in the format before archives: three of a head, the object, storages' keys


class Hostile(ValueError):
    """What no file of weights has; one line saying what, without the path."""


def unpickled(path: Path, results: bool = False) -> Any:
    """What is in a file of torch.save's, no code of which is ever run; its tensors are mapped, not read, but
    in the old format. Raises ModelError.

    results : not weights, so that there may be numbers of NumPy's in it
    """
    import argparse

    import torch

    try:
        mapped = zipfile.is_zipfile(path)
        check_archive(path, results) if mapped else _check_legacy(path, results)
        safe = [argparse.Namespace, *(_numpy_numbers() if results else ())]
        with torch.serialization.safe_globals(safe), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Hostile as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception:  # whatever a broken or hostile file manages to raise
        raise ModelError(f"{path}: truncated, or not a file of torch.save's; get it again") from None


def _numpy_numbers() -> list[Any]:
    """What makes a number of NumPy's of its bytes, under the names that its releases have given it."""
    import numpy as np

    scalar: Any = np.float64(0).__reduce__()[0]
    plain = {
        type(np.dtype(code))
        for code in ("?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d")
    }
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *plain]


def check_archive(path: Path, results: bool = False) -> None:
    """Raises Hostile, or an error of zipfile's, for what torch.save does not write. Reads the directory and
    the pickle alone."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - (1 << 17)))
        if _directory_size(file.read()) > _DIRECTORY:
            raise Hostile(f"an archive of more than {MEMBERS:,} members; not a weights file")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MEMBERS:
            raise Hostile(f"an archive of {len(members):,} members; not a weights file")
        if any(member.compress_type for member in members):  # torch.load would inflate a bomb whole
            raise Hostile("compressed, which torch.save never does; not a weights file")
        if sum(member.file_size for member in members) > size:
            raise Hostile("its members claim to be larger than the file; not a weights file")
        pickles = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1 or len({member.filename for member in members}) < len(members):
            raise Hostile(f"{len(pickles)} pickles in it, or a name twice; not a file of torch.save's")
        if pickles[0].file_size > PICKLE:
            raise Hostile(f"a pickle of {pickles[0].file_size:,} bytes; not a weights file")
        with archive.open(pickles[0]) as stream:
            check_pickle(stream, results)


def _directory_size(tail: bytes) -> int:
    """Bytes of an archive's directory, of which the end is given; 0 where it does not say."""
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return 0
    size = int(struct.unpack_from("<I", tail, end + 12)[0])
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if wide >= 0 and end >= wide + 56:
        size = max(size if size < 0xFFFFFFFF else 0, int(struct.unpack_from("<Q", tail, wide + 40)[0]))
    return size


def _check_legacy(path: Path, results: bool = False) -> None:
    with open(path, "rb") as file:
        for _ in range(_LEGACY):
            check_pickle(file, results)
            if file.tell() > PICKLE:
                raise Hostile(f"a pickle of over {PICKLE:,} bytes; not a weights file")


def check_pickle(stream: IO[bytes], results: bool = False) -> None:
    """Reads one pickle's opcodes, running none. Raises Hostile, or ValueError for what is no pickle."""
    strings, storages = ["", ""], 0  # the last two: what STACK_GLOBAL names
    needed = _NUMBERS if results else _NEEDED
    for name, argument in _opcodes(stream):
        if name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            found = " ".join(strings) if name == "STACK_GLOBAL" else str(argument)
            if not needed.fullmatch(found):
                raise Hostile(
                    f"asks to run {found.replace(' ', '.')[:100]!r}, which weights never need: refused, "
                    "nothing was run"
                )
        elif "PERSID" in name:
            storages += 1
        elif isinstance(argument, str):
            strings = [strings[1], argument]
            if results and _UNSAFE_DTYPE.fullmatch(argument):
                raise Hostile(
                    f"a text {argument[:40]!r}, which no number of NumPy's needs; not a file of results"
                )
        if storages > MEMBERS:
            raise Hostile(f"more than {MEMBERS:,} tensors; not a weights file")


def _opcodes(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """A pickle's opcodes with their arguments, while its tuples stay small: hashing one visits all its parts,
    and one that holds itself twice over, many times, has more than can be counted."""
    stack: list[int] = []  # parts of the tuples there, −1 for a mark
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name, taken = opcode.name, 0
        place = argument if isinstance(argument, int) else 0
        before = opcode.stack_before
        if "GET" in name:
            stack.append(memo.get(place, 0))
        elif "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else place] = stack[-1] if stack else 0
        else:
            if pickletools.markobject in before or name == "POP_MARK":
                while stack and (parts := stack.pop()) >= 0:
                    taken += parts + 1
                before = before[: before.index(pickletools.markobject)]
            for _ in before:
                taken += max(0, stack.pop() if stack else 0) + 1
            if taken > _HASHED and ("TUPLE" in name or name == "FROZENSET"):
                raise Hostile("tuples of tuples without end; not a weights file")
            for made in opcode.stack_after:
                kept = "TUPLE" in name or name == "FROZENSET"
                stack.append(-1 if made is pickletools.markobject else taken if kept else 0)
        yield name, argument
