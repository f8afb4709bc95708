"""`anytime-cls trace`: info, merge and export, over real files."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from trace_data import LABELS, RUN, check, digest, row_of, scores_of, write

from anytime_cls.traces import export as trace_export
from anytime_cls.traces import read as reading
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ImageRow, Scores, TraceError
from anytime_cls.traces.write import TraceWriter
from anytime_cls_cli.main import main
from anytime_cls_cli.show.trace import images_to_do, resume_command

SWEEP = RUN | {"command": "anytime-cls sweep 'my data' -o run.h5", "images": 12}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test are named as a user would, in the folder he is in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def cli(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `trace ARGUMENTS`."""
    code = main(["trace", *map(str, arguments)])
    return code, *capsys.readouterr()


def refused(capsys: Any, *arguments: object) -> str:
    """The one line that `trace ARGUMENTS` refuses with; nothing temporary is left."""
    code, out, err = cli(capsys, *arguments)
    assert code == 2 and out == "" and err.startswith("anytime-cls: ") and err.count("\n") == 1
    assert not list(Path().rglob(".tmp-*"))
    return err


def stopped(path: Path, indices: Any, provenance: dict[str, Any] = SWEEP) -> None:
    """A run that was ended before it was finished."""
    writer = TraceWriter.create(path, provenance, LABELS)
    for i in indices:
        writer.append(row_of(i), scores_of(i), i)
    writer.close(finish=False)
    assert not path.exists()


# ---- info


def test_info_for_people_names_the_method_and_spares_them_the_plan(capsys):
    plan = {"plan": '{"rule":{"is":"PairedRule"}}', "method": "sigma", "unit": "nats", "keyed": True}
    write(Path("run.h5"), range(3), SWEEP | plan)
    code, out, _ = cli(capsys, "info", "run.h5")
    assert code == 0 and "method sigma" in out and "PairedRule" not in out and "keyed" not in out


def test_info_as_json(capsys):
    write(Path("run.h5"), range(12), SWEEP)
    with TraceWriter.resume(Path("run.h5"), SWEEP, LABELS) as writer:
        bad = ImageRow("bad", "bad.png", 1, -1, 0, 0, 0, 0, "", 0, "not an image")
        writer.append(bad, Scores.empty(), 12)
    code, out, err = cli(capsys, "info", "run.h5", "run.h5", "--json")
    assert code == 0 and err == "" and len(out.splitlines()) == 2
    found = json.loads(out.splitlines()[1])
    assert found["path"] == "run.h5" and found["complete"] and found["resume"] is None
    assert (found["images"], found["errors"], found["classes"], found["labels"]) == (13, 1, 3, LABELS)
    labelled = [i for i in range(12) if i % 4]
    hits = sum(i % 3 == i % 4 - 1 for i in labelled)
    interval = binomtest(hits, len(labelled)).proportion_ci(method="wilson")
    assert found["accuracy"] == pytest.approx(
        {"value": hits / 9, "low": interval.low, "high": interval.high, "n": 9}
    )
    assert found["full_passes"] == 3 * 32 and found["calls"] == 12 * 12 and found["orders_p95"] == 4
    assert found["saving"] == pytest.approx(1 / np.mean([i / 7 for i in range(12)]))
    assert found["bytes"] == Path("run.h5").stat().st_size
    assert found["bytes_per_call"] == pytest.approx(found["bytes"] / 144)
    assert found["stop"] == {"decided": 12} and found["prefixes"] == [16, 64]
    assert found["scores"] == sum(len(scores_of(i)) for i in range(12))
    expected = {key: value for key, value in SWEEP.items() if value is not None}
    assert found["provenance"] == expected | {"schema": 2}


