"""Going on: what failed is tried again, and images that changed are not mixed with those that were raced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from sweep_data import contents, make_images, sweep
from trace_data import LABELS, RUN, row_of, scores_of

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.traces.merge import merge_traces
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ImageRow, Scores, TraceError
from anytime_cls.traces.write import TraceWriter

BROKEN = ("bird/1.png", "car/0.png", "plane/1.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures of four classes."""
    return make_images(tmp_path / "data", 2)


@pytest.fixture
def options(tiny_model_dir: Path, tmp_path: Path) -> tuple[Any, ...]:
    return ("--model", tiny_model_dir, "--max-orders", 4, "-o", tmp_path / "x.h5")


def away(data: Path) -> None:
    """The share goes away: these files cannot be read any more."""
    (data.parent / "kept").mkdir()
    for name in BROKEN:
        (data / name).rename(data.parent / "kept" / name.replace("/", "-"))
        (data / name).write_bytes(b"")


def back(data: Path, *names: str) -> None:
    for name in names:
        (data / name).unlink()
        (data.parent / "kept" / name.replace("/", "-")).rename(data / name)


# ---- images that failed


def test_images_that_failed_are_tried_again_until_none_is_left(data, options, tmp_path, capsys):
    assert sweep(capsys, data, *options[:-1], tmp_path / "clean.h5", "-q")[0] == 0
    away(data)
    again = (data, *options)
    code, found, err = sweep(capsys, *again)
    assert code == 1 and found["errors"] == 3
    back(data, BROKEN[0])
    code, found, err = sweep(capsys, *again, "--resume")
    last = err.splitlines()[-1]
    assert code == 1 and found["errors"] == 2 and found["images"] == 8
    assert "2 of 8 images could not be classified" in last and last.endswith("--resume")
    before = (tmp_path / "x.h5").read_bytes()
    code, found, err = sweep(capsys, *again, "--resume")  # nothing has changed: nor has the trace
    assert code == 1 and found["errors"] == 2 and (tmp_path / "x.h5").read_bytes() == before
    back(data, *BROKEN[1:])
    code, found, err = sweep(capsys, *again, "--resume")
    assert code == 0 and found["errors"] == 0 and "could not" not in err
    assert contents(tmp_path / "x.h5") == contents(tmp_path / "clean.h5")
    assert sorted(p.name for p in tmp_path.glob("x.h5*")) == ["x.h5"]
    code, found, err = sweep(capsys, *again, "--resume")
    assert code == 0 and "is finished" in err


def test_workers_try_again_too(data, options, tmp_path, capsys):
    assert sweep(capsys, data, *options[:-1], tmp_path / "clean.h5", "-q")[0] == 0
    away(data)
    assert sweep(capsys, data, *options)[0] == 1
    back(data, *BROKEN[:2])
    code, found, err = sweep(capsys, data, *options, "--resume", "--workers", 2)
    assert code == 1 and found["errors"] == 1 and "1 of 8 images could not" in err.splitlines()[-1]
    back(data, BROKEN[2])
    assert sweep(capsys, data, *options, "--resume")[0] == 0
    assert contents(tmp_path / "x.h5") == contents(tmp_path / "clean.h5")


def test_shards_are_tried_again_too_and_merge_to_the_whole(data, options, tmp_path, capsys):
    assert sweep(capsys, data, *options, "-q")[0] == 0
    away(data)
    shards = [tmp_path / f"{i}.h5" for i in (1, 2)]
    for i, path in enumerate(shards, 1):
        assert sweep(capsys, data, *options[:-1], path, "--shard", f"{i}/2")[0] == 1
    shutil.copy(shards[0], tmp_path / "failed.h5")
    back(data, *BROKEN)
    for i, path in enumerate(shards, 1):
        assert sweep(capsys, data, *options[:-1], path, "--shard", f"{i}/2", "--resume")[0] == 0
    merge_traces([tmp_path / "failed.h5", *shards], tmp_path / "all.h5")  # an answer comes before an error
    assert contents(tmp_path / "all.h5") == contents(tmp_path / "x.h5")


