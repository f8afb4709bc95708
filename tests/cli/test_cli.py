"""The command line: what it prints where, exit codes, rows, traces."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from basics import TINY_LABELS

from anytime_cls_cli.main import main

ROW = {
    "path", "label", "index", "probability", "separation", "stop", "orders", "passes", "full_passes",
    "prefix", "pass_tokens", "seconds", "ranking", "evidence", "calibrated", "model", "schema",
}  # fmt: skip


def classify(capsys: Any, model: Path, *args: object) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows and standard error of `classify --json --model MODEL ARGS`, piped."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    code = main(["classify", "--json", "--model", str(model), "--device", "cpu", *map(str, args)])
    out, err = capsys.readouterr()
    return code, [json.loads(line, parse_constant=refuse) for line in out.splitlines()], err


# --- without a model -------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from anytime_cls_cli.main import main\n"
        "assert main(['classify', '--help']) == 0 and main(['--help']) == 0 and main(['--version']) == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'h5py', 'PIL', 'rich.console'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--budget AMOUNT" in done.stdout and "0.5s, 800ms, 2m, 200passes, 8orders or 3TFLOP" in " ".join(
        done.stdout.split()
    )
    assert re.search(r"^anytime-cls \d+\.\d+\.\d+$", done.stdout, re.M)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "no images given"),
        (["x.jpg", "--budget", "0.5"], "0.5s, 800ms, 2m, 200passes, 8orders or 3TFLOP"),
        (["x.jpg", "--budget", "-1s"], "cannot read the budget '-1s'"),
        (["x.jpg", "--delta", "0"], "delta must lie between 0 and 1"),
        (["x.jpg", "--delta", "nan"], "delta must lie between 0 and 1"),
        (["x.jpg", "--delta", "x"], "'--delta'"),
        (["x.jpg", "--rule", "best"], "unknown rule 'best': choose from paired"),
        (["x.jpg", "--model", "no-such"], "no model 'no-such'"),
        (["x.jpg", "--orders", "spiral"], "unknown order sampler 'spiral'"),
        (["x.jpg", "--orders", "antithetic", "--max-orders", "3"], "antithetic"),
        (["x.jpg", "--aggregate", "median"], "unknown aggregation 'median'"),
        (["x.jpg", "--aggregate", "softmax"], "needs rule 'fixed'"),
        (["x.jpg", "--max-orders", "0"], "'--max-orders'"),
        (["x.jpg", "--top", "0"], "'--top'"),
        (["x.jpg", "--batch-size", "0"], "--batch-size"),
        (["x.jpg", "--batch-size", "many"], "--batch-size"),
        (["x.jpg", "--device", "tpu9"], "device 'tpu9' is not available"),
        (["x.jpg", "--dtype", "int3"], "unknown dtype 'int3'"),
        (["x.jpg", "--live"], "--live draws on a terminal"),
        (["x.jpg", "--trace", "/no/such/folder/out.h5"], "is not a folder"),
        (["x.jpg", "--classes", "cat,unicorn"], "no class 'unicorn'"),
        (["x.jpg", "--classes", "cat"], "at least two classes"),
        (["x.jpg", "--colour"], "--colour"),
    ],
)
def test_usage_errors_are_one_line(args, says, tiny_model_dir, capsys, monkeypatch):
    from anytime_cls.classifier import AnytimeClassifier

    if "--classes" not in args:  # everything else is refused before a model is loaded
        monkeypatch.setattr(AnytimeClassifier, "load", lambda *_: pytest.fail("a model was loaded"))
    model = [] if "--model" in args else ["--model", str(tiny_model_dir)]
    assert main(["classify", *args, *model]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("anytime-cls: ")
    assert says in err


def test_defaults_are_the_librarys():
    from anytime_cls.models.card import DEFAULT_MODEL
    from anytime_cls.plan.options import RaceOptions
    from anytime_cls_cli import main as module

    given = inspect.signature(module._classify).parameters
    options = RaceOptions()
    assert given["model"].default == module._doctor.__defaults__[0] == DEFAULT_MODEL
    for name in ("delta", "rule", "max_orders", "seed", "orders", "aggregate", "budget", "classes"):
        assert given[name].default == getattr(options, name), name


def test_rows_hold_no_nan_and_no_lone_surrogate():
    from anytime_cls_cli.show.output import plain as clean

    row = clean({"a": float("nan"), "b": [float("-inf"), 1.5, True, None], "c": ("x\udcff",)})
    assert row == {"a": None, "b": [None, 1.5, True, None], "c": ["x\ufffd"]}


# --- rows ------------------------------------------------------------------------------------------------


def test_threads_wait_politely_unless_the_user_says_otherwise(monkeypatch, capsys):
    """libgomp's setting is in the environment by the time torch is loaded."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["--version"]) == 0 and os.environ["GOMP_SPINCOUNT"] == "20000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert main(["--version"]) == 0 and os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert main(["--version"]) == 0 and "GOMP_SPINCOUNT" not in os.environ