def test_info_for_people(capsys):
    write(Path("run.h5"), range(12), SWEEP | {"model": "tiny", "version_torch": "2.9"})
    code, out, err = cli(capsys, "info", "run.h5")
    assert code == 0 and err == ""
    rows = dict(line.split(None, 1) for line in out.splitlines()[1:] if line.strip())
    assert out.splitlines()[0] == "run.h5" and rows["run"].strip() == "finished"
    assert rows["model"].split(", ")[:2] == ["tiny", "sha256 " + "ab" * 6]
    for part in ("cifar10", "3 classes", "paired, δ 0.05, K_max 32", "uniform, seed 7"):
        assert part in out
    assert "torch 2.9" in rows["versions"] and "sweep 'my data' -o run.h5" in rows["command"]
    assert re.search(r"accuracy +\d+\.\d % \[\d+\.\d, \d+\.\d\] of 9 labelled images \(95 % interval\)", out)
    mean = 96 * np.mean([i / 7 for i in range(12)])  # whole passes: shares of the full cost
    assert f"{mean:.1f} an image of 96, {12 * mean:.0f} in all" in out and "12 an image, 144 in all" in out
    assert "stable 12 (100.0 %)" in out and "at 16, 64 tokens" in out and "bytes a call" in out
    share = np.mean([i / 7 for i in range(12)])
    assert f"{1 / share:.1f}× less compute" in out


@pytest.mark.parametrize("name", ["run.h5", "run.h5.parts", "run.h5.parts/"])
def test_info_of_an_unfinished_run_says_how_to_go_on(capsys, name):
    stopped(Path("run.h5"), range(5))
    code, out, _ = cli(capsys, "info", name)
    assert code == 0 and "not finished: 5 of 12 images" in out
    assert out.splitlines()[-1] == "go on with anytime-cls sweep 'my data' -o run.h5 --resume"
    found = json.loads(cli(capsys, "info", name, "--json")[1])
    assert (found["path"], found["complete"], found["images"]) == ("run.h5", False, 5)
    assert found["resume"] == "anytime-cls sweep 'my data' -o run.h5 --resume"


def test_info_of_a_run_without_images_has_no_numbers(capsys):
    stopped(Path("run.h5"), [])
    code, out, _ = cli(capsys, "info", "run.h5")
    assert code == 0 and "0 of 12 images" in out and "accuracy" in out and "nan" not in out
    found = json.loads(cli(capsys, "info", "run.h5", "--json")[1])
    assert found["accuracy"] is found["saving"] is found["bytes_per_call"] is found["orders_mean"] is None


def test_info_goes_on_after_a_file_that_is_no_trace(capsys):
    write(Path("run.h5"), range(3))
    Path("text.h5").write_text("hello")
    Path("short.h5").write_bytes(Path("run.h5").read_bytes()[:3000])
    code, out, err = cli(capsys, "info", "none.h5", "text.h5", "short.h5", "run.h5", "--json")
    assert code == 2 and json.loads(out)["images"] == 3
    lines = err.splitlines()
    assert len(lines) == 3 and "there is no trace at none.h5" in lines[0]
    assert "text.h5 is damaged or not a trace" in lines[1] and "short.h5 is damaged" in lines[2]


def test_the_command_that_goes_on():
    resume = [
        ("anytime-cls sweep x -o 'a b.h5'", "anytime-cls sweep x -o 'a b.h5' --resume"),
        ("anytime-cls sweep x --overwrite -o r.h5 --resume", "anytime-cls sweep x -o r.h5 --resume"),
        ("anytime-cls classify x.png --trace r.h5", None),
        ("python -c 'unclosed", None),
        (["anytime-cls sweep x --shard 1/2", "anytime-cls sweep x --shard 2/2"], None),
        (None, None),
    ]
    assert [resume_command({"command": command}) for command, _ in resume] == [to for _, to in resume]


def test_a_shard_is_finished_with_its_share_of_the_images():
    counts = [images_to_do({"images": 10, "shard": f"{i}/4"}) for i in range(1, 5)]
    assert counts == [3, 3, 2, 2]
    assert images_to_do({"images": 10}) == images_to_do({"images": 10, "shard": ["1/2", "2/2"]}) == 10
    assert images_to_do({}) is None and images_to_do({"images": 10, "shard": "0/0"}) == 10


# ---- merge


def shards(n: int = 3) -> list[str]:
    names = [f"s{i}.h5" for i in range(n)]
    for i, name in enumerate(names):
        write(Path(name), range(i, 12, n), SWEEP | {"shard": f"{i + 1}/{n}"})
    return names