def failure(i: int, error: str = "no such file") -> tuple[ImageRow, Scores, int]:
    return ImageRow(f"im{i}", f"{i}.png", 0, -1, 0, 0, 0.0, 0.0, "", float("nan"), error), Scores.empty(), i


def test_an_error_gives_way_in_a_trace_that_was_killed_and_in_one_that_is_finished(tmp_path):
    path = tmp_path / "x.h5"
    for finish in (False, True):
        writer = TraceWriter.create(path, RUN, LABELS, overwrite=True)
        writer.append(row_of(0), scores_of(0), 0)
        writer.append(*failure(1))
        writer.append(*failure(2))
        writer.close(finish)
        again = TraceWriter.resume(path, RUN, LABELS)
        assert again.done == {"im0"} and again.failed == {"im1": "no such file", "im2": "no such file"}
        again.append(row_of(1), scores_of(1), 1)
        again.append(*failure(1))  # a chunk done twice: the answer stays
        again.append(*failure(2, "broken"))
        assert again.done == {"im0", "im1"} and again.failed == {"im2": "broken"}
        with pytest.raises(TraceError, match="ids must be unique"):
            again.append(*failure(2)[:2], 1)
        with pytest.raises(TraceError, match="ids must be unique"):
            again.append(*failure(3)[:2], 2)
        again.close(finish=False)  # killed here
        with Trace.open(path) as trace:
            assert len(trace) == 3 and not trace.complete and trace.row(2).error == "broken"
            assert trace.row(1) == row_of(1) and len(trace.scores(1)) == len(scores_of(1))
        with TraceWriter.resume(path, RUN, LABELS) as last:
            assert last.done == {"im0", "im1"} and last.failed == {"im2": "broken"}
        with Trace.open(path) as trace:
            assert trace.complete and [row.error for row, _ in trace] == ["", "", "broken"]
        assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_a_run_of_failures_alone_keeps_them_when_it_is_cut_short(tmp_path):
    with pytest.raises(ZeroDivisionError), TraceWriter.create(tmp_path / "x.h5", RUN, LABELS) as writer:
        writer.append(*failure(0))
        raise ZeroDivisionError
    with Trace.open(tmp_path / "x.h5") as trace:
        assert trace.row(0).error == "no such file"


# ---- images that changed


def recolour(path: Path) -> None:
    """Other pixels under the same name, as many bytes or not."""
    rng = np.random.default_rng(9)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def cut_short(path: Path, gone: int = 3) -> None:
    """The finished trace as a run that was killed before its last images."""
    with Trace.open(path) as trace:
        attrs, labels, rows = trace.attrs, trace.labels, list(trace)
    with TraceWriter.create(path, attrs, labels, overwrite=True) as writer:
        for i, (row, scores) in enumerate(rows[:-gone]):
            writer.append(row, scores, i)


def test_pixels_that_changed_under_the_same_names_are_refused_and_named(
    data, options, tmp_path, capsys, monkeypatch
):
    assert sweep(capsys, data, *options, "-q")[0] == 0
    cut_short(tmp_path / "x.h5")
    before = (tmp_path / "x.h5").read_bytes()
    recolour(data / "car" / "1.png")
    recolour(data / "bird" / "0.png")
    with monkeypatch.context() as patch:
        patch.setattr(AnytimeClassifier, "load", None)
        code, found, err = sweep(capsys, data, *options, "--resume")
    assert code == 2 and found is None and "cannot resume" in err and "--overwrite" in err
    assert str(data / "car/1.png") in err and str(data / "bird/0.png") in err and "cat" not in err
    assert (tmp_path / "x.h5").read_bytes() == before and len(list(tmp_path.glob("x.h5*"))) == 1
    assert sweep(capsys, data, *options, "--overwrite", "-q")[0] == 0


