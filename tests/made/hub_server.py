"""A stand-in for the Hugging Face Hub on this machine: what `resolve` URLs answer, and ways to go wrong."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c0ffee" + "0" * 34
KEY = "owner/repo/deep/weights.bin"
DATA = bytes(range(256)) * 1000


class Hub:
    """Files by "owner/repo/path", served at `url` while the context lasts.

    token: what has to be sent, if any; gated: repositories that nobody may read; etags: checksums to give
    instead of the right ones; stall_after: bytes after which an answer hangs until the end; drop_after: bytes
    after which the next answer ends too early; status: what everything answers; no_ranges: as some mirrors,
    416 for every range; requests: (method, path, range, authorization) of what was asked.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.token: str | None = None
        self.gated: set[str] = set()
        self.etags: dict[str, str] = {}
        self.stall_after: int | None = None
        self.drop_after: int | None = None
        self.status: int | None = None
        self.no_ranges = False
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.over = threading.Event()

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def ranges(self) -> list[str | None]:
        """Of the downloads that were asked for."""
        return [asked for method, path, asked, _ in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, asked = self.hub, self.headers.get("Range")
        hub.requests.append((self.command, self.path, asked, self.headers.get("Authorization")))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repo, revision, path = match.groups() if match else ("", "", "")
        if hub.status is not None:
            return self.fail(hub.status, "")
        if repo in hub.gated:
            return self.fail(403, "GatedRepo")
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.fail(401, "RepoNotFound")
        if not any(name.startswith(f"{repo}/") for name in hub.files):
            return self.fail(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.fail(404, "RevisionNotFound")
        if f"{repo}/{path}" not in hub.files:
            return self.fail(404, "EntryNotFound")
        if hub.no_ranges and asked:
            return self.fail(416, "")
        data = hub.files[f"{repo}/{path}"]
        etag = hub.etags.get(f"{repo}/{path}", hashlib.sha256(data).hexdigest())
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.send(data[start:])

    def send(self, data: bytes) -> None:
        hub = self.hub
        drop, hub.drop_after = hub.drop_after, None
        try:
            if hub.stall_after is not None:
                self.wfile.write(data[: hub.stall_after])
                hub.over.wait(600)
            else:
                self.wfile.write(data if drop is None else data[:drop])
        except OSError:  # the other side was killed
            pass

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code or "broken")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, which huggingface_hub in this process takes for the hub, with an empty cache."""
    from huggingface_hub import constants

    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 300)  # however busy the machine is
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 300)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        server.files[KEY] = DATA
        yield server
