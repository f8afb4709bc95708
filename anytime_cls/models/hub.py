"""Weights from the Hugging Face Hub, by the package `huggingface_hub`: its cache, tokens and offline mode.

Files land in the cache that every other program uses (HF_HOME, HF_HUB_CACHE), under the hub's own names. An
interrupted download goes on where it was; what came counts once it agrees with the hub's checksum.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytime_cls.models.card import ModelError
from anytime_cls.models.hashes import file_sha256, remember_sha256

PREFIX = "hf:"
_SPEC = re.compile(r"hf:(?://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?/([^@/][^@]*)")
_TIMEOUTS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
_SAFE = re.compile(r"[\w.-]*\w[\w.-]*")  # an etag that may name a file


class HubError(ModelError):
    """A file could not be fetched; one line saying which and why."""


class NoSuchFile(HubError):
    """The repository is there, and the file is not in it."""


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository on the hub. revision: a branch, tag or commit."""

    repo: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{PREFIX}{self.repo}{revision}/{self.path}"


_RANDAR = "randar_{}_360k_bs_1024_lr_0.0004.safetensors"
MODELS = {  # links of github.com/ziqipang/RandAR's README
    "randar-l": HubFile("ziqipang/RandAR", _RANDAR.format("0.3b_llamagen")),
    "randar-l-maskgit": HubFile("ziqipang/RandAR", _RANDAR.format("0.3b_maskgit")),
    "randar-xl": HubFile("ziqipang/RandAR", _RANDAR.format("0.7b_llamagen")),
}
TOKENIZERS = {  # as its documentation.md says
    "llamagen-vq16": HubFile("FoundationVision/LlamaGen", "vq_ds16_c2i.pt"),
    "maskgit-vqgan": HubFile("fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin"),
}
TOKENIZER_OF = {16384: "llamagen-vq16", 1024: "maskgit-vqgan"}  # by the transformer's vocabulary


def parse(text: str) -> HubFile:
    """ "hf:owner/repo/file" or "hf:owner/repo@revision/file". Raises ModelError."""
    match = _SPEC.fullmatch(text)
    if match is None or ".." in text or "//" in match[3]:
        raise ModelError(f"{text!r}: expected hf:owner/repo/file or hf:owner/repo@revision/file")
    return HubFile(match[1], match[3], match[2] or "main")


def available() -> bool:
    """Whether huggingface_hub is installed."""
    return importlib.util.find_spec("huggingface_hub") is not None


def require() -> None:
    """Raises ModelError, saying how to install it, if huggingface_hub is missing."""
    if not available():
        raise ModelError(
            "the Hugging Face Hub needs the package huggingface_hub: pip install huggingface_hub"
        )


def cached(file: HubFile) -> Path | None:
    """Where the hub's cache holds a file; None if it does not, or huggingface_hub is missing. No network."""
    if not available():
        return None
    given = {name: os.environ.pop(name) for name in _malformed()}  # else the package cannot be imported
    try:
        from huggingface_hub import try_to_load_from_cache
    finally:
        os.environ.update(given)

    found = try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def _malformed() -> list[str]:
    """The variables that huggingface_hub reads as whole numbers, as it is imported, and that are none."""

    def good(text: str) -> bool:
        with suppress(ValueError):
            return int(text) >= 0
        return False

    return [name for name in _TIMEOUTS if not good(os.environ.get(name, "0"))]


def find(text: str) -> Path:
    """The file of a name in `MODELS`, which has to be in the cache, or of "hf:...", fetched if it is not.

    Raises ModelError.
    """
    file = MODELS.get(text) or parse(text)
    require()
    found = cached(file)
    if found is None and text in MODELS:
        raise ModelError(f"{text} is not on this machine: run 'anytime-cls models pull {text}' once")
    return found or pull(file)