def test_shards_merge_into_the_trace_of_one_run(capsys):
    names = shards()
    code, out, err = cli(capsys, "merge", *names[::-1], "-o", "run.h5")
    assert code == 0 and err == "" and out == "run.h5: 12 images from 3 traces\n"
    with Trace.open("run.h5") as trace:
        assert trace.complete and trace.attrs["shard"] == ["3/3", "2/3", "1/3"]
        check(trace, range(12))
    assert sorted(os.listdir()) == ["run.h5", *names]
    assert "run          finished" in cli(capsys, "info", "run.h5")[1]


def test_a_missing_shard_is_said(capsys):
    names = shards()
    code, out, _ = cli(capsys, "merge", names[0], names[2], "-o", "run.h5")
    assert code == 0 and "8 of the run's 12 images from 2 traces" in out
    assert "finished, but has 8 of 12 images" in cli(capsys, "info", "run.h5")[1]


def test_merge_replaces_only_when_told(capsys):
    names = shards()
    Path("run.h5").write_bytes(b"precious")
    assert "exists already" in refused(capsys, "merge", *names, "-o", "run.h5")
    assert Path("run.h5").read_bytes() == b"precious"
    assert cli(capsys, "merge", *names, "-o", "run.h5", "--overwrite")[0] == 0
    once = digest(Path("run.h5"))
    assert cli(capsys, "merge", *names, "-o", "again.h5")[0] == 0 and digest(Path("again.h5")) == once


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 8), ("model_sha256", "ef" * 32), ("dataset", "cifar100"), ("rule", "fixed"),
                       ("delta", 0.1), ("k_max", 16), ("dtype", "bf16"), ("tokens", 65)]
)  # fmt: skip
def test_merge_refuses_another_run_and_says_in_what(capsys, key, value):
    write(Path("a.h5"), range(3))
    write(Path("b.h5"), range(3, 6), RUN | {key: value})
    said = refused(capsys, "merge", "a.h5", "b.h5", "-o", "run.h5")
    assert f"{key} is {RUN[key]}" in said and str(value) in said and "a.h5" in said and "b.h5" in said
    assert not Path("run.h5").exists()


def test_merge_refuses_other_images(capsys):
    write(Path("a.h5"), range(4))
    for name, image, index in (("other", "x", 2), ("moved", "im1", 9)):
        with TraceWriter.create(f"{name}.h5", RUN, LABELS) as writer:
            row = ImageRow(image, "", 0, 0, 1, 1, 1, 1, "decided", 1)
            writer.append(row, Scores.empty(), index)
    said = refused(capsys, "merge", "a.h5", "other.h5", "-o", "run.h5")
    assert "number 2 of the run is 'im2' there and 'x' here" in said
    said = refused(capsys, "merge", "a.h5", "moved.h5", "-o", "run.h5")
    assert "image 'im1' is number 1 there and 9 here" in said and not Path("run.h5").exists()


def test_merge_and_unfinished_shards(capsys):
    write(Path("a.h5"), range(4), SWEEP)
    stopped(Path("b.h5"), range(4, 9))
    said = refused(capsys, "merge", "a.h5", "b.h5", "-o", "run.h5")
    assert "b.h5 is unfinished (5 images so far)" in said
    code, out, _ = cli(capsys, "merge", "a.h5", "b.h5.parts", "-o", "run.h5", "--allow-unfinished")
    assert code == 0 and "9 of the run's 12 images" in out
    with Trace.open("run.h5") as trace:
        assert not trace.complete
        check(trace, range(9))
    assert Path("b.h5.parts").is_dir()


def test_merge_refuses_nonsense(capsys):
    names = shards()
    assert "s0.h5 is a file that is read" in refused(capsys, "merge", *names, "-o", "s0.h5", "--overwrite")
    assert "none is not a folder" in refused(capsys, "merge", *names, "-o", "none/run.h5")
    assert "is a folder" in refused(capsys, "merge", *names, "-o", ".")
    assert "no trace at gone.h5" in refused(capsys, "merge", *names, "gone.h5", "-o", "run.h5")
    stopped(Path("half.h5"), range(3))
    assert "is not finished" in refused(capsys, "merge", *names, "-o", "half.h5", "--overwrite")
    assert "'--out'" in refused(capsys, "merge", *names)


