"""`anytime-cls train` from a folder of pictures to a model that classifies them, as its user runs it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.zoo import read_card
from anytime_cls_cli.main import main

QUICK = [
    "--image-size", 16, "--tokens", "labels", "--levels", "4,4,4", "--tokenizer-epochs", 6, "--epochs", 12,
    "--dim", 32, "--layers", 1, "--stages", "0.25:0.5,1:0.5", "--batch-size", 20, "--calibration-images", 80,
    "--test-images", 20, "--max-orders", 4, "--license", "CC0", "--device", "cpu",
]  # fmt: skip


def train(*args: object) -> int:
    return main(["train", *map(str, args)])


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue noise, without a test folder."""
    root, rng = tmp_path_factory.mktemp("data") / "colours", np.random.default_rng(0)
    for c, name in ((0, "red"), (2, "blue")):
        (root / name).mkdir(parents=True)
        for i in range(250):
            pixels = rng.integers(0, 90, (16, 16, 3))
            pixels[..., c] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03}.png")
    return root


def test_one_command_makes_a_model_that_classifies(colours, tmp_path, capsys):
    out = tmp_path / "model"
    assert train(colours, "--out", out, *QUICK) == 0
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert lines[0] == "500 pictures of 2 classes: 400 to train on, 100 held out"
    assert lines[1].startswith("takes ") and "tokenizer" in said and "transformer" in said
    assert "chance 50.0 %, its tokens alone" in lines[-4] and "orders of" in lines[-3]
    assert lines[-2].startswith("certified: at most ") and lines[-2].endswith("by all orders (95 % sure)")
    next_ = shlex.split(lines[-1].removeprefix("next: anytime-cls "))
    assert main([*next_, "-q"]) == 0 and ("red" in (out_ := capsys.readouterr().out) or "blue" in out_)
    card = read_card(out)
    assert card.name == "model" and card.fields["license"] == "CC0"
    race = card.fitted.race
    assert race.rule == "calibrated" and race.delta in (0.05, 0.1)
    certified = [entry for entry in card.fitted.calibrated if entry.design.draws == race.orders]
    assert {entry.risk for entry in certified} >= {race.delta}
    assert card.fields["recipe"]["levels"] == [4, 4, 4]
    assert card.fields["recipe"]["prefixes"] == [[0.5, 0.25], [0.5, 1.0]]
    held_out = open_dataset(str(colours), card, ids=out / "holdout.txt").samples
    assert len(held_out) == 100
    photos = [sample.path for sample in held_out[::5]]
    assert main(["classify", *photos, "--model", str(out), "--max-orders", "8", "--json", "-q"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    right = [row["label"] == Path(row["path"]).parent.name for row in rows]
    assert np.mean(right) >= 0.9  # images that neither training has seen
    content = (out / "model.json").read_bytes()
    assert train(colours, "--out", out, *QUICK) == 2
    assert "--resume" in capsys.readouterr().err
    assert train(colours, "--out", out, *QUICK, "--resume") == 0
    assert "is finished" in capsys.readouterr().err and (out / "model.json").read_bytes() == content


def test_few_pictures_begin_from_an_embedded_model(colours, tmp_path, capsys, monkeypatch):
    """A folder of 30 pictures a class ends with a model, and its command says what it began from."""
    monkeypatch.setattr("anytime_cls.training.settle.TUNED", (5, 10))
    data = tmp_path / "data"
    for name in ("red", "blue"):
        (data / name).mkdir(parents=True)
        for i in range(30):
            shutil.copy(colours / name / f"{i:03}.png", data / name)
    options = ["--device", "cpu", "--max-orders", 4, "--seed", 1]
    assert train(data, "--out", tmp_path / "model", *options) == 0
    said = capsys.readouterr().err
    card = read_card(tmp_path / "model")
    start = card.fields["started_from"]["model"]
    assert f"begins from model {start}: its tokens stay" in said and "--from none" in said
    assert card.sha256["tokenizer.safetensors"] == read_card(start).sha256["tokenizer.safetensors"]
    assert card.labels == ["blue", "red"] and card.fields["metrics"]["race"]["accuracy"]["value"] > 0.6
    assert "not certified" in said and "pictures a class" in said
    assert train(data, "--out", tmp_path / "model", *options, "--resume") == 0
    assert "is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ((), "too few pictures to calibrate: 2 of 8 can be held out, 10 are needed: give 23 a class"),
        (("--calibration-images", "0", "--from", "nobody"), "no model 'nobody'"),
        (("--calibration-images", "0", "--from", "cifar10", "--dim", "64"), "leave dim out"),
        (("--calibration-images", "0", "--device", "teletype"), "teletype"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(colours, tmp_path, capsys, args, what):
    data = tmp_path / "data"
    for name in ("red", "blue"):
        (data / name).mkdir(parents=True)
        for i in range(4):
            shutil.copy(colours / name / f"{i:03}.png", data / name)
    assert train(data, "--out", tmp_path / "runs" / "out", *args) == 2
    err = capsys.readouterr().err
    assert what in err and err.count("\n") == 1 and not (tmp_path / "runs").exists()
    (data / "red" / "broken.png").write_bytes(b"no picture")
    assert train(data, "--out", tmp_path / "runs" / "out", "--calibration-images", 0) == 2
    assert "broken.png" in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--levels", "8,x"), "whole numbers"), (("--levels", "1,8"), "2 or more"),
        (("--levels", "100,100,100"), "65536"), (("--levels", "8,8"), "add --tokens labels or"),
        (("--codes", "64", "--tokens", "labels"), "--codes is of --tokens manifold"),
        (("--stages", "0.5"), "--stages are PART:STEPS"), (("--stages", "x"), "--stages are PART:STEPS"),
        (("--stages", "0.5:0.5"), "add up to 1"), (("--stages", "2:1"), "between 0 and 1"),
        (("--dim", "100"), "multiple of 32"), (("--image-size", "30"), "multiple of 4"),
        (("--layout", "spiral"), "randar, sigma"), (("--tokens", "words"), "reconstruction, manifold"),
        (("--epochs", "-1"), "epochs must be a number above 0"),
        (("--tokenizer-epochs", "nan"), "tokenizer_epochs"), (("--layers", "0"), "--layers"),
        (("--batch-size", "0"), "--batch-size"), (("--limit", "-1"), "--limit"),
        (("--test-images", "0"), "--test-images"), (("--calibration-images", "-1"), "--calibration-images"),
        (("--max-orders", "65536"), "--max-orders"), (("--seed", "-1"), "seed"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_one_line(colours, tmp_path, capsys, args, what):
    assert train(colours, "--out", tmp_path / "out", *args) == 2
    err = capsys.readouterr().err
    assert what in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_too_few_pictures_are_refused_before_torch_is_imported(colours, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir()
        shutil.copy(colours / name / "000.png", tmp_path / "data" / name)
    code = (
        "import sys; from anytime_cls_cli.main import main\n"
        "code = main(sys.argv[1:]); print(code, {'torch', 'scipy'} & sys.modules.keys())"
    )
    words = ["train", tmp_path / "data", "--out", tmp_path / "out"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.stdout == "2 set()\n" and "one image, and needs two" in done.stderr
