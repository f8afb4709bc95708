"""WebDataset shards: `wds:PATTERN`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from anytime_cls.datasets.hfds import _LABEL_FIELDS, _need
from anytime_cls.datasets.layouts import DatasetError, Entry, Listing
from anytime_cls.files import cache_folder, replacing
from anytime_cls.pixels.decode import EXTENSIONS, Source


def open_wds(url: str) -> tuple[Listing, str]:
    """The images of WebDataset shards and the data set's identity.

    url: as WebDataset takes it: local tars or URLs, brace ranges, `::` between several. A sample needs an
    image and may have a .cls (class name or id) or a .json with a "label". The shards' headers are read once;
    local images are then read in place, others from a copy in the user's cache. Raises DatasetError.
    """
    _need("webdataset", "wds")
    from webdataset.shardlists import expand_urls

    shards = expand_urls(url)
    if not url or not shards:
        raise DatasetError("wds: needs shards, as wds:/data/val-{000..049}.tar")
    short = [_shard_name(shard) for shard in shards]
    if len(set(short)) < len(short):
        short = [f"{at:05d}-{name}" for at, name in enumerate(short)]
    entries: list[Entry] = []
    for shard, name in zip(shards, short, strict=True):
        entries += _read_shard(_local(shard), name)
    if not entries:
        raise DatasetError(f"wds: {url} holds no images: a sample needs one, as 000001.jpg beside 000001.cls")
    return Listing(f"wds:{_shard_name(url)}", entries), f"wds:{_shard_name(url)}"


def _read_shard(path: str, name: str) -> Iterator[Entry]:
    """The samples of one local tar, grouped as WebDataset does, by the files' headers alone."""
    from webdataset.tariterators import group_by_keys

    try:
        with tarfile.open(path, "r:") as tar:
            files = ({"fname": m.name, "data": m, "__url__": path} for m in tar if m.isfile())
            for sample in group_by_keys(files):
                members = {field: m for field, m in sample.items() if isinstance(m, tarfile.TarInfo)}
                image = next((m for field, m in members.items() if _is_image(field)), None)
                if image is not None:
                    source = TarSource(path, image.offset_data, image.size)
                    key = _sample_key(tar, members)
                    yield Entry(f"{name}/{sample['__key__']}", key, f"{name}/{image.name}", source)
    except tarfile.ReadError as error:
        raise DatasetError(
            f"wds: {path} is no tar that can be read in place ({error}): unpack a .tar.gz to .tar"
        ) from None
    except OSError as error:
        raise DatasetError(f"wds: {path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DatasetError(f"wds: {path} cannot be read ({error.args[0]})") from None


def _is_image(field: str) -> bool:
    return f".{field.rpartition('.')[2]}" in EXTENSIONS


def _sample_key(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> str | None:
    def text(field: str) -> str:
        file = tar.extractfile(members[field])
        return file.read().decode("utf-8").strip() if file else ""

    if "cls" in members:
        return text("cls") or None
    if "json" in members:
        values = json.loads(text("json"))
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


def _local(url: str) -> str:
    """The path of a shard; one that is elsewhere is copied into the cache, whole or not at all."""
    scheme = urlsplit(url).scheme
    if scheme in ("", "file") or os.path.exists(url):
        return os.path.expanduser(urlsplit(url).path if scheme == "file" else url)
    from webdataset.gopen import gopen

    base = cache_folder() / "wds"
    path = base / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{_shard_name(url)}"
    if not path.exists():
        shown = f"{scheme}:...{_shard_name(url)}"
        try:
            base.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part, part.open("wb") as copy, gopen(url) as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
        except Exception as error:  # each scheme has its own program and errors
            raise DatasetError(f"wds: {shown} cannot be fetched ({type(error).__name__}: {error})") from None
    return str(path)
