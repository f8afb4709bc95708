"""Fetching weights: the hub's cache, resuming, checksums, offline, and what goes wrong, in one line each."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import COMMIT, DATA, KEY, Hub, hub  # noqa: F401 (a fixture)

pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")

from anytime_cls.models import hub as ours
from anytime_cls.models.card import ModelError
from anytime_cls.models.hub import HubError, HubFile, cached, find, parse, pull

FILE = HubFile("owner/repo", "deep/weights.bin")


def blobs(tmp_path) -> list[Path]:
    return sorted((tmp_path / "home" / "hub" / "models--owner--repo" / "blobs").iterdir())


def refuse(match: str, file: HubFile = FILE, kind: type[ModelError] = HubError) -> None:
    with pytest.raises(kind, match=match) as error:
        pull(file)
    assert "\n" not in str(error.value)


def test_a_file_lands_in_the_hubs_own_cache(hub, tmp_path):  # noqa: F811
    from huggingface_hub import hf_hub_download

    assert cached(FILE) is None
    path = pull(FILE)
    assert path.read_bytes() == DATA and path.name == "weights.bin" and COMMIT in path.parts
    assert cached(FILE) == path == Path(hf_hub_download("owner/repo", "deep/weights.bin"))
    assert [blob.name for blob in blobs(tmp_path)] == [hashlib.sha256(DATA).hexdigest()]
    assert hub.ranges() == [None]

    lines: list[str] = []
    assert pull(FILE, lines.append) == path and hub.ranges() == [None]
    assert "here already, checksum right" in lines[0]


def test_a_newer_version_is_fetched(hub):  # noqa: F811
    pull(FILE)
    hub.files[KEY] = DATA[::-1]
    # the hub names versions by commit; the stand-in has one, so its pointer goes
    cached(FILE).unlink()
    assert pull(FILE).read_bytes() == DATA[::-1]


def test_a_download_goes_on_where_it_was(hub, tmp_path):  # noqa: F811
    path = pull(FILE).resolve()
    partial = path.with_name(f"{path.name}.incomplete")
    path.rename(partial)
    with open(partial, "r+b") as file:
        file.truncate(100_001)
    lines: list[str] = []
    assert pull(FILE, lines.append).read_bytes() == DATA
    assert hub.ranges() == [None, "bytes=100001-"] and "going on after" in lines[0]
    assert blobs(tmp_path) == [path]


def test_a_mirror_without_ranges_is_begun_with_again(hub, tmp_path):  # noqa: F811
    path = pull(FILE).resolve()
    partial = path.with_name(f"{path.name}.incomplete")
    path.rename(partial)
    with open(partial, "r+b") as file:
        file.truncate(100_001)
    hub.no_ranges = True
    lines: list[str] = []
    assert pull(FILE, lines.append).read_bytes() == DATA
    assert hub.ranges() == [None, "bytes=100001-", None] and "beginning again" in lines[-1]
    assert blobs(tmp_path) == [path]
    hub.status = 416  # whatever is asked: no loop
    refuse("HTTP 416")


@pytest.mark.parametrize("name", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
@pytest.mark.parametrize("value", ["soon", ""])
def test_a_malformed_timeout_is_named_and_needed_for_nothing_else(name, value):
    environment = os.environ | {name: value, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", "import json, sys\nfrom anytime_cls_cli.main import main\n"
         "print(json.dumps([main(['models', 'ls', '--json']), main(['models', 'pull', 'randar-l'])]))"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[0, 1]" and '"cifar10"' in done.stdout
    assert name in done.stderr and "whole number of seconds" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [None, "no certificates"])
def test_certificates_that_are_not_there_are_not_the_caches_fault(content, hub, tmp_path):  # noqa: F811
    place = tmp_path / "certificates.pem"
    if content is not None:
        place.write_text(content)
    code = "import sys; from anytime_cls_cli.main import main; sys.exit(main(['models', 'pull', 'hf:a/b/c']))"
    environment = os.environ | {
        "HF_ENDPOINT": hub.url.replace("http:", "https:"), "SSL_CERT_FILE": str(place),
        "REQUESTS_CA_BUNDLE": "",
        "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "SSL_CERT_FILE" in done.stderr
    assert "cache" not in done.stderr and (content or str(place) in done.stderr)


def test_without_a_home_no_folder_is_made(hub, tmp_path, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.chdir(tmp_path)
    refuse("no home folder is known .* HF_HOME")
    assert not (tmp_path / "~").exists()


def test_a_connection_that_breaks_is_taken_up_again(hub):  # noqa: F811
    hub.drop_after = 100_500
    assert pull(FILE).read_bytes() == DATA
    first, second = hub.ranges()
    assert first is None and second == "bytes=100000-"


def test_a_partial_file_that_is_too_long_starts_anew(hub):  # noqa: F811
    path = pull(FILE).resolve()
    path.with_name(f"{path.name}.incomplete").write_bytes(DATA + b"x")
    path.unlink()
    assert pull(FILE).read_bytes() == DATA and hub.ranges() == [None, None]


def test_what_came_must_have_the_hubs_checksum(hub, tmp_path):  # noqa: F811
    hub.etags[KEY] = "0" * 64
    refuse("SHA-256 is .* the hub's is 000000000000.*deleted; pull it again")
    assert blobs(tmp_path) == [] and cached(FILE) is None


def test_small_files_have_gits_checksum(hub):  # noqa: F811
    hub.etags[KEY] = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    assert pull(FILE).read_bytes() == DATA
    hub.files[KEY] = b"x" + DATA[1:]
    cached(FILE).resolve().unlink()
    refuse("SHA-1 is")


def test_a_damaged_copy_is_fetched_again(hub):  # noqa: F811
    path = pull(FILE).resolve()
    path.write_bytes(b"x" + DATA[1:])
    lines: list[str] = []
    assert pull(FILE, lines.append).read_bytes() == DATA
    assert "damaged" in lines[0] and len(hub.ranges()) == 2


def test_offline_what_is_there_is_checked(hub, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuse("not in the cache, and HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = pull(FILE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert pull(FILE) == path == find(str(FILE)) and len(hub.requests) == asked
    path.resolve().write_bytes(b"x" + DATA[1:])
    refuse("delete it, and pull it again online")


def test_what_is_not_there_is_said(hub):  # noqa: F811
    refuse("the repository has no such file", HubFile("owner/repo", "other.pt"))
    refuse("no such repository, or a private one that HF_TOKEN", HubFile("owner/none", "x.pt"))
    refuse("no revision 'v9'", HubFile("owner/repo", "deep/weights.bin", "v9"))
    assert pull(HubFile("owner/repo", "deep/weights.bin", COMMIT)).read_bytes() == DATA


def test_tokens_are_sent_and_their_lack_is_said(hub, monkeypatch):  # noqa: F811
    hub.token = "secret"
    refuse("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    refuse("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert pull(FILE).read_bytes() == DATA
    hub.gated.add("owner/repo")
    refuse(f"gated; accept its terms on {hub.url}/owner/repo, and set HF_TOKEN")


def test_a_server_in_trouble_and_no_server(hub, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    hub.status = 500
    refuse("the hub answers HTTP 500; try again later")
    hub.status = None
    hub.etags[KEY] = "../../evil"
    refuse("what answers is no Hugging Face hub")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    refuse("cannot be fetched from http://127.0.0.1:9 .*pull again")


def test_a_full_disk_is_said_before_the_download(hub, monkeypatch):  # noqa: F811
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(ours.shutil, "disk_usage", lambda path: usage)
    refuse("more are needed, .* set HF_HOME")
    assert hub.ranges() == []


def test_without_the_package_its_installation_is_said(monkeypatch):
    monkeypatch.setattr(ours, "available", lambda: False)
    for refused in (lambda: pull(FILE), lambda: find("randar-l")):
        with pytest.raises(ModelError, match="pip install huggingface_hub"):
            refused()
    assert cached(FILE) is None


@pytest.mark.parametrize(
    "text, file",
    [
        ("hf:a/b/c.pt", HubFile("a/b", "c.pt")),
        ("hf://a/b/d/c.pt", HubFile("a/b", "d/c.pt")),
        ("hf:a/b@v1.0/c.pt", HubFile("a/b", "c.pt", "v1.0")),
    ],
)
def test_names_of_files_on_the_hub(text, file):
    assert parse(text) == file == parse(str(file))


@pytest.mark.parametrize("text", ["a/b/c.pt", "hf:", "hf:a/b", "hf:a/b/", "hf:a/b/../../c", "hf:a/b//c"])
def test_names_that_make_no_sense(text):
    with pytest.raises(ModelError, match="expected hf:owner/repo/file"):
        parse(text)


def test_a_killed_pull_goes_on(tmp_path):
    """The real command with the real environment variables, killed in the middle, then run again."""
    data = os.urandom(25_000_000)
    command = "from anytime_cls.models import hub; print(hub.pull(hub.parse('hf:owner/repo/big.bin'), print))"
    with Hub() as server:
        server.files["owner/repo/big.bin"], server.token = data, "secret"
        server.stall_after = 21_000_000  # past two of the chunks in which huggingface_hub writes
        environment = os.environ | {
            "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret",
            "HF_HUB_DOWNLOAD_TIMEOUT": "300", "HF_HUB_ETAG_TIMEOUT": "300",
            "NO_PROXY": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        first = subprocess.Popen(
            [sys.executable, "-c", command], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        folder, until = tmp_path / "home" / "hub" / "models--owner--repo" / "blobs", time.monotonic() + 300
        while sum(path.stat().st_size for path in folder.glob("*.incomplete")) < 20_000_000:
            assert time.monotonic() < until and first.poll() is None, "nothing came"
            time.sleep(0.02)
        first.kill()
        first.wait()
        server.stall_after = None
        again = subprocess.run(
            [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
        )
        assert server.ranges()[-1] not in (None, "bytes=0-") and "going on after 21 MB" in again.stdout
        assert Path(again.stdout.splitlines()[-1]).read_bytes() == data
    offline = subprocess.run(
        [sys.executable, "-c", command], env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "offline" in offline.stdout and offline.stdout.splitlines()[-1] == again.stdout.splitlines()[-1]
