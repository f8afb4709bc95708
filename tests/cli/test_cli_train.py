"""`anytime-cls train` from a folder of pictures to a model that classifies them, as its user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.zoo import read_card
from anytime_cls_cli.main import main

QUICK = [
    "--image-size", 16, "--levels", "4,4,4", "--tokenizer-epochs", 6, "--epochs", 12, "--dim", 32,
    "--layers", 1, "--stages", "0.25:0.5,1:0.5", "--batch-size", 20, "--calibration-images", 20,
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
    assert "tokenizer" in said and "transformer" in said and "K =" in said
    assert "tokens alone" in said and "points over its tokens alone" in said
    card = read_card(out)
    assert card.name == "model" and card.fields["license"] == "CC0"
    assert card.fields["recipe"]["levels"] == [4, 4, 4]
    assert card.fields["recipe"]["prefixes"] == [[0.5, 0.25], [0.5, 1.0]]
    held_out = open_dataset(str(colours), card, ids=out / "holdout.txt").samples
    assert len(held_out) == 20
    photos = [sample.path for sample in held_out]
    assert main(["classify", *photos, "--model", str(out), "--max-orders", "8", "--json", "-q"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    right = [row["label"] == Path(row["path"]).parent.name for row in rows]
    assert np.mean(right) >= 0.9  # images that neither training has seen
    assert train(colours, "--out", out, *QUICK) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--levels", "8,x"), "whole numbers"), (("--levels", "1,8"), "2 or more"),
        (("--levels", "100,100,100"), "65536"), (("--stages", "0.5"), "pairs"),
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
