"""Where commands write: regular files only, and links are written through."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from basics import write_photo
from replay_data import full_trace, races
from sweep_data import make_images

from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter
from anytime_cls_cli.main import main

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
Command = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def there(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read: a full trace, a photograph, class folders, a model."""
    folder = tmp_path_factory.mktemp("there")
    scores = races(1, 60, n_classes=4, k_max=8)
    full_trace(folder / "full.h5", scores, scores.mean(axis=1).argmax(axis=1))
    write_photo(folder / "photo.jpg")
    make_images(folder / "data", 1)
    shutil.copytree(tiny_model_dir, folder / "tiny")
    return folder


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Makes something that is no regular file."""
    opened = []

    def make(kind: str, name: str) -> Path:
        path = tmp_path / name
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            try:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            except OSError:
                pytest.skip("only root makes devices")
        elif kind == "link to a fifo":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to("pipe")
        else:
            opened.append(socket.socket(socket.AF_UNIX))
            opened[0].bind(str(path))
        return path

    yield make
    for one in opened:
        one.close()


def command(name: str, there: Path, out: Path, replace: bool = True) -> list[str]:
    model = ["--model", str(there / "tiny"), "--device", "cpu", "-q"]
    words = {
        "sweep": ["sweep", str(there / "data"), *model, "--max-orders", "2", "-o", str(out)],
        "classify": ["classify", str(there / "photo.jpg"), *model, "--max-orders", "2", "--trace", str(out)],
        "replay": ["replay", str(there / "full.h5"), "--rule", "fixed", "-q", "-o", str(out)],
        "calibrate": ["calibrate", str(there / "full.h5"), "--risk", "0.5", "-q", "-o", str(out)],
        "plot": ["plot", str(there / "full.h5"), "--bootstrap", "0", "-q", "-o", str(out)],
        "merge": ["trace", "merge", str(there / "full.h5"), "-o", str(out)],
        "export": ["trace", "export", str(there / "full.h5"), "-o", str(out)],
    }[name]
    return words + (["--overwrite"] if replace and name not in ("classify", "plot") else [])


ENDINGS = {
    "sweep": ".h5", "classify": ".h5", "replay": ".h5", "calibrate": ".json", "plot": ".svg", "merge": ".h5",
    "export": ".csv",
}  # fmt: skip
KINDS = ("fifo", "device", "socket", "folder", "link to a fifo")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENDINGS)
def test_what_is_no_regular_file_is_refused_and_stays(name, kind, there, odd, tmp_path, capsys):
    out = odd(kind, f"out{ENDINGS[name]}")
    before = out.lstat(), sorted(os.listdir(tmp_path))
    code = main(command(name, there, out))
    printed, err = capsys.readouterr()
    assert code == 2 and printed == "" and err.count("\n") == 1 and str(out) in err
    assert (out.lstat().st_ino, out.lstat().st_mode) == (before[0].st_ino, before[0].st_mode)
    assert sorted(os.listdir(tmp_path)) == before[1]


@pytest.mark.parametrize("dangling", [False, True], ids=["link", "dangling link"])
@pytest.mark.parametrize("name", ENDINGS)
def test_a_link_is_written_through(name, dangling, there, tmp_path, capsys):
    if name == "classify" and not dangling:
        pytest.skip("replaces nothing")
    (tmp_path / "far").mkdir()
    link, real = tmp_path / f"out{ENDINGS[name]}", tmp_path / "far" / f"real{ENDINGS[name]}"
    link.symlink_to(f"far/{real.name}")
    if not dangling:
        real.write_bytes(b"old")
    code = main(command(name, there, link))
    assert code == 0, capsys.readouterr().err
    assert link.is_symlink() and os.readlink(link) == f"far/{real.name}"
    assert real.is_file() and not real.is_symlink() and real.stat().st_size > 3
    assert os.listdir(tmp_path / "far") == [real.name]  # no .parts, nothing temporary
    assert {*os.listdir(tmp_path)} <= {"far", link.name, "out.csv"}


def test_without_overwrite_a_link_to_a_file_is_that_file(there, tmp_path, capsys):
    real, link = tmp_path / "real.h5", tmp_path / "out.h5"
    real.write_bytes(b"mine")
    link.symlink_to("real.h5")
    for name in ("replay", "merge"):
        assert main(command(name, there, link, replace=False)) == 2
        assert "exists already" in capsys.readouterr().err and real.read_bytes() == b"mine"


def test_an_unfinished_trace_behind_a_link_is_read_and_gone_on_with(there, tmp_path, capsys):
    (tmp_path / "far").mkdir()
    link = tmp_path / "out.h5"
    link.symlink_to("far/real.h5")
    sweep = command("sweep", there, link, replace=False)
    assert main(sweep) == 0
    with Trace.open(link) as trace:
        attrs, labels, rows = trace.attrs, trace.labels, list(trace)
    (tmp_path / "far" / "real.h5").unlink()
    writer = TraceWriter.create(link, attrs, labels)
    writer.append(*rows[0], 0)
    writer.close(finish=False)
    assert (tmp_path / "far" / "real.h5.parts").is_dir() and not (tmp_path / "out.h5.parts").exists()
    with Trace.open(link) as trace:
        assert len(trace) == 1 and not trace.complete
    assert main([*sweep, "--resume"]) == 0
    with Trace.open(tmp_path / "far" / "real.h5") as trace:
        assert len(trace) == 4 and trace.complete
    assert link.is_symlink() and os.listdir(tmp_path / "far") == ["real.h5"]


def test_a_models_json_behind_a_link_is_written_through(there, tmp_path, capsys):
    """As where models are links into a store."""
    model, store = tmp_path / "m", tmp_path / "store"
    shutil.copytree(there / "tiny", model)
    store.mkdir()
    (model / "model.json").rename(store / "model.json")
    (model / "model.json").symlink_to("../store/model.json")
    sha = json.loads((store / "model.json").read_text())["sha256"]["transformer.safetensors"]
    scores = races(1, 60, n_classes=4, k_max=8)
    full = full_trace(tmp_path / "full.h5", scores, scores.mean(axis=1).argmax(axis=1), model_sha256=sha)
    assert main(["calibrate", str(full), "--risk", "0.5", "--write-model", str(model), "-q"]) == 0
    assert (model / "model.json").is_symlink() and os.listdir(store) == ["model.json"]
    assert json.loads((store / "model.json").read_text())["calibrated"]


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link to a fifo", "file"])
def test_a_model_is_trained_into_a_folder_only(kind, there, odd, tmp_path, capsys):
    out = tmp_path / "out"
    if kind == "file":
        out.write_bytes(b"mine")
    else:
        odd(kind, "out")
    before = out.lstat()
    assert main(["train", str(there / "data"), "--out", str(out), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{out} is no folder" in err
    assert (out.lstat().st_ino, out.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_what_training_writes_goes_through_links(there, tmp_path):
    """A model folder whose files are links into a store keeps them."""
    from safetensors.torch import load_file

    from anytime_cls.models.load import save_model

    out, store = tmp_path / "out", tmp_path / "store"
    out.mkdir()
    store.mkdir()
    names = ("model.json", "tokenizer.safetensors", "transformer.safetensors")
    for name in names:
        (out / name).symlink_to(f"../store/{name}")
    fields = json.loads((there / "tiny" / "model.json").read_text())
    states = [load_file(there / "tiny" / name) for name in names[:0:-1]]
    save_model(out, fields, *states)
    assert sorted(os.listdir(store)) == sorted(os.listdir(out)) == sorted(names)
    assert all((out / name).is_symlink() for name in names)


def test_a_file_that_is_read_is_not_written_over(there, tmp_path, capsys):
    """Nor through a link, nor with --overwrite: the scores would be gone."""
    full, link = tmp_path / "full.csv", tmp_path / "link.csv"
    shutil.copy(there / "full.h5", full)
    link.symlink_to("full.csv")
    before = full.read_bytes()
    for out in (full, link):
        for args in (["replay", str(full), "-o"], ["calibrate", str(full), "--out"],
                     ["trace", "merge", str(full), "-o"], ["trace", "export", str(full), "-o"]):  # fmt: skip
            assert main([*args, str(out), "--overwrite"]) == 2
            assert "is a file that is read here" in capsys.readouterr().err
    assert main(["plot", str(full), "-o", str(tmp_path / "full.png")]) == 2  # its numbers go to full.csv
    assert "is a file that is read here" in capsys.readouterr().err
    assert full.read_bytes() == before


def test_links_in_a_circle_and_pipes_are_no_traces(there, tmp_path, capsys):
    (tmp_path / "a.h5").symlink_to("b.h5")
    (tmp_path / "b.h5").symlink_to("a.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    full, new = str(there / "full.h5"), str(tmp_path / "new")
    for args in (["trace", "merge", full, "-o", str(tmp_path / "a.h5")],
                 ["trace", "merge", str(tmp_path / "a.h5"), "-o", f"{new}.h5"],
                 ["plot", str(tmp_path / "pipe.h5"), "-o", f"{new}.svg"]):  # fmt: skip
        assert main(args) == 2
        assert capsys.readouterr().err.count("\n") == 1
