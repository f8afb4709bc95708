"""What the user named on the command line, as a stream of pictures to read: files, folders, globs, -, lists.

Nothing here raises for what is missing: it becomes an Input with an error, so that the rest goes on.
"""

from __future__ import annotations

import codecs
import glob
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anytime_cls.pixels.listing import left_out, odd, say_left_out


@dataclass(frozen=True)
class Input:
    """One picture to classify, or one thing that could not be found.

    name: as the user knows it (path, or "-"); source: what `decode.decode` takes, None if there is an error;
    error: one line with the cause and what to do, without the name, None if there is a source.
    """

    name: str
    source: Path | bytes | None
    error: str | None = None


def collect(
    paths: Sequence[str], files_from: str | None = None, skipped: Counter[str] | None = None
) -> Iterator[Input]:
    """The pictures that `paths`, then the list `files_from`, name: in the order given, duplicates kept.

    A path is, in this order of preference: "-" (image bytes on standard input), a file, a folder (all images
    in it and below, see `_folder`), or a glob that the shell left alone (`*`, `?`, `[...]`, `**` across
    folders; its matches come in natural order and are taken as if the shell had expanded it).

    files_from: a UTF-8 text of one path a line, "-" for standard input. Blank lines are skipped, and so are
    lines that start with # unless there is such a file. If it holds a NUL, NULs separate the paths instead,
    and every path counts (`find -print0`). Each path is taken as in `paths`, relative to the current folder.

    What is named in `paths` is read whatever it is, as the pipe of `<(...)`; what a folder, a glob or a list
    names must be a regular file, or opening it might never end. skipped: gains how many files of folders and
    globs were left out, by why (`listing.left_out`).

    Lazy: a folder is read when its turn comes. What cannot be found or read is an Input with an error.
    """
    skipped = Counter() if skipped is None else skipped
    stdin_gave = "the list of files" if files_from == "-" else ""
    for path in itertools.chain(paths, _listed(files_from) if files_from is not None else ()):
        if isinstance(path, Input):
            yield path
        elif path == "-":
            yield _stdin(stdin_gave)
            stdin_gave = "an image"
        else:
            yield from _path(path, skipped)


def _path(path: str, skipped: Counter[str], expand: bool = True) -> Iterator[Input]:
    """What one path other than "-" names. expand: whether it may be a glob."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if missing and expand and glob.has_magic(path):
            yield from _pattern(path, skipped)
        elif missing and os.path.islink(path):
            yield Input(path, None, "a link to a file that is gone: mend or remove the link")
        elif missing:
            yield Input(path, None, "no such file or folder: check the path")
        else:
            yield Input(path, None, f"cannot be read ({_cause(error)}): check the path and its permissions")
    else:
        yield from _folder(path, skipped) if os.path.isdir(path) else [Input(path, Path(path))]


def _pattern(pattern: str, skipped: Counter[str]) -> Iterator[Input]:
    """What a glob matches. Folders too, as in the shell, but not with **, which lists their files anyway."""
    found = sorted(glob.iglob(pattern, recursive=True), key=_natural)
    if "**" in pattern:
        found = [path for path in found if not os.path.isdir(path)]
    if not found:
        yield Input(pattern, None, "no file matches this pattern: check it")
    for path in found:
        if what := odd(path):
            skipped[what] += 1
        else:
            yield from _path(path, skipped, expand=False)


def _folder(folder: str, skipped: Counter[str]) -> Iterator[Input]:
    """The images in a folder: its own in natural order (2 before 10), then those of each folder in it.

    By extension; names that start with a dot are skipped. Links to folders are followed, each real folder
    once, but not to those above.
    """
    top = os.path.realpath(folder)
    seen = {top}
    own: Counter[str] = Counter()
    failed: list[OSError] = []
    empty = True
    ahead = [folder]
    while ahead:
        root = ahead.pop()
        try:
            with os.scandir(root) as entries:
                found = sorted((e for e in entries if e.name[0] != "."), key=lambda e: _natural(e.name))
        except OSError as reason:
            failed.append(reason)
            continue
        inside = []
        for entry in found:
            path = os.path.join(root, entry.name)
            if os.path.isdir(path):
                real = os.path.realpath(path)
                if real != top and f"{top}{os.sep}".startswith(real.rstrip(os.sep) + os.sep):
                    own["link to a folder above"] += 1
                elif real not in seen:
                    seen.add(real)
                    inside.append(path)
            elif why := left_out(entry):
                own[why] += 1
            else:
                empty = False
                yield Input(path, Path(path))
        ahead += reversed(inside)
    skipped.update(own)
    for error in failed:
        yield Input(
            str(error.filename), None, f"the folder cannot be read ({_cause(error)}): check permissions"
        )
    if empty and not failed:
        but = f" ({say_left_out(own)})" if own else ""
        yield Input(folder, None, f"no images in this folder{but}: files count by extension, as .jpg or .png")


def _natural(path: str) -> tuple[list[list[tuple[int, str]]], str]:
    """A sorting key that puts 2 before 10 and a before B, part of the path by part, and never ties."""
    parts = [
        [(int(text) if text.isdecimal() else -1, text.casefold()) for text in re.split(r"(\d+)", part)]
        for part in path.split(os.sep)
    ]
    return parts, path


def _stdin(gave: str) -> Input:
    """The image on standard input. gave: what was already read there, if anything."""
    if gave:
        return Input("-", None, f"standard input already gave {gave}: it can be read once")
    try:
        data = _read_stdin()
    except (OSError, ValueError) as error:
        return Input("-", None, f"standard input cannot be read ({_cause(error)}): pipe an image into it")
    return Input("-", data) if data else Input("-", None, "standard input is empty: pipe an image into it")


def _read_stdin() -> bytes:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise OSError("it is closed")
    return bytes(stream.read())


def _listed(files_from: str) -> Iterator[str | Input]:
    """The paths in a list of files. Bytes that are not UTF-8 pass through: names on disk may have them."""
    try:
        data = _read_stdin() if files_from == "-" else Path(files_from).read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what > writes in Windows PowerShell
            text = data.decode("utf-16")
        else:
            text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        yield Input(files_from, None, f"the list of files cannot be read ({_cause(error)}): check its path")
        return
    if "\0" in text:
        found = [path for path in text.split("\0") if path]
    else:
        lines = text.replace("\r\n", "\n").split("\n")
        found = [line for line in lines if line.strip() and (line[0] != "#" or os.path.lexists(line))]
    for path in found:
        what = odd(path)
        yield Input(path, None, f"a {what}, not a file: name it on the command line") if what else path
    if not found:
        yield Input(files_from, None, "the list names no files: write one path a line")


def _cause(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