def test_row_is_the_decision(tiny_model_dir, photo, capsys):
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.plan.options import RaceOptions

    code, [row], err = classify(capsys, tiny_model_dir, photo, "--seed", 3, "--top", 4, "--max-orders", 8)
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    decision = classifier.classify(photo, RaceOptions(seed=3, max_orders=8))
    assert code == 0 and set(row) == ROW and row["path"] == str(photo)
    assert row["label"] == decision.label == row["ranking"][0]["label"]
    assert row["probability"] == pytest.approx(decision.probability, rel=1e-4)
    assert (row["orders"], row["passes"], row["stop"]) == (decision.orders, decision.passes, decision.stop)
    assert row["full_passes"] == 80 and 0 < row["passes"] <= 80 and len(row["ranking"]) == 4
    assert row["ranking"][0]["lower"] < row["ranking"][0]["mean"] < row["ranking"][0]["upper"]
    assert (
        "knows only: plane, car," in err
        and "model tiny (10 classes)" in err
        and "loaded in" in err
        and "no budget" in err
    )


def test_a_model_nobody_calibrated_for_such_races_is_said_to_be(tiny_model_dir, photo, capsys):
    _, _, err = classify(capsys, tiny_model_dir, photo, "--max-orders", 2)
    assert "not calibrated" not in err
    _, _, err = classify(capsys, tiny_model_dir, photo, "--prefix", 8, "--max-orders", 2)
    assert "not calibrated for such races" in err


def test_quiet_says_nothing(tiny_model_dir, photo, capsys):
    code, rows, err = classify(capsys, tiny_model_dir, photo, photo, "-q", "--max-orders", 2)
    assert code == 0 and len(rows) == 2 and err == ""


def test_classes_by_name_and_id(tiny_model_dir, photo, capsys):
    code, [row], _ = classify(capsys, tiny_model_dir, photo, "--classes", "Cat, 9,dog", "--max-orders", 4)
    assert code == 0 and row["full_passes"] == 12
    assert {standing["label"] for standing in row["ranking"]} == {"cat", "truck", "dog"}


@pytest.mark.parametrize(
    ("budget", "orders", "passes"),
    [("20passes", 2, 20), ("3orders", 3, 30), ("1h", 4, 40), ("5passes", 0, 5)],
)
def test_budgets(budget, orders, passes, tiny_model_dir, photo, capsys):
    options = ("--budget", budget, "--rule", "fixed", "--max-orders", 4, "--screen", "none")
    code, [row], err = classify(capsys, tiny_model_dir, photo, *options)
    assert code == 0 and f"budget {budget.replace('1h', '3600s')} an image" in err
    assert row["orders"] == orders and row["stop"] == ("max-orders" if budget == "1h" else "budget")
    if budget == "5passes":  # not one whole order of 10 classes: a prefix, of every class
        assert 1 <= row["prefix"] < 64 and 0 < row["passes"] <= 5 and len(row["ranking"]) == 5
    else:
        assert row["prefix"] is None and row["passes"] == passes


def test_part_of_an_order_is_spent_on_a_screen_s_best(tiny_model_dir, photo, capsys):
    """Five passes of ten classes: two orders of the two that the table likes best."""
    code, [row], _ = classify(capsys, tiny_model_dir, photo, "--budget", "5passes", "--rule", "fixed")
    assert code == 0 and (row["shortlist"], row["orders"], row["stop"]) == (2, 2, "budget")
    assert [s["orders"] for s in row["ranking"]] == [2, 2, 0, 0, 0] and 4 <= row["passes"] <= 5