def pull(file: HubFile, say: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch a file into the hub's cache, or find it there, and check its checksum; returns its path.

    A newer version on the hub replaces what the revision meant here. Without the hub (HF_HUB_OFFLINE) what
    the cache holds is checked. say: told what is going on, a line each. Raises HubError, or ModelError
    without huggingface_hub.
    """
    require()
    for name in _malformed():
        raise HubError(f"{name} is {os.environ[name]!r}: make it a whole number of seconds, or unset it")
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled

    if str(constants.HF_HUB_CACHE).startswith("~"):  # else a folder of that name would be made
        raise HubError(f"{file}: no home folder is known to keep it in: set HF_HOME")
    try:
        try:
            url = hf_hub_url(file.repo, file.path, revision=file.revision)
            metadata = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except OfflineModeIsEnabled:
            found = cached(file)
            if found is None:
                raise
            say(f"{file}: offline (HF_HUB_OFFLINE), the copy in the cache is used")
            wrong = mismatch(found.resolve(), found.resolve().name)
            if wrong:
                raise HubError(f"{found}: {wrong}; delete it, and pull it again online") from None
            return found
        if not metadata.commit_hash or not metadata.etag or not _SAFE.fullmatch(metadata.etag):
            raise HubError(f"{file}: what answers is no Hugging Face hub; check HF_ENDPOINT and any proxy")
        _fetch(file, metadata, say)
        return Path(hf_hub_download(file.repo, file.path, revision=file.revision))  # names what is there
    except ModelError:
        raise
    except Exception as error:  # httpx's or requests', as the version has it, and the disk's
        raise _explained(file, error) from None


def _fetch(file: HubFile, metadata: Any, say: Callable[[str], None]) -> None:
    """Into the cache's blobs, under the checksum's name, as huggingface_hub lays it out.

    Its own download throws away what an interrupted one left (huggingface_hub 2), so this one keeps it.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=file.repo, repo_type="model")
    blob = cache / folder / "blobs" / metadata.etag
    lock = cache / ".locks" / folder / f"{metadata.etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.is_file():
            wrong = mismatch(blob, metadata.etag)
            if not wrong:
                say(f"{file}: here already, checksum right")
                return
            say(f"{file}: the copy in the cache is damaged ({wrong}), fetching it again")
            blob.unlink()
        partial = blob.with_name(f"{blob.name}.incomplete")
        size, done = metadata.size, partial.stat().st_size if partial.is_file() else 0
        if size is not None and done > size:
            partial.unlink()
            done = 0
        _check_space(blob.parent, file, (size or 0) - done)
        about = f"{size / 1e6:,.0f} MB" if size else "of unknown size"
        say(f"{file}: {about}" + (f", going on after {done / 1e6:,.0f} MB" if done else ""))
        url = hf_hub_url(file.repo, file.path, revision=metadata.commit_hash)
        while size is None or done < size:
            try:
                with open(partial, "ab") as out:
                    http_get(
                        url, out, resume_size=done, headers=build_hf_headers(), expected_size=size,
                        displayed_filename=Path(file.path).name,
                    )  # fmt: skip
                break
            except Exception as error:  # some versions give up when a connection breaks
                before, done = done, partial.stat().st_size
                if _status(error) == 416 and before:  # some mirrors have no ranges: begin again
                    partial.unlink()
                    done = 0
                    say(f"{file}: what was fetched before cannot be gone on with, beginning again")
                elif done <= before:
                    raise
        wrong = mismatch(partial, metadata.etag)
        if wrong:
            partial.unlink()
            raise HubError(
                f"{file}: {wrong}: what came is not the hub's file, and was deleted; pull it again"
            )
        partial.replace(blob)
        if len(metadata.etag) == 64:
            remember_sha256(blob, metadata.etag)


def mismatch(path: Path, etag: str) -> str:
    """How a file differs from the hub's checksum of it, in words; "" if it does not, or the hub gave none.

    The checksum is SHA-256 for large files, and git's SHA-1 of a blob for small ones.
    """
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        found = file_sha256(path)
        return "" if found == etag else f"SHA-256 is {found[:12]}..., the hub's is {etag[:12]}..."
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return "" if found == etag else f"SHA-1 is {found[:12]}..., the hub's is {etag[:12]}..."
    return ""


def _check_space(folder: Path, file: HubFile, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{file}: {needed / 1e9:.1f} GB more are needed, {folder} has {free / 1e9:.1f} GB free; "
            "make room, or set HF_HOME to another disk"
        )


def _status(error: Exception) -> int | None:
    """The HTTP status that an error is about, if it is."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _certificates() -> str:
    """Which variable names certificates that are not there, and what to do; "" if none does."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        place = os.environ.get(name)
        if place and not os.access(place, os.R_OK):
            return f"{name} is {place!r}, which cannot be read; name a file of certificates, or unset it"
    return ""


def _explained(file: HubFile, error: Exception) -> HubError:
    """What an error of huggingface_hub, the network or the disk means to the user."""
    from huggingface_hub import constants, errors

    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    status = _status(error)
    match error:
        case errors.OfflineModeIsEnabled():
            why = "not in the cache, and HF_HUB_OFFLINE is set; pull it online once"
        case errors.GatedRepoError():
            why = f"gated; accept its terms on {constants.ENDPOINT}/{file.repo}, and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            why = "no such repository, or a private one that HF_TOKEN does not open"
        case errors.RevisionNotFoundError():
            why = f"the repository has no revision {file.revision!r}"
        case errors.EntryNotFoundError():
            return NoSuchFile(f"{file}: the repository has no such file")
        case _ if status in (401, 403):
            why = f"refused (HTTP {status}); set HF_TOKEN to a token that may read it"
        case _ if status is not None:
            why = f"the hub answers HTTP {status}; try again later"
        case OSError() if error.filename is None and (certificates := _certificates()):
            why = certificates
        case ssl.SSLError():
            why = f"no safe connection to {constants.ENDPOINT} ({line}); check SSL_CERT_FILE and any proxy"
        case OSError() if error.errno is not None:
            why = f"{error.filename or 'the cache'}: {error.strerror}"
        case _:
            why = f"cannot be fetched from {constants.ENDPOINT} ({line}); pull again, it goes on where it was"
    return HubError(f"{file}: {why}")
