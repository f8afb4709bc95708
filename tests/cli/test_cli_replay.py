"""`anytime-cls replay` and `calibrate`: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_data import full_trace, races

from anytime_cls.curves.file import read_curves
from anytime_cls.models.zoo import read_card
from anytime_cls_cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """500 made-up images of 4 classes, 16 orders."""
    scores = races(1, 500, n_classes=4, k_max=16)
    label = (scores.mean(axis=1).argmax(axis=1) + (np.arange(500) % 10 == 0)) % 4
    return full_trace(tmp_path_factory.mktemp("full") / "full.h5", scores, label)


def cli(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = main([*map(str, arguments)])
    return code, *capsys.readouterr()


def refused(capsys: Any, *arguments: object) -> str:
    """The one line it is refused with; nothing on standard output, and nothing left behind."""
    code, out, err = cli(capsys, *arguments)
    assert code == 2 and out == "" and err.startswith("anytime-cls: ") and err.count("\n") == 1
    return err


def test_replay_writes_curves_and_prints_their_table(full, tmp_path, capsys):
    out = tmp_path / "curves.h5"
    code, table, err = cli(capsys, "replay", full, "--rule", "paired", "--rule", "fixed", "-o", out)
    assert code == 0 and f"{out}: 43 runs over 500 images" in err
    assert "accuracy" in table and "δ 0.05" in table and "K 16" in table and "more runs (--all" in table
    fixed = next(line for line in table.splitlines() if "K 16" in line).split()
    assert fixed[-6:] == ["%", "16.0", "16", "16", "64", "1.00×"] and "90.0" in fixed
    curves = read_curves(out)
    assert curves.names == ["paired", "fixed"] and len(curves.runs) == 43
    assert curves.attrs["replay_command"].startswith("anytime-cls replay ")
    assert curves.attrs["dataset"] == "made-up"
    _, every, _ = cli(capsys, "replay", full, "--rule", "fixed,paired", "--all")
    assert every.count("δ") == 27 and every.count("K ") == 17 and "more runs" not in every


def test_info_of_curves_says_what_they_are(full, tmp_path, capsys):
    out = tmp_path / "curves.h5"
    assert cli(capsys, "replay", full, "--rule", "paired", "--rule", "fixed", "-o", out, "-q")[0] == 0
    code, text, err = cli(capsys, "trace", "info", out)
    assert code == 0 and err == "" and "curves of 'replay'" in text
    assert "43: paired 27, fixed 16" in text and "anytime-cls replay" in text
    code, text, _ = cli(capsys, "trace", "info", out, full, "--json")
    curves, trace = map(json.loads, text.splitlines())
    assert code == 0 and (curves["kind"], curves["runs"], curves["images"]) == ("curves", 43, 500)
    assert "kind" not in trace


def test_replay_prints_json(full, capsys):
    options = ("--rule", "marginal", "--delta", "0.05,0.3", "--max-orders", "8,16", "--json")
    code, out, _ = cli(capsys, "replay", full, *options)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(row["k_max"], row["delta"]) for row in rows] == [
        (8, 0.05), (8, 0.3), (16, 0.05), (16, 0.3),
    ]  # fmt: skip
    for row in rows:
        assert row["saving"] == pytest.approx(64 / row["passes"], rel=1e-5)
        assert row["orders_median"] <= row["orders_p95"] <= row["k_max"]
        assert 0.8 < row["accuracy"] < row["agreement"]
        assert (row["agreement"] > 0.97) == (row["k_max"] == 16)  # it is with all of the trace's orders


def test_replay_takes_every_rules_settings(full, capsys):
    rules = ("--rule", "clark-jaini,halving,funnel,paired", "--p-value", "0.1", "--min-scores", "3,5")
    more = ("--saving", "2,4", "--stages", "1/4:3,1/2:2", "--alpha", "0.2", "--json")
    code, out, _ = cli(capsys, "replay", full, *rules, *more)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 6
    assert [(row["min_scores"], row["p_value"]) for row in rows[:2]] == [(3, 0.1), (5, 0.1)]
    assert [row.get("saving") and row["knob_value"] for row in rows[2:4]] == [2, 4]
    assert rows[4]["stages"] == "0.25:3,0.5:2" and rows[5]["alpha"] == 0.2


def test_replay_refuses_what_makes_no_sense(full, tmp_path, capsys):
    for arguments, said in (
        (("--delta", "a"), "--delta takes numbers with commas between, not 'a'"),
        (("--max-orders", "1.5"), "--max-orders takes whole numbers"),
        (("--rule", "pared"), "unknown rule 'pared'"),
        (("--rule", "fixed", "--delta", "0.1"), "δ steers"),
        (("--stages", "1/2:3,1/4:2"), "stages must rise in share"),
        (("--stages", "half"), "stages are SHARE:CLASSES"),
        (("--model", "x", "--priors-from", "y"), "leave one out"),
        (("--model", "nowhere"), "no model 'nowhere'"),
        (("--model", "cifar10"), "other weights"),
        (("--prefix", "8"), "has no prefix of 8 tokens (it has none)"),
        (("-o", tmp_path), "is a folder"),
        (("-o", tmp_path / "none" / "c.h5"), "is not a folder: -o writes into an existing one"),
        (("-o", full), "is a file that is read"),
    ):
        assert said in refused(capsys, "replay", full, *arguments)
    assert "there is no trace" in refused(capsys, "replay", tmp_path / "none.h5")
    adaptive = full_trace(tmp_path / "a.h5", races(2, 3), rule="paired")
    assert "--rule fixed -o FULL.h5" in refused(capsys, "replay", adaptive)


def test_a_model_without_priors_is_said(tmp_path, capsys):
    path = full_trace(tmp_path / "t.h5", races(3, 5), priors="{}", failed={2})
    code, out, err = cli(capsys, "replay", path)
    assert code == 0 and "strict" not in out and "no variance priors" in err
    assert "1 of 5 images could not be classified: they are left out" in err
    assert cli(capsys, "replay", path, "--quiet")[2] == ""


def test_calibrate_writes_what_replay_reads(full, tmp_path, capsys):
    cal = tmp_path / "cal.json"
    code, table, err = cli(capsys, "calibrate", full, "--risk", "0.05,0.1", "--out", cal)
    assert code == 0 and f"{cal}: 2 calibrations" in err
    assert "calibrated" in table and "paired, δ 0.05" in table
    assert "priors on 50 images, thresholds on 200, held out 250; all 16 orders: accuracy" in table
    entry = json.loads(cal.read_text())["calibrated"][0]
    code, out, _ = cli(capsys, "replay", full, "--rule", "calibrated", "--priors-from", cal, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["delta"] for row in rows] == [0.05, 0.1] == [row["knob_value"] for row in rows]
    assert rows[0]["passes"] == pytest.approx(entry["held_out"]["passes"], rel=0.2)
    assert 1 - rows[0]["agreement"] < 0.06
    said = refused(capsys, "replay", full, "--rule", "calibrated", "--delta", "0.01", "--priors-from", cal)
    assert "risk 0.01 or less at 16 uniform orders of 64 tokens and 4 classes: there is" in said


def test_calibrate_writes_into_its_model(tiny_model_dir, tmp_path, capsys):
    """Only into the model the trace was recorded with; then `classify --rule calibrated` takes it."""
    from basics import write_photo

    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    sha = read_card(model).sha256["transformer.safetensors"]
    path = full_trace(tmp_path / "t.h5", races(4, 400, 10, 8), np.zeros(400), model_sha256=sha)
    photo = write_photo(tmp_path / "p.jpg")
    options = ("--rule", "calibrated", "--max-orders", "8", "--json", "--quiet")
    classify = ("classify", photo, "--model", model, *options)
    assert "this model has none: 'anytime-cls calibrate' makes one" in refused(capsys, *classify)
    code, _, err = cli(capsys, "calibrate", path, "--risk", "0.05", "--write-model", model)
    assert code == 0 and "model.json: calibrations added" in err
    assert read_card(model).temperature == 2.0
    code, out, _ = cli(capsys, *classify)
    assert code == 0 and json.loads(out)["passes"] <= 80
    assert "there is risk 0.05 at 8 uniform orders" in refused(capsys, *classify, "--delta", "0.01")
    assert "other weights" in refused(capsys, "calibrate", path, "--write-model", "cifar10")
    code, _, _ = cli(capsys, "calibrate", path, "--risk", "0.05", "--write-model", model, "--priors")
    assert code == 0 and read_card(model).temperature != 2.0


def test_calibrate_refuses_what_makes_no_sense(full, tmp_path, capsys):
    for arguments, said in (
        (("--risk", "0.001"), "risk 0.001 at confidence 0.95 needs 2995 images to fit thresholds on"),
        (("--risk", "one"), "--risk takes numbers"),
        (("--risk", "0"), "must lie between 0 and 1"),
        (("--split", "2"), "the split must lie between 0 and 1"),
        (("--priors",), "name it with --write-model"),
        (("--out", full), "is a file that is read"),
        (("--write-model", "nowhere"), "no model 'nowhere'"),
    ):
        assert said in refused(capsys, "calibrate", full, *arguments)


def test_json_of_a_calibration_is_its_file(full, tmp_path, capsys):
    cal = tmp_path / "cal.json"
    code, out, _ = cli(capsys, "calibrate", full, "--risk", "0.1", "--out", cal, "--json")
    assert code == 0 and json.loads(out) == json.loads(cal.read_text())


def test_help_needs_nothing_heavy():
    """`replay --help` and `calibrate --help` import neither PyTorch nor NumPy."""
    code = (
        "import sys; from anytime_cls_cli.main import main\n"
        "codes = [main([name, '--help']) for name in ('replay', 'calibrate')]\n"
        "assert codes == [0, 0], codes\n"
        "heavy = {'torch', 'numpy', 'scipy', 'h5py', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    said = assert_runs(code)
    assert "--priors-from" in said and "--write-model" in said


def assert_runs(code: str) -> str:
    """What a Python program printed, which must end well."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_replay_needs_no_torch(full):
    code = (
        "import sys; from anytime_cls_cli.main import main\n"
        f"assert main(['replay', {str(full)!r}, '--rule', 'fixed']) == 0\n"
        f"assert main(['calibrate', {str(full)!r}, '--risk', '0.1']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    assert_runs(code)


def test_calibrate_takes_prefixes_rungs_and_accuracy(tmp_path, capsys):
    """Each is in the table and in the file; what the trace has not recorded is refused."""
    scores = races(5, 900, n_classes=6, k_max=8, spread=2.0)
    early = (0.3 * races(6, 900, n_classes=6, k_max=8, spread=0.0) + scores).astype("f4").astype(float)
    label = scores.mean(axis=1).argmax(axis=1)
    path = full_trace(tmp_path / "t.h5", scores, label, prefixes={1: early, 16: scores})
    options = ("--prefix", "16", "--rungs", "1", "--accuracy-drop", "0.05", "--risk", "0.1")
    cal = tmp_path / "cal.json"
    code, table, _ = cli(capsys, "calibrate", path, *options, "--out", cal)
    fitted = json.loads(cal.read_text())
    assert code == 0 and [entry["loss"] for entry in fitted["calibrated"]] == ["disagreement", "accuracy"]
    assert all(entry["prefix"] == 16 and entry["rungs"][0][0] == 1 for entry in fitted["calibrated"])
    assert fitted["prices"][0]["risk"] == 0.05 and fitted["designs"][0]["prefix"] == 16
    for said in ("risk 0.1", "drop 0.05", "rung at 1 tokens", "λ", "all 8 orders of 16 tokens: accuracy"):
        assert said in table
    assert "no prefix of 8 tokens (it has 1, 16)" in refused(capsys, "calibrate", path, "--prefix", "8")
    said = refused(capsys, "calibrate", path, "--accuracy-drop", "0.001")
    assert "accuracy drop 0.001 at confidence 0.95 needs" in said and "record about" in said


def test_replay_takes_prices(full, capsys):
    code, table, _ = cli(capsys, "replay", full, "--rule", "value", "--all")
    assert code == 0 and table.count("λ ") >= 20
    code, out, _ = cli(capsys, "replay", full, "--rule", "value", "--price", "0.00001,0.01", "--json")
    cheap, dear = (json.loads(line) for line in out.splitlines())
    assert (cheap["price"], dear["price"]) == (0.00001, 0.01) and cheap["passes"] > dear["passes"]
    assert "price must lie between 0 and 1" in refused(
        capsys, "replay", full, "--rule", "value", "--price", "2"
    )
    assert "price is a setting of value, not of fixed" in refused(
        capsys, "replay", full, "--rule", "fixed", "--price", "0.1"
    )