def test_failures_keep_their_place(tiny_model_dir, photo, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    images = [tmp_path / "gone.jpg", photo, broken, tmp_path / "empty", tmp_path / "no*.png", photo, broken]
    code, rows, err = classify(capsys, tiny_model_dir, *images, "--max-orders", 2)
    assert code == 1 and [row["path"] for row in rows] == list(map(str, images))
    assert ["error" in row for row in rows] == [True, False, True, True, True, False, True]
    assert all(set(row) == {"path", "error", "schema"} and row["error"] for row in rows if "error" in row)
    assert "no such file" in rows[0]["error"] and "no images in this folder" in rows[3]["error"]
    assert "7 images" in err and "5 failed" in err


def test_only_failures(tiny_model_dir, tmp_path, capsys):
    code, [row], _ = classify(capsys, tiny_model_dir, tmp_path / "gone.jpg")
    assert code == 1 and "no such file" in row["error"]


def test_standard_input_and_lists(tiny_model_dir, photo, tmp_path, capsys, monkeypatch):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two\n{photo}\n\n{tmp_path / 'gone.jpg'}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    options = ("--files-from", listed, "--max-orders", 2)
    code, rows, _ = classify(capsys, tiny_model_dir, "-", *options)
    assert code == 1 and [row["path"] for row in rows] == ["-", str(photo), str(tmp_path / "gone.jpg")]
    assert rows[0]["label"] == rows[1]["label"] and rows[0]["ranking"] == rows[1]["ranking"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are not UTF-8 exist on Linux only")
def test_file_name_that_is_not_utf8(tiny_model_dir, photo, tmp_path, capsys):
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xa9.jpg"
    with open(odd, "wb") as file:
        file.write(photo.read_bytes())
    trace = tmp_path / "odd.h5"
    code, [row], _ = classify(capsys, tiny_model_dir, os.fsdecode(odd), "--max-orders", 2, "--trace", trace)
    assert code == 0 and row["path"].endswith("caf\ufffd é.jpg") and bytes.fromhex(row["path_bytes"]) == odd

    from anytime_cls.traces.read import Trace

    with Trace.open(trace) as written:
        assert os.fsencode(written.row(0).path) == odd


# --- traces ----------------------------------------------------------------------------------------------


def test_trace_holds_the_run(tiny_model_dir, photo, tmp_path, capsys):
    from anytime_cls.traces.read import Trace

    path = tmp_path / "out.h5"
    options = ("--classes", "dog,cat,2", "--max-orders", 6, "--seed", 5, "--budget", "15passes", "--top", 3)
    images = (photo, tmp_path / "gone.jpg", photo)
    code, rows, _ = classify(capsys, tiny_model_dir, *images, *options, "--trace", path)
    assert code == 1
    with Trace.open(path) as trace:
        assert trace.complete and trace.labels == ["dog", "cat", "bird"] and len(trace) == 3
        assert trace.images["id"].tolist() == [f"{i}:{name}" for i, name in enumerate(images)]
        assert trace.images["error"][1] and trace.images["prediction"][1] == -1
        for i in (0, 2):
            row = trace.row(i)
            assert trace.labels[row.prediction] == rows[i]["label"] and row.stop == rows[i]["stop"]
            assert row.passes == rows[i]["passes"] == len(trace.scores(i)) <= 15
            assert row.token_fraction == pytest.approx(row.passes / 18)
            means = dict(zip(trace.labels, np.nanmean(trace.matrix(i), axis=0), strict=True))
            for standing in (s for s in rows[i]["ranking"] if s["alive"]):
                assert means[standing["label"]] == pytest.approx(standing["mean"])
        card = json.loads((tiny_model_dir / "model.json").read_text())
        expected = {
            "model": "tiny", "model_sha256": card["sha256"]["transformer.safetensors"], "dataset": "files",
            "tokenizer_sha256": card["sha256"]["tokenizer.safetensors"], "seed": 5, "tokens": 64, "k_max": 6,
            "rule": "paired", "delta": 0.05, "order_sampler": "uniform", "budget": "15passes",
            "dtype": "float32", "device": "cpu", "temperature": 2.0,
        }  # fmt: skip
        assert {key: trace.attrs[key] for key in expected} == expected
        for name in ("anytime_cls", "torch", "numpy", "pillow", "jpeg"):
            assert trace.attrs[f"version_{name}"]
        assert trace.attrs["command"].startswith("anytime-cls classify ")


def test_existing_trace_is_refused(tiny_model_dir, photo, tmp_path, capsys):
    path = tmp_path / "out.h5"
    path.write_bytes(b"mine")
    code, rows, err = classify(capsys, tiny_model_dir, photo, "--trace", path)
    assert code == 2 and rows == [] and err.count("\n") == 1 and "exists already" in err
    assert path.read_bytes() == b"mine"


# --- the process -----------------------------------------------------------------------------------------


def test_interrupt_keeps_what_is_done(tiny_model_dir, photo, tmp_path):
    from anytime_cls.traces.read import Trace

    trace = tmp_path / "out.h5"
    args = ["gone.jpg", str(photo), "--model", str(tiny_model_dir), "--trace", str(trace)]
    long = ["--rule", "fixed", "--max-orders", "60000", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "anytime_cls_cli", "classify", "--json", *args, *long],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())  # flushed while the second image is still running
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "error" in first and out == ""
    assert "Traceback" not in err and "interrupted: 1 done" in err.splitlines()[-1]
    with Trace.open(trace) as kept:
        assert not kept.complete and kept.images["path"].tolist() == ["gone.jpg"]


def test_closed_pipe_is_quiet(tiny_model_dir, photo):
    command = [
        sys.executable,
        "-m",
        "anytime_cls_cli",
        "classify",
        "--json",
        "-q",
        "--model",
        str(tiny_model_dir),
    ]
    options = ["--max-orders", "2", "--budget", "1m"]
    process = subprocess.Popen(
        [*command, *[str(photo)] * 50, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["label"] in TINY_LABELS
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=300) == 141 and err == b""
