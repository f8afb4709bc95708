"""The file of curves: what is written is read, whole or not at all; other files are told apart."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from trace_data import write as write_trace

from anytime_cls.curves.file import CurveRun, Curves, CurvesError, merge_curves, read_curves, write_curves
from anytime_cls.race.decision import STOP_NAMES, UNRANKED

COLUMNS = ("prediction", "orders", "passes", "token_fraction", "stop", "probability", "rank", "seconds")


def a_run(value: float, n: int = 5, curve: str = "paired", **settings) -> CurveRun:
    rng = np.random.default_rng(int(value * 1000))
    stop = rng.integers(0, len(STOP_NAMES), n)
    rank = np.where(np.arange(n) == 1, UNRANKED, rng.integers(0, 3, n))
    return CurveRun(
        {"rule": curve, "source": "replay", "k_max": 32, "curve": curve, "knob": "delta", "knob_value": value,
         "delta": value, "seconds_kind": "estimated", **settings},
        rng.integers(-1, 3, n), rng.integers(0, 32, n), rng.integers(0, 320, n), rng.random(n), stop,
        np.where(stop == 3, np.nan, rng.random(n)), rank, rng.random(n),
    )  # fmt: skip


def curves_of(*runs: CurveRun, n: int = 5) -> Curves:
    attrs = {"schema": 1, "model": "cifar10", "tokens": 64, "k_max": 32, "prefixes": [8, 16], "data": "é"}
    ids = [f"chat/é{i}.jpg" for i in range(n)]
    return Curves(attrs, ["cat", "dog", "épagneul"], ids, np.arange(n) % 3 - 1, np.arange(n) % 3, list(runs))


def same(one: CurveRun, other: CurveRun) -> bool:
    columns = all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "probability")
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in COLUMNS
    )
    return columns and one.settings == other.settings


def test_what_is_written_is_read(tmp_path):
    given = curves_of(a_run(0.1, stages="1/16:5"), a_run(0.05, curve="marginal"), a_run(0.01))
    write_curves(tmp_path / "c.h5", given)
    read = read_curves(tmp_path / "c.h5")
    assert read.attrs == given.attrs and read.labels == given.labels
    assert read.ids.tolist() == given.ids.tolist()
    np.testing.assert_array_equal(read.label, given.label)
    np.testing.assert_array_equal(read.full, given.full)
    assert all(same(a, b) for a, b in zip(read.runs, given.runs, strict=True))
    assert read.names == ["paired", "marginal"]
    assert [run.settings["knob_value"] for run in read.curve("paired")] == [0.01, 0.1]
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


def test_the_file_is_as_documented(tmp_path):
    """With h5py alone: docs/curves.md's names and types."""
    write_curves(tmp_path / "c.h5", curves_of(a_run(0.1)))
    with h5py.File(tmp_path / "c.h5") as file:
        assert file.attrs["schema_curves"] == 1 and list(file.attrs["stop_names"]) == list(STOP_NAMES)
        assert file["labels"].asstr()[2] == "épagneul"
        group = file["runs/0000"]
        assert group.attrs["curve"] == "paired" and group.attrs["knob_value"] == 0.1
        types = {"prediction": "i4", "orders": "u2", "passes": "i4", "token_fraction": "f4", "stop": "u1",
                 "probability": "f4", "rank": "u2", "seconds": "f4"}  # fmt: skip
        assert {name: column.dtype.str[1:] for name, column in group.items()} == types


def test_no_images_and_no_runs_are_curves_too(tmp_path):
    write_curves(tmp_path / "c.h5", curves_of(n=0))
    read = read_curves(tmp_path / "c.h5")
    assert len(read.ids) == 0 and read.runs == []


def test_runs_must_fit_their_images():
    with pytest.raises(CurvesError, match="has 4 images, not the file's 5"):
        curves_of(a_run(0.1, n=4))
    run = a_run(0.1)
    with pytest.raises(CurvesError, match="differ in length"):
        CurveRun(run.settings, *[getattr(run, name) for name in COLUMNS[:-1]], run.seconds[:2])
    with pytest.raises(CurvesError, match="needs the settings rule, source, k_max, curve, knob, knob_value"):
        CurveRun({}, *[getattr(run, name) for name in COLUMNS])


def test_other_files_are_refused_for_what_they_are(tmp_path):
    with pytest.raises(CurvesError, match="there are no curves at"):
        read_curves(tmp_path / "none.h5")
    write_trace(tmp_path / "t.h5", range(3))
    with pytest.raises(CurvesError, match="is a trace: `anytime-cls replay` makes curves of it"):
        read_curves(tmp_path / "t.h5")
    (tmp_path / "text.h5").write_text("accuracy,passes\n")
    with pytest.raises(CurvesError, match="damaged or holds no curves"):
        read_curves(tmp_path / "text.h5")
    write_curves(tmp_path / "c.h5", curves_of(a_run(0.1)))
    with h5py.File(tmp_path / "c.h5", "a") as file:
        file.attrs["schema_curves"] = 2
    with pytest.raises(CurvesError, match="schema 2; this program reads 1"):
        read_curves(tmp_path / "c.h5")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.98])
def test_a_torn_file_is_one_line(tmp_path, keep):
    path = tmp_path / "c.h5"
    write_curves(path, curves_of(a_run(0.1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CurvesError, match="damaged") as caught:
        read_curves(path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.h5"
    write_curves(path, curves_of(a_run(0.1)))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CurvesError, match=r"cannot write .*c\.h5: No space left on device"):
        write_curves(path, curves_of(a_run(0.2)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.h5"]


def test_writing_over_a_file_is_asked_for(tmp_path):
    write_curves(tmp_path / "c.h5", curves_of())
    with pytest.raises(CurvesError, match="exists already"):
        write_curves(tmp_path / "c.h5", curves_of(), overwrite=False)


def test_merging_joins_runs_over_the_same_images():
    live = curves_of(a_run(0.3, source="live"))
    live.full[:] = -1
    both = merge_curves([live, curves_of(a_run(0.1))])
    assert [run.settings["knob_value"] for run in both.runs] == [0.3, 0.1]
    assert (both.full >= 0).all()  # a live run alone does not know what all orders would say
    with pytest.raises(CurvesError, match="different images"):
        merge_curves([live, curves_of(n=4)])
