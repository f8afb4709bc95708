"""Traces: what is written is read back, whatever the process, the disk or the user does in between."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_data import LABELS, ROOT, RUN, check, digest, in_child, posix, row_of, scores_of, write

from anytime_cls.traces import publish
from anytime_cls.traces import read as reading
from anytime_cls.traces.export import export_csv, export_parquet
from anytime_cls.traces.merge import merge_traces
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import MATCH_KEYS, ImageRow, Scores, TraceError
from anytime_cls.traces.summary import summary
from anytime_cls.traces.write import TraceWriter

# ---- what goes in comes out


def test_round_trip_in_any_order(tmp_path):
    order = [5, 2, 9, 0, 7, 1]
    write(tmp_path / "x.h5", order, images_per_part=2)
    with Trace.open(tmp_path / "x.h5") as trace:
        assert trace.complete and len(trace) == 6 and trace.labels == LABELS
        expected = {k: v for k, v in RUN.items() if v is not None} | {"schema": 2}
        assert trace.attrs == expected
        assert {type(trace.attrs[k]) for k in ("seed", "delta", "device", "versions")} == {
            int,
            float,
            str,
            list,
        }
        check(trace, order)
        np.testing.assert_array_equal(trace.scores(3).value, scores_of(5).value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
value = st.floats(width=32, allow_nan=False)
one = st.tuples(st.integers(0, 65535), st.integers(0, 2), st.integers(1, 64), st.integers(0, 65535), value)
ragged = st.lists(
    st.tuples(text, text, st.floats(), st.lists(one, max_size=6, unique_by=lambda s: s[:3])), max_size=6
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ragged, st.integers(1, 4))
def test_any_content_round_trips(tmp_path_factory, images, per_part):
    path = tmp_path_factory.mktemp("any") / "x.h5"
    with TraceWriter.create(path, {"tokens": 64}, LABELS, images_per_part=per_part) as writer:
        for i, (name, error, number, rows) in enumerate(images):
            columns = np.array(rows, float).reshape(-1, 5).T
            row = ImageRow(f"{name}{i}", name, -1, 0, i, 2**40, number, number, name, number, error)
            writer.append(row, Scores(*columns), i)
    with Trace.open(path) as trace:
        assert len(trace) == len(images)
        for i, ((row, scores), (name, error, number, rows)) in enumerate(zip(trace, images, strict=True)):
            assert (row.id, row.path, row.stop, row.error, row.passes) == (
                f"{name}{i}",
                name,
                name,
                error,
                2**40,
            )
            np.testing.assert_array_equal([row.seconds, row.probability, row.token_fraction], [number] * 3)
            back = [scores.order, scores.cls, scores.prefix, scores.round, scores.value]
            np.testing.assert_array_equal(np.stack(back, 1), np.array(rows, float).reshape(-1, 5))


def test_file_names_that_are_not_utf8_and_long_errors(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    row = ImageRow(name, name, -1, -1, 0, 0, 0, 0, "error", 0, f"cannot\0 read {name} " + "x" * 9999)
    with TraceWriter.create(tmp_path / "x.h5", RUN | {"command": name}, LABELS) as writer:
        writer.append(row, Scores.empty(), 0)
    with Trace.open(tmp_path / "x.h5") as trace:
        assert (
            trace.row(0).id == trace.row(0).path == name and os.fsencode(trace.row(0).path) == b"caf\xe9.png"
        )
        assert (
            trace.row(0).error.startswith("cannot  read caf\\udce9.png xx") and len(trace.row(0).error) < 320
        )
        export_csv(trace, tmp_path / "x.csv")
    with TraceWriter.resume(tmp_path / "x.h5", RUN, LABELS) as again:
        assert again.done == set() and [*again.failed] == [name]


def test_long_provenance_fits(tmp_path):
    long = {"tokens": 4, "command": "x" * 100_000, "ids": [f"image {i}" for i in range(20_000)], "none": []}
    labels = [f"label {i}" for i in range(20_000)]
    TraceWriter.create(tmp_path / "x.h5", long, labels).close()
    with Trace.open(tmp_path / "x.h5") as trace:
        assert trace.attrs == long | {"schema": 2} and trace.labels == labels and len(trace) == 0
        assert list(trace) == [] and list(trace.full_matrix()) == []
        assert summary(trace)["images"] == 0


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("value", [0.1, 0]), ("value", [float("nan"), 0]), ("value", [1e300, 0]), ("value", [1.0]),
        ("order", [0, -1]), ("order", [0, 65536]), ("cls", [0, 0.5]), ("prefix", [[1, 1]]),
        ("round", ["a", "b"]),
    ],
)  # fmt: skip
def test_scores_refuse(column, bad):
    good = {"order": [0, 1], "cls": [0, 0], "prefix": [64, 64], "round": [0, 1], "value": [-1.5, -np.inf]}
    assert len(Scores(**good)) == 2
    with pytest.raises(TraceError, match=column if column != "value" or len(bad) == 2 else "shape"):
        Scores(**(good | {column: bad}))


def test_append_refuses_what_does_not_fit_and_loses_nothing(tmp_path):
    one = np.ones(1)
    with TraceWriter.create(tmp_path / "x.h5", RUN, LABELS) as writer:
        writer.append(row_of(0), scores_of(0), 0)
        bad = [
            (row_of(1), Scores(one, one * 3, one, one, one), 1, "class 3, but there are 3"),
            (row_of(1), Scores(one, one, one * 65, one, one), 1, "1 to 64 tokens"),
            (row_of(1), Scores(one, one, one * 0, one, one), 1, "screen 1, which the trace does not name"),
            (row_of(1), Scores(*np.ones((5, 2))), 1, "scored twice"),
            (row_of(1), scores_of(1), 0, "ids must be unique"),
            (row_of(0), scores_of(0), 1, "ids must be unique"),
            (row_of(1), scores_of(1), -1, "index cannot be -1"),
            (ImageRow("a", "a\0b", 0, 0, 0, 0, 0, 0, "", 0), scores_of(1), 1, "path cannot be"),
            (ImageRow("a", "b", 0, 0.5, 0, 0, 0, 0, "", 0), scores_of(1), 1, "prediction cannot be 0.5"),
            (ImageRow(3, "b", 0, 0, 0, 0, 0, 0, "", 0), scores_of(1), 1, "id cannot be 3"),
        ]
        for row, scores, index, message in bad:
            with pytest.raises(TraceError, match=message):
                writer.append(row, scores, index)
        writer.append(row_of(0), scores_of(0), 0)  # done again: ignored
        writer.append(row_of(1), scores_of(1), 1)
    with Trace.open(tmp_path / "x.h5") as trace:
        check(trace, [0, 1])


def full(
    path: Path, n: int, failed=(), missing=(), classes: int = 3, orders: int = 4, **options
) -> np.ndarray:
    """A trace where everything is scored at 16 and 64 tokens; returns the whole-order values [n, K, C]."""
    values = np.random.default_rng(0).normal(-300, 3, (n, orders, classes)).astype("f4").astype(float)
    o, c = (a.ravel() for a in np.indices((orders, classes)))
    labels = [str(k) for k in range(classes)]
    with TraceWriter.create(path, RUN | {"rule": "fixed"}, labels, **options) as writer:
        for i in range(n):
            v = values[i].ravel()
            s = Scores(
                *[np.r_[a, b] for a, b in [(o, o), (c, c), (o * 0 + 16, o * 0 + 64), (o, o), (v / 4, v)]]
            )
            if i in missing:
                s = Scores(s.order[:-1], s.cls[:-1], s.prefix[:-1], s.round[:-1], s.value[:-1])
            row = row_of(i)
            if i in failed:
                row, s = ImageRow(**(vars(row) | {"error": "cannot read"})), Scores.empty()
            writer.append(row, s, i)
    return values


def test_matrices(tmp_path):
    values = full(tmp_path / "x.h5", 11, failed=[0, 5])
    values[[0, 5]] = np.nan
    with Trace.open(tmp_path / "x.h5") as trace:
        for batch in (1, 4, 256):
            stacks = list(trace.full_matrix(batch))
            assert max(map(len, stacks)) <= batch
            np.testing.assert_array_equal(np.concatenate(stacks), values)
        np.testing.assert_array_equal(np.concatenate(list(trace.full_matrix(prefix=16))), values / 4)
        np.testing.assert_array_equal(np.concatenate(list(trace.full_matrix(k_max=2))), values[:, :2])
        np.testing.assert_array_equal(trace.matrix(3), values[3])
        np.testing.assert_array_equal(trace.matrix(3, k_max=2, prefix=16), values[3, :2] / 4)
        np.testing.assert_array_equal(trace.matrix(3, k_max=6)[:4], values[3])
        assert np.isnan(trace.matrix(3, k_max=6)[4:]).all() and trace.matrix(0).shape == (0, 3)
        with pytest.raises(TraceError, match="im1 is not scored in full"):
            list(trace.full_matrix(prefix=8))
    full(tmp_path / "y.h5", 5, missing=[3])
    with Trace.open(tmp_path / "y.h5") as trace, pytest.raises(TraceError, match="im3 is not scored in full"):
        list(trace.full_matrix(2))


# ---- many writers


@posix
def test_workers_write_parts_of_one_trace(tmp_path):
    """Four workers, chunks done twice, one of them killed, and a second run refused meanwhile."""
    write(tmp_path / "whole.h5", range(40))
    path = tmp_path / "x.h5"
    with TraceWriter.create(path, RUN, LABELS) as main:
        main.append(row_of(39), scores_of(39), 39)

        def chunk(indices, killed=False):
            worker = TraceWriter.attach(path, RUN, LABELS, images_per_part=3)
            for i in indices:
                worker.append(row_of(i), scores_of(i), i)
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            worker.close()

        pids = []
        for n, indices in enumerate([range(0, 20), range(10, 30), range(25, 38, 2), range(38, 25, -1)]):
            if not (pid := os.fork()):
                status = 1
                try:
                    chunk(indices, killed=n == 2)
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert codes == [0, 0, -signal.SIGKILL, 0]
        assert main.refresh() == {f"im{i}" for i in range(40)}

        def second():
            for start in (TraceWriter.create, TraceWriter.resume):
                with pytest.raises(TraceError, match=r"exists already|written by another process"):
                    start(path, RUN, LABELS)
            with pytest.raises(TraceError, match="seed is 7 there"):
                TraceWriter.attach(path, RUN | {"seed": 1}, LABELS)

        assert in_child(second) == 0
    assert digest(path) == digest(tmp_path / "whole.h5")


def test_shards_merge_to_the_whole(tmp_path):
    write(tmp_path / "whole.h5", range(12))
    shards = [tmp_path / f"{k}.h5" for k in range(3)]
    for k, shard in enumerate(shards):
        write(shard, range(k, 12, 3))
    merge_traces(shards, tmp_path / "all.h5")
    assert digest(tmp_path / "all.h5") == digest(tmp_path / "whole.h5")
    write(tmp_path / "more.h5", range(9, 15), RUN | {"device": "cuda"})
    with pytest.raises(TraceError, match="exists already"):
        merge_traces(shards, tmp_path / "all.h5")
    merge_traces([tmp_path / "all.h5", tmp_path / "more.h5"], tmp_path / "all.h5", overwrite=True)
    with Trace.open(tmp_path / "all.h5") as trace:
        assert trace.complete and trace.attrs["device"] == ["cpu", "cuda"] and trace.attrs["seed"] == 7
        check(trace, range(15))
    writer = TraceWriter.create(tmp_path / "part.h5", RUN, LABELS)
    writer.append(row_of(20), scores_of(20), 20)
    writer.close(finish=False)
    with pytest.raises(TraceError, match=r"part.h5 is unfinished \(1 images so far\)"):
        merge_traces([tmp_path / "part.h5"], tmp_path / "new.h5")
    merge_traces([shards[0], tmp_path / "part.h5"], tmp_path / "new.h5", allow_unfinished=True)
    with Trace.open(tmp_path / "new.h5") as trace:
        assert not trace.complete
        check(trace, [0, 3, 6, 9, 20])
    with pytest.raises(TraceError, match="is a run that is not finished"):
        merge_traces(shards, tmp_path / "part.h5", overwrite=True)
    with pytest.raises(TraceError, match="no traces"):
        merge_traces([], tmp_path / "none.h5")


# ---- size, export, docs


def test_size_on_disk(tmp_path):
    full(tmp_path / "full.h5", 100, classes=10, orders=32)
    assert (tmp_path / "full.h5").stat().st_size < 4 * 100 * 32 * 10 * 2
    rng = np.random.default_rng(0)
    passes = 0
    with TraceWriter.create(tmp_path / "race.h5", RUN, [str(i) for i in range(10)]) as writer:
        for i in range(2000):  # short races: rows of images weigh in
            n = int(rng.integers(12, 38))
            o = np.arange(n) // 8
            v = rng.normal(-300, 3, n).astype("f4")
            name = f"n{rng.integers(1e7):08}/ILSVRC2012_val_{i:08}.JPEG"
            row = ImageRow(
                name, f"/data/imagenet/{name}", 3, 3, 4, n, n / 320, rng.random(), "decided", rng.random()
            )
            writer.append(row, Scores(o, rng.permutation(n) % 10, np.arange(n) + 1, o, v), i)
            passes += n
    assert (tmp_path / "race.h5").stat().st_size < 8 * passes


def test_merging_and_reading_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_BLOCK", 2000)
    monkeypatch.setattr(publish, "_CHUNK", 1024)
    peaks = []
    for n in (10, 60):
        path = tmp_path / f"{n}.h5"
        writer = TraceWriter.create(path, RUN, ["a"] * 50, images_per_part=5)
        for i in range(n):
            o, c = (a.ravel() for a in np.indices((20, 50)))
            values = np.random.default_rng(i).normal(-300, 3, 1000).astype("f4")
            writer.append(row_of(i), Scores(o, c, o * 0 + 64, o, values), i)
        tracemalloc.start()
        writer.close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        with Trace.open(path) as trace:
            assert max(len(rows) for _, _, rows in trace._blocks(0, n)) <= 2000
            assert sum(len(scores) for _, scores in trace) == n * 1000
    # 12 bytes a score: 50 images more are 600 KB more of scores, and only their rows more in memory
    assert peaks[1] - peaks[0] < 150_000, peaks


def test_summary_and_exports(tmp_path, monkeypatch):
    write(tmp_path / "x.h5", range(8))
    with TraceWriter.resume(tmp_path / "x.h5", RUN, LABELS) as writer:
        failed = ImageRow("bad", "bad.png", 1, -1, 0, 0, 0, 0, "error", 0, 'not an image, "really"')
        writer.append(failed, Scores.empty(), 8)
    with Trace.open(tmp_path / "x.h5") as trace:
        s = json.loads(json.dumps(summary(trace)))
        assert (s["images"], s["errors"], s["labelled"], s["stop"]) == (9, 1, 6, {"decided": 8})
        expected = [i % 3 == i % 4 - 1 for i in range(8) if i % 4]
        assert s["accuracy"] == pytest.approx(np.mean(expected))
        assert s["calls"] == 96 and s["orders_median"] == s["orders_p95"] == 4 and s["complete"]
        assert s["scores"] == sum(len(scores_of(i)) for i in range(8))
        assert s["bytes"] == (tmp_path / "x.h5").stat().st_size
        export_csv(trace, tmp_path / "x.csv")
        with pytest.raises(TraceError, match="No such file"):
            export_csv(trace, tmp_path / "none" / "x.csv")
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(TraceError, match="pip install pandas pyarrow"):
            export_parquet(trace, tmp_path / "x.parquet")
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and rows[8]["error"] == failed.error and rows[8]["prediction_name"] == ""
    assert (rows[3]["label_name"], rows[2]["prediction_name"], rows[3]["path"]) == (
        "épagneul",
        "épagneul",
        "/data/é/3.png",
    )
    assert [float(row["probability"]) for row in rows[:8]] == [row_of(i).probability for i in range(8)]


def test_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write(tmp_path / "x.h5", range(3))
    with Trace.open(tmp_path / "x.h5") as trace:
        export_parquet(trace, tmp_path / "x.parquet")
    assert pandas.read_parquet(tmp_path / "x.parquet")["id"].tolist() == ["im0", "im1", "im2"]


def test_the_snippets_of_the_docs(tmp_path, monkeypatch):
    full(tmp_path / "run.h5", 3)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trace.md").read_text("utf-8"), re.S)
    space: dict = {}
    exec(snippets[0], space)
    assert space["images"]["id"].tolist() == ["im0", "im1", "im2"] and space["labels"].tolist() == list("012")
    assert space["scores"]["image"].tolist() == np.repeat([0, 1, 2], 24).tolist()
    assert len({len(column) for column in space["scores"].values()}) == 1
    exec(snippets[1], space)
    assert space["first"].shape == (4, 3) and len(snippets) == 2
    for key in MATCH_KEYS:
        assert f"`{key}`" in (ROOT / "docs" / "trace.md").read_text("utf-8")


def test_needs_no_torch():
    code = "import sys, anytime_cls.traces.write as t; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def as_schema_1(path: Path) -> Path:
    """What an earlier version would have written."""
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 1
        for name in ("plan", "method", "unit", "keyed", "flops_steps", "flops_shared", "flops_class"):
            if name in file.attrs:
                del file.attrs[name]
        del file["images/content"], file["images/flops"]
    return path


def test_schema_1_is_read_and_no_more(tmp_path):
    write(tmp_path / "x.h5", range(4))
    old = as_schema_1(tmp_path / "x.h5")
    with Trace.open(old) as trace:
        assert len(trace) == 4 and trace.attrs["schema"] == 1
        assert trace.images["content"].tolist() == [""] * 4 and trace.images["flops"].tolist() == [0.0] * 4
        assert trace.row(2) == row_of(2)
    with pytest.raises(TraceError, match=r"cannot resume .*: it is of schema 1, which can be read, replayed"):
        TraceWriter.resume(old, RUN, LABELS)
    with pytest.raises(TraceError, match=r"cannot merge .* schema 1"):
        merge_traces([old], tmp_path / "z.h5")


def test_plans_that_differ_say_where(tmp_path):
    """Field by field, whatever else the attributes say."""
    plans = [
        {"seed": 0, "rule": {"is": "PairedRule", "delta": d, "bound": {"scale": 1.0}}} for d in (0.1, 0.2)
    ]
    one, two = (RUN | {"plan": json.dumps(plan)} for plan in plans)
    write(tmp_path / "x.h5", [0], one)
    with pytest.raises(TraceError, match=r"plan\.rule\.delta is 0\.1 there and 0\.2 here"):
        TraceWriter.resume(tmp_path / "x.h5", two, LABELS)