def test_a_full_disk_is_a_failure_and_leaves_what_was_there(capsys, monkeypatch):
    names = shards()
    Path("run.h5").write_bytes(b"precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, out, err = cli(capsys, "merge", *names, "-o", "run.h5", "--overwrite")
    assert code == 1 and out == "" and err.startswith("anytime-cls: cannot write run.h5: No space left")
    code, out, err = cli(capsys, "export", names[0], "-o", "x.csv")
    assert (code, out, err) == (1, "", "anytime-cls: cannot write x.csv: No space left on device\n")
    assert Path("run.h5").read_bytes() == b"precious" and sorted(os.listdir()) == ["run.h5", *names]


# ---- export


def long_table() -> list[tuple[Any, ...]]:
    """What --scores must give for images 0 to 7."""
    rows = []
    for i in range(8):
        s = scores_of(i)
        for order, cls, prefix, number, value in zip(s.order, s.cls, s.prefix, s.round, s.value, strict=True):
            rows.append((f"im{i}", order, cls, LABELS[cls], prefix, number, value))
    return rows


def test_images_as_csv_and_parquet(capsys):
    write(Path("run.h5"), range(8))
    assert cli(capsys, "export", "run.h5", "-o", "x.csv") == (0, "x.csv: 8 images\n", "")
    with open("x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"im{i}" for i in range(8)]
    assert rows[3]["label_name"] == "épagneul" and float(rows[5]["probability"]) == row_of(5).probability
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert cli(capsys, "export", "run.h5", "-o", "x.PARQUET") == (0, "x.PARQUET: 8 images\n", "")
    table = pandas.read_parquet("x.PARQUET")
    assert table["id"].tolist() == [f"im{i}" for i in range(8)] and list(table) == list(rows[0])
    assert table["seconds"].tolist() == [row_of(i).seconds for i in range(8)]


def test_scores_as_csv(capsys):
    stopped(Path("run.h5"), range(8))
    expected = long_table()
    code, out, err = cli(capsys, "export", "run.h5", "-o", "x.csv", "--scores")
    assert code == 0 and err == ""
    assert out == f"x.csv: {len(expected)} log-likelihoods of 8 images (the run is not finished)\n"
    with open("x.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "order", "cls", "cls_name", "prefix", "round", "value"]
    types = (str, int, int, str, int, int, float)
    assert [tuple(kind(x) for kind, x in zip(types, row, strict=True)) for row in rows] == expected


@pytest.mark.parametrize("group", [1, 20, 1 << 20])
def test_scores_as_parquet(capsys, monkeypatch, group):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(Path("run.h5"), range(8))
    monkeypatch.setattr(trace_export, "_ROW_GROUP", group)
    assert cli(capsys, "export", "run.h5", "-o", "x.parquet", "--scores")[0] == 0
    table = parquet.read_table("x.parquet")
    assert list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True)) == long_table()
    assert parquet.ParquetFile("x.parquet").num_row_groups >= (1 if group > 200 else 8 * 10 // 20)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_scores_are_exported_in_bounded_memory(monkeypatch, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(reading, "_BLOCK", 2000)
    monkeypatch.setattr(trace_export, "_ROW_GROUP", 2000)
    order, cls = np.divmod(np.arange(1000), 3)
    peaks = []
    for n in (10, 10, 60):  # the first pays for what is imported and cached
        with TraceWriter.create(f"{n}.h5", RUN, LABELS, overwrite=True) as writer:
            for i in range(n):
                values = np.random.default_rng(i).normal(-300, 3, 1000).astype("f4")
                writer.append(row_of(i), Scores(order, cls, order * 0 + 64, order, values), i)
        with Trace.open(f"{n}.h5") as opened:
            tracemalloc.start()
            assert getattr(trace_export, f"export_scores_{kind}")(opened, f"x.{kind}") == n * 1000
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    # 50 images more are 600 KB more of scores, and several times that as Python's numbers
    assert peaks[2] - peaks[1] < 150_000, peaks


def test_nothing_scored_is_an_empty_table(capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    stopped(Path("run.h5"), [])
    for name in ("x.csv", "x.parquet"):
        assert cli(capsys, "export", "run.h5", "-o", name, "--scores")[0] == 0
    assert Path("x.csv").read_text("utf-8").splitlines() == [",".join(trace_export.COLUMNS)]
    assert parquet.read_table("x.parquet").num_rows == 0


def test_file_names_that_are_not_utf8(capsys):
    name = os.fsdecode(b"caf\xe9.png")
    with TraceWriter.create("run.h5", RUN, LABELS) as writer:
        writer.append(ImageRow(name, name, 0, 0, 1, 1, 1, 1, "decided", 1), scores_of(3), 0)
    kinds = [["x.csv"], ["y.csv", "--scores"]]
    for module in ("pandas", "pyarrow"):
        pytest.importorskip(module)
        kinds = [*kinds[:2], ["x.parquet"], ["y.parquet", "--scores"]]
    for out, *scores in kinds:
        assert cli(capsys, "export", "run.h5", "-o", out, *scores)[0] == 0
        assert b"caf\\udce9.png" in Path(out).read_bytes()


def test_export_replaces_only_when_told(capsys):
    write(Path("run.h5"), range(3))
    Path("x.csv").write_text("precious")
    assert "x.csv exists already" in refused(capsys, "export", "run.h5", "-o", "x.csv")
    assert Path("x.csv").read_text() == "precious"
    assert cli(capsys, "export", "run.h5", "-o", "x.csv", "--overwrite")[0] == 0
    assert Path("x.csv").read_text("utf-8").count("\n") == 4


def test_an_export_that_fails_leaves_nothing(capsys, monkeypatch):
    write(Path("run.h5"), range(3))
    Path("x.csv").write_text("precious")

    def torn(self: Trace) -> Any:
        yield self.row(0), self.scores(0)
        raise TraceError("run.h5 is damaged")

    monkeypatch.setattr(Trace, "__iter__", torn)
    said = refused(capsys, "export", "run.h5", "-o", "x.csv", "--scores", "--overwrite")
    assert said == "anytime-cls: run.h5 is damaged\n"
    assert Path("x.csv").read_text() == "precious" and sorted(os.listdir()) == ["run.h5", "x.csv"]


@pytest.mark.parametrize(("scores", "module"), [([], "pandas"), (["--scores"], "pyarrow")])
def test_parquet_without_its_packages_names_them(capsys, monkeypatch, scores, module):
    write(Path("run.h5"), range(3))
    monkeypatch.setitem(sys.modules, module, None)
    said = refused(capsys, "export", "run.h5", "-o", "x.parquet", *scores)
    assert "pip install" in said and module in said and not Path("x.parquet").exists()


def test_export_refuses_nonsense(capsys):
    write(Path("run.h5"), range(3))
    for out in ("x.txt", "x", "-"):
        assert "csv, parquet or npz" in refused(capsys, "export", "run.h5", "-o", out)
    assert "none is not a folder" in refused(capsys, "export", "run.h5", "-o", "none/x.csv")
    assert "no trace at gone.h5" in refused(capsys, "export", "gone.h5", "-o", "x.csv")
    Path("dir.csv").mkdir()
    assert "is a folder" in refused(capsys, "export", "run.h5", "-o", "dir.csv", "--overwrite")
    assert sorted(os.listdir()) == ["dir.csv", "run.h5"]


# ---- as a program


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anytime_cls_cli", "trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_the_program(tmp_path):
    write(Path("run.h5"), range(4))
    done = program("info", "run.h5", "--json")
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["images"] == 4
    done = program("export", "nothing.h5", "-o", "x.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "anytime-cls: there is no trace at nothing.h5\n"


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    write(Path("run.h5"), range(4))
    command = [sys.executable, "-m", "anytime_cls_cli", "trace", "info", "--json", *["run.h5"] * 500]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