def test_one_that_changed_where_nothing_is_left_to_do_is_refused_too(data, options, capsys):
    assert sweep(capsys, data, *options, "-q")[0] == 0
    (data / "cat" / "0.png").write_bytes(b"")
    code, _, err = sweep(capsys, data, *options, "--resume")
    assert code == 2 and "cat/0.png" in err and "empty" in err


def test_images_not_raced_yet_may_change(data, options, tmp_path, capsys):
    assert sweep(capsys, data, *options, "-q")[0] == 0
    cut_short(tmp_path / "x.h5")
    recolour(data / "plane" / "1.png")  # the last
    code, found, _ = sweep(capsys, data, *options, "--resume")
    assert code == 0 and found["images"] == 8


def test_files_that_only_look_otherwise_are_compared_by_content(data, options, tmp_path, capsys):
    """Touched, written anew without loss, copied elsewhere: the same pictures."""
    assert sweep(capsys, data, *options[:-1], tmp_path / "whole.h5", "-q")[0] == 0
    assert sweep(capsys, data, *options, "-q")[0] == 0
    cut_short(tmp_path / "x.h5")
    os.utime(data / "cat" / "0.png", (1, 1))
    with Image.open(data / "bird" / "0.png") as picture:
        picture.load()
        picture.save(data / "bird" / "0.png", compress_level=0)
    code, found, err = sweep(capsys, data, *options, "--resume")
    assert code == 0 and found["images"] == 8 and "2 files are not as they were" in err
    cut_short(tmp_path / "x.h5")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(data, tmp_path / "elsewhere" / "data", copy_function=shutil.copyfile)
    code, _, err = sweep(capsys, tmp_path / "elsewhere" / "data", *options, "--resume")
    assert code == 0 and "5 files are not as they were" in err
    scores = [contents(tmp_path / name)["scores"] for name in ("x.h5", "whole.h5")]
    assert scores[0] == scores[1]


def test_unchanged_files_are_looked_at_and_not_read(data, options, tmp_path, capsys, monkeypatch):
    assert sweep(capsys, data, *options, "-q")[0] == 0
    with Trace.open(tmp_path / "x.h5") as trace:
        for row, _ in trace:
            found = (data / row.id).stat()
            assert (row.size, row.modified) == (found.st_size, found.st_mtime_ns)
    monkeypatch.setattr("anytime_cls.sweeps.resume.decode", None)
    assert sweep(capsys, data, *options, "--resume")[0] == 0


def test_a_trace_from_before_sizes_were_kept_is_compared_by_content(data, options, tmp_path, capsys):
    assert sweep(capsys, data, *options, "-q")[0] == 0
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["images/size"], file["images/modified"]
    with Trace.open(tmp_path / "x.h5") as trace:
        assert trace.row(0).size == trace.row(0).modified == 0
    assert sweep(capsys, data, *options, "--resume")[0] == 0
    recolour(data / "cat" / "0.png")
    code, _, err = sweep(capsys, data, *options, "--resume")
    assert code == 2 and "cat/0.png" in err


# ---- a read that never ends

HANGING = """
import os, sys
from anytime_cls.datasets.layouts import FileSource

def load(self, before=FileSource.__call__):
    if self.path.endswith("plane/1.png"):
        open(os.environ["HANG"] + ".reached", "w").close()
        os.open(os.environ["HANG"], os.O_RDONLY)
    return before(self)

FileSource.__call__ = load
if __name__ == "__main__":
    from anytime_cls_cli.main import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_a_sweep_whose_read_hangs(data, options, tmp_path, capsys, workers):
    (tmp_path / "program.py").write_text(HANGING)
    os.mkfifo(tmp_path / "hang")
    words = ["sweep", data, *options, "--workers", workers, "--device", "cpu", "-q"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), *map(str, words)], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"HANG": str(tmp_path / "hang")},
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "hang.reached").exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted; go on with: " in err, err
    code, found, _ = sweep(capsys, data, *options, "--resume", "-q")
    assert code == 0 and found["images"] == 8
