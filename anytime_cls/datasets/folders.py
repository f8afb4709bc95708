"""The images in class folders: one reader for what is trained on and what is raced."""

from __future__ import annotations

import errno
import heapq
import os
from collections import Counter
from pathlib import Path

from anytime_cls.datasets.base import DatasetError
from anytime_cls.pixels.listing import left_out

ASTRAY = "link out of its class"


class ClassFolders:
    """The visible folders in a folder, a class each.

    Links to folders are followed, but each real folder once in all, a real one before links to it, and only
    where that stays inside the class: not to what lies above it, nor into another class. So every image has
    one class and one name, whatever the links.

    names: of the classes, sorted. left_out: how many files and links were not taken, by why, of the classes
    whose images were asked for. Raises DatasetError for a folder that may not be read.
    """

    def __init__(self, root: Path):
        self.root = str(root)
        self.left_out: Counter[str] = Counter()
        self._real: dict[str, str] = {}  # of a class, its folder without links
        self._of: dict[tuple[int, int], str] = {}  # device and inode of a real folder: the class it is of
        self._above = os.path.realpath(root)
        try:
            with os.scandir(root) as entries:
                found = [(e.is_symlink(), e.name) for e in entries if e.name[0] != "." and _is_folder(e)]
            for _, name in sorted(found):  # links last
                real = os.path.realpath(f"{self.root}/{name}")
                if _holds(real, self._above) or self._claim(f"{self.root}/{name}", name) is not None:
                    self.left_out[ASTRAY] += 1
                else:
                    self._real[name] = real
        except OSError as error:
            raise _closed(error) from None
        self.names = sorted(self._real)

    def images(self, name: str) -> list[str]:
        """The images in a class's folder and below, as paths inside it, in no order; nothing is opened."""
        found: list[str] = []
        ahead: list[str] = [""]
        links: list[str] = []
        while ahead or links:
            inside = ahead.pop() if ahead else heapq.heappop(links)
            path = f"{self.root}/{name}/{inside}"
            try:
                if inside and not self._stays(path, name):
                    continue
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.name[0] == ".":
                            continue
                        if _is_folder(entry):
                            into = f"{inside}{entry.name}/"
                            heapq.heappush(links, into) if entry.is_symlink() else ahead.append(into)
                        elif why := left_out(entry):
                            self.left_out[why] += 1
                        else:
                            found.append(inside + entry.name)
            except OSError as error:
                raise _closed(error) from None
        return found

    def _stays(self, path: str, name: str) -> bool:
        """Whether a folder below a class's, seen for the first time, belongs to that class."""
        if os.path.islink(path.rstrip("/")):
            real, own = os.path.realpath(path), self._real[name]
            above = any(_holds(real, folder) for folder in (self._above, *self._real.values()))
            other = any(_holds(folder, real) for folder in self._real.values() if folder != own)
            if real != own and (above or (other and not _holds(own, real))):
                self.left_out[ASTRAY] += 1
                return False
        has = self._claim(path, name)
        if has not in (None, name):
            self.left_out[ASTRAY] += 1
        return has is None

    def _claim(self, path: str, name: str) -> str | None:
        """Takes a real folder for a class; where that is done already, returns the class that has it."""
        here = os.stat(path)
        key = here.st_dev, here.st_ino
        has = self._of.get(key)
        self._of.setdefault(key, name)
        return has


def _holds(folder: str, inside: str) -> bool:
    """Whether a real path is a folder's own, or below it."""
    return inside == folder or inside.startswith(folder.rstrip(os.sep) + os.sep)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link in a circle is a file that cannot be opened
            return False
        raise


def _closed(error: OSError) -> DatasetError:
    return DatasetError(f"{error.filename}: cannot be read ({error.strerror}): check permissions")
