"""WebDataset shards: `wds:PATTERN`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from anytime_cls.datasets.hfds import _LABEL_FIELDS, _need
from anytime_cls.datasets.layouts import DatasetError, Entry, Listing
from anytime_cls.datasets.which import picture
from anytime_cls.files import cache_folder, regular, replacing
from anytime_cls.pixels.decode import EXTENSIONS, Source

_TAR_BLOCK = 512


def open_wds(url: str) -> tuple[Listing, str]:
    """The images of WebDataset shards and the data set's identity.

    url: as WebDataset takes it: local tars or URLs, brace ranges, `::` between several. A sample needs an
    image and may have a .cls (class name or id) or a .json with a "label". The shards' headers are read once;
    local images are then read in place, others from a copy in the user's cache. Raises DatasetError, which
    says nothing of a URL but its last part.
    """
    _need("webdataset", "wds")
    from webdataset.shardlists import expand_urls

    try:
        shards = expand_urls(url)
    except ValueError:
        raise DatasetError("wds: the pattern's braces make no range: write val-{000..049}.tar") from None
    if not url or not shards:
        raise DatasetError("wds: needs shards, as wds:/data/val-{000..049}.tar")
    short = [_shard_name(shard) for shard in shards]
    if len(set(short)) < len(short):
        short = [f"{at:05d}-{name}" for at, name in enumerate(short)]
    entries: list[Entry] = []
    skipped: Counter[str] = Counter()
    for shard, name in zip(shards, short, strict=True):
        path, copied = _local(shard)
        try:
            entries += _read_shard(path, name, skipped)
        except DatasetError:
            if copied:  # or it would be found again, as it is
                Path(path).unlink(missing_ok=True)
            raise
    if not entries:
        raise DatasetError(
            f"wds: {_shard_name(url)} holds no images: a sample needs one, as 000001.jpg beside 000001.cls"
        )
    listing = Listing(f"wds:{_shard_name(url)}", entries, left_out=skipped)
    return listing, listing.root


def _read_shard(path: str, name: str, skipped: Counter[str]) -> Iterator[Entry]:
    """The samples of one local tar, grouped as WebDataset does, by the files' headers alone."""
    from webdataset.tariterators import group_by_keys

    try:
        regular(path)
        with tarfile.open(path, "r:") as tar:
            files = ({"fname": m.name, "data": m, "__url__": path} for m in tar if m.isfile())
            for sample in group_by_keys(files):
                members = {field: m for field, m in sample.items() if isinstance(m, tarfile.TarInfo)}
                field = _picture(path, sample["__key__"], members)
                if field is None:
                    skipped["sample without a picture"] += 1
                    continue
                source = TarSource(path, members[field].offset_data, members[field].size)
                key = _sample_key(tar, members, field.rpartition(".")[0])
                yield Entry(f"{name}/{sample['__key__']}", key, f"{name}/{members[field].name}", source)
            _check_end(path, tar.offset)
    except tarfile.ReadError as error:
        raise DatasetError(
            f"wds: {path} is no tar that can be read in place ({error}): unpack a .tar.gz to .tar"
        ) from None
    except OSError as error:
        raise DatasetError(f"wds: {path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DatasetError(f"wds: {path} cannot be read ({error.args[0]})") from None


def _check_end(path: str, end: int) -> None:
    """Raises DatasetError unless what ends a tar, zeros, is behind the last member, and nothing else."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(_TAR_BLOCK)
        if len(block) < _TAR_BLOCK:
            raise DatasetError(f"wds: {path} is cut short: its end is missing; fetch it again")
        if any(block):
            raise DatasetError(f"wds: {path} is damaged at byte {end}, or cut short: fetch it again")
        while piece := file.read(1 << 20):
            if piece.count(0) < len(piece):
                raise DatasetError(
                    f"wds: {path} goes on behind its end, where no reader looks: were several tars joined? "
                    "Name each, with :: between"
                )


def _picture(path: str, key: str, fields: Iterable[str]) -> str | None:
    """The field of a sample that is its picture. Raises DatasetError where nothing says which."""
    try:
        return picture(field for field in fields if f".{field.rpartition('.')[2]}" in EXTENSIONS)
    except ValueError as error:
        raise DatasetError(
            f"wds: {path}: of sample {key!r} {error} (a sample's name ends at its first dot)"
        ) from None


def _sample_key(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], stem: str) -> str | None:
    """What a sample is filed under. stem: what its picture's field has before the ending, if anything."""

    def text(field: str) -> str:
        file = tar.extractfile(members[field])
        return file.read().decode("utf-8").strip() if file else ""

    for before in (f"{stem}.", ""):
        if f"{before}cls" in members:
            return text(f"{before}cls") or None
        if f"{before}json" in members:
            values = json.loads(text(f"{before}json"))
            value = next((values[name] for name in _LABEL_FIELDS if name in values), None)
            return None if value is None else str(value)
    return None


@dataclass(frozen=True, slots=True)
class TarSource:
    """Loads the bytes of one file inside an uncompressed tar."""

    path: str
    offset: int
    size: int

    def __call__(self) -> Source:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def _shard_name(url: str) -> str:
    """The last part of a URL without its query, which may hold a secret; a command by its hash."""
    if url.startswith("pipe:"):
        return f"pipe-{hashlib.sha256(url.encode()).hexdigest()[:8]}.tar"
    return os.path.basename(url.partition("?")[0])


def _local(url: str) -> tuple[str, bool]:
    """The path of a shard, and whether it is a copy; one that is elsewhere is copied, whole or not at all."""
    scheme = urlsplit(url).scheme
    if scheme in ("", "file") or os.path.exists(url):
        return os.path.expanduser(urlsplit(url).path if scheme == "file" else url), False
    from webdataset.gopen import gopen

    try:
        base = cache_folder() / "wds"
    except FileNotFoundError as error:
        raise DatasetError(f"wds: {error.strerror}, or name shards on this machine") from None
    path = base / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{_shard_name(url)}"
    if not path.exists():
        shown = f"{scheme}:...{_shard_name(url)}"
        try:
            base.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part, part.open("wb") as copy, gopen(url) as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
        except Exception as error:  # each scheme has its own program and errors, which name the whole URL
            status = re.search(r"\bexit (\d+)", str(error))
            why = f"exit status {status[1]}" if status else getattr(error, "strerror", None)
            raise DatasetError(f"wds: {shown} cannot be fetched ({why or type(error).__name__})") from None
    return str(path), True
