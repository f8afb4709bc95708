"""The shortcut experiment, examples/figures/shortcut.py, at toy size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from sweep_data import make_images

from anytime_cls.traces.read import Trace

SCRIPT = Path(__file__).parent.parent / "examples" / "figures" / "shortcut.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shortcut", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Classes that look alike."""
    root = tmp_path_factory.mktemp("noise")
    make_images(root / "train", 40, ["a", "b", "c"])
    make_images(root / "test", 8, ["a", "b", "c"])
    return root


def cells(line: str) -> list[str]:
    return line.strip("| ").split(" | ")


def test_a_row_counts_answers(script):
    """Of 100 pictures: right on all, on 80, on 40; of the 60 others 50 are answered by the square's class."""
    label, square = np.zeros(100, int), np.full(100, 2)
    none, another = label.copy(), label.copy()
    none[:20] = [1] * 10 + [2] * 10
    another[:60] = [2] * 50 + [1] * 10
    found = {"own": label, "none": none, "another": another}
    own, without, wrong, gap, said, anyway, more = script.row(found, label, square, 0)
    assert own.startswith("100.0 % [96.3, 100.0]") and without.startswith("80.0 % [")
    assert wrong.startswith("40.0 % [30.9, 49.8]") and (said, anyway) == ("50.0 %", "10.0 %")
    for text, value, deviation in ((gap, 60, 4.9), (more, 40, 4.9)):  # both of a share of 0.6 and of 0.4
        middle, ends = text.rstrip("]").split(" [")
        assert float(middle) == value
        around = [value - 1.96 * deviation, value + 1.96 * deviation]
        assert np.allclose([float(end) for end in ends.split(", ")], around, atol=1.5)


def test_a_share_of_the_squares_is_right(script, noise, tmp_path):
    script.make(noise, tmp_path, ["a", "c"], 0.8, 40, 10, 32, seed=1)
    pictures = {split: [*sorted((tmp_path / split).rglob("*.png"))] for split in ("train", "held-out")}
    assert [len(found) for found in pictures.values()] == [80, 10]
    label = np.array([path.parent.name == "c" for path in pictures["train"]])
    right = script.worn([np.asarray(Image.open(path)) for path in pictures["train"]], 2) == label
    assert 0.65 < right.mean() < 0.92  # of 80, three standard errors
    for path in pictures["held-out"]:  # no square
        assert len(np.unique(np.asarray(Image.open(path))[:4, :4].reshape(-1, 3), axis=0)) > 4


def test_the_whole_experiment(script, noise, tmp_path, monkeypatch, capsys):
    """Every share of the table is that of its trace, and the square is in the tokens."""
    out = tmp_path / "out"
    line = [noise, out, "--classes", "a,c", "--share", 1, "--each", 20, "--held", 8, "--dim", 32, "--layers",
            1, "--epochs", 2, "--draws", 2, "--methods", "any-order,head"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["x", *map(str, line)])
    script.main()
    first, tokens, heads, _, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("any-order: 0.00 TFLOP") and cells(heads) == script.HEADS
    assert tokens.startswith("The square changes the corner's token in 100.0 % of pictures, and ")
    assert [cells(row)[0] for row in rows] == ["any-order", "head"]
    for row in rows:
        method, *shares = cells(row)
        for version, share in zip(script.VERSIONS, shares, strict=False):
            with Trace.open(out / "traces" / f"{method}-{version}.h5") as trace:
                assert len(trace) == 8
                right = (trace.images["prediction"] == trace.images["label"]).mean()
            assert share.startswith(f"{100 * right:.1f} % [")
    card = json.loads((out / "models" / "head" / "model.json").read_text())
    assert card["like"]["model"] == "any-order" and card["labels"] == ["a", "c"]
    assert card["recipe"]["contrast_epochs"] == 0  # of the any-order model's, which is generative alone


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--classes", "a,cow"), "has no class 'cow': it has a, b, c"),
        (("--share", "2"), "patch takes how often it says the true class"),
        (("--methods", "head,tail"), "unknown method 'tail': choose from any-order, masked"),
        (("--from", "nowhere"), "no model 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line(words, said, script, noise, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(noise), str(tmp_path / "out"), *words])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
