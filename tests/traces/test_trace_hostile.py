"""Traces that mean harm or were damaged: every command says so in one line, before it asks for memory."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from replay_data import full_trace, races

from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import TraceError
from anytime_cls_cli.main import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "full.h5"
    return full_trace(path, races(1, 12), np.arange(12) % 5, prefixes={16: races(2, 12)})


@pytest.fixture
def path(made, tmp_path):
    copy = tmp_path / "full.h5"
    copy.write_bytes(made.read_bytes())
    return copy


def attribute(key, value):
    def change(file):
        file.attrs[key] = value

    return change


def put(name, *args, **options):
    """A column in the place of one that is there."""

    def change(file):
        del file[name]
        file.create_dataset(name, *args, **options)

    return change


def number(name, value, at=0):
    def change(file):
        file[name][at] = value

    return change


def link(name, to):
    def change(file):
        del file[name]
        file[name] = to

    return change


ABSURD = 1 << 40
EVERY = {
    "an empty attribute": attribute("model", h5py.Empty("f4")),
    "a complex attribute": attribute("seed", 1 + 2j),
    "an attribute of two dimensions": attribute("prefixes", np.ones((2, 2), int)),
    "bytes": attribute("model", np.bytes_(b"x\xff")),
    "a record": attribute("k_max", np.zeros(1, [("a", "i4")])[0]),
    "an odd attribute that nothing reads": attribute("note", h5py.Empty("S1")),
    "text for a number": attribute("k_max", "32"),
    "a list for a number": attribute("k_max", [32, 16]),
    "no orders": attribute("k_max", 0),
    "orders below 0": attribute("k_max", -3),
    "too many orders": attribute("k_max", 1 << 40),
    "a temperature that is none": attribute("temperature", float("nan")),
    "no temperature": attribute("temperature", 0.0),
    "text for tokens": attribute("tokens", "64"),
    "no tokens": attribute("tokens", 0),
    "tokens that are no whole number": attribute("tokens", 64.5),
    "a prefix longer than an image": attribute("prefixes", [16, 65]),
    "prefixes of another type": attribute("prefixes", 16),
    "a rule that is a number": attribute("rule", 3),
    "a seed that is text": attribute("seed", "x"),
    "delta beyond 1": attribute("delta", 2.0),
    "a schema that is a list": attribute("schema", [2, 2]),
    "ids without end": put("images/id", (ABSURD,), "S10", chunks=(1024,)),
    "columns without end": put("images/label", (ABSURD,), "i8", chunks=(1024,)),
    "scores without end": put("scores/value", (ABSURD,), "f4", chunks=(1024,)),
    "offsets without end": put("scores/offsets", (ABSURD,), "i8", chunks=(1024,)),
    "labels without end": put("labels", (ABSURD,), "S10", chunks=(1024,)),
    "a wide string": put("images/path", (12,), "S100000000", chunks=(1,)),
    "a scalar": put("images/label", data=3),
    "two dimensions": put("images/label", data=np.zeros((12, 2), int)),
    "nothing": put("images/label", data=h5py.Empty("i8")),
    "text for labels": put("images/label", data=np.full(12, b"x")),
    "numbers for ids": put("images/id", data=np.arange(12)),
    "text of any length": put("images/id", data=["x"] * 12, dtype=h5py.string_dtype()),
    "complex scores": put("scores/value", data=np.zeros(12 * 16 * 5 * 2, complex)),
    "wide scores": put("scores/cls", data=np.zeros(12 * 16 * 5 * 2, "i8")),
    "a short column": put("images/seconds", data=np.zeros(3)),
    "offsets that fall": number("scores/offsets", 10**6, 3),
    "offsets that end early": number("scores/offsets", 5, -1),
    "a class that is none": number("scores/cls", 77, 5),
    "a prediction that is none": number("images/prediction", 5),
    "a label that is none": number("images/label", 1 << 40),
    "an index below 0": number("images/index", -1),
    "another file's column": link("images/label", h5py.ExternalLink("/dev/zero", "x")),
    "a link to nowhere": link("images/label", h5py.SoftLink("/images/label")),
    "a column for a folder": put("images", data=np.zeros(3)),
    "no scores": lambda file: file.pop("scores"),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_command_refuses_it_in_one_line(path, name, tmp_path, capsys):
    with h5py.File(path, "a") as file:
        EVERY[name](file)
    for command in (
        ["trace", "info", path, "--json"],
        ["trace", "export", path, "--scores", "-o", tmp_path / "x.csv"],
        ["trace", "merge", path, "-o", tmp_path / "merged.h5"],
        ["replay", path, "--rule", "paired"],
        ["calibrate", path],
        ["plot", path, "-o", tmp_path / "x.html", "--bootstrap", "2"],
    ):
        code = main([*map(str, command)])
        out, err = capsys.readouterr()
        if name == "a class that is none" and command[1] == "info":
            assert code == 0  # scores are looked at when they are read
            continue
        last = err.splitlines()[-1]
        assert code in (1, 2) and out == "" and last.startswith("anytime-cls: "), command
        assert str(path) in last or "more images" in last  # those with scores that nothing has read yet
        assert "Traceback" not in err and len(last) < 600
    assert not list(tmp_path.glob("x.*")) and not (tmp_path / "merged.h5").exists()


@pytest.mark.parametrize("text", ["x", "[]", "3", '{"paired": 3}', "[" * 100_000])
def test_priors_that_make_no_sense(path, text, capsys):
    with h5py.File(path, "a") as file:
        file.attrs["priors"] = text
    assert main(["replay", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_trace_that_is_not_full_is_refused_before_memory_is_asked_for(path):
    with Trace.open(path) as trace, pytest.raises(TraceError, match="not scored in full"):
        next(trace.full_matrix(k_max=65535))
