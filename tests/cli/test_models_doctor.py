"""`models ls`, and `doctor`: what is here, and whether it runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from anytime_cls.models.card import WEIGHTS
from anytime_cls_cli.main import main


def test_models_ls(tiny_model_dir, capsys, tmp_path, monkeypatch):
    from anytime_cls.models import zoo

    monkeypatch.setattr(zoo, "EMBEDDED", tmp_path / "none")
    monkeypatch.setattr(zoo, "others_here", lambda: [])  # of this machine's packages and caches
    assert main(["models", "ls"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "no embedded models" in err

    monkeypatch.setattr(zoo, "EMBEDDED", tiny_model_dir.parent)
    assert main(["models", "ls", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    weights = [weight for name in WEIGHTS for weight in load_file(tiny_model_dir / name).values()]
    assert row["parameters"] == sum(weight.numel() for weight in weights)
    assert (row["name"], row["classes"], row["image_size"], row["tokens"]) == ("tiny", 10, 32, 64)
    assert row["bytes"] == sum(file.stat().st_size for file in tiny_model_dir.iterdir())
    assert row["accuracy"] is None and row["licence"] is None

    assert main(["models", "ls", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "tiny" in out and "not measured" in out and "no model.json" in err


def test_models_ls_shows_the_default_rules_accuracy():
    from anytime_cls_cli.models import accuracy

    at_k = {"1": {"value": 0.6}, "16": {"value": 0.8}, "4": {"value": 0.7}}
    assert accuracy(None) is None and accuracy({}) is None
    assert accuracy({"accuracy_at_k": at_k})["value"] == 0.8
    table = [{"rule": "fixed", "accuracy": {"value": 0.81}}, {"rule": "paired", "accuracy": {"value": 0.79}}]
    best = accuracy({"accuracy_at_k": at_k, "rules_at_delta_0.05": table, "images": 1000})
    assert best["value"] == 0.79 and best["images"] == 1000 and "paired" in best["how"]


def test_doctor(tiny_model_dir, capsys, monkeypatch):
    assert main(["doctor", "--model", str(tiny_model_dir), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dtypes"]["float32"] == "runs" and report["devices"][0] == "cpu"
    assert report["model"]["name"] == "tiny" and report["model"]["calibration"]["seconds_per_pass"] > 0
    assert [row["batch"] for row in report["model"]["speed"]][:1] == [1]
    assert all(row["passes_per_second"] > 0 for row in report["model"]["speed"])
    assert Path(report["cache"]["file"]).is_file()

    assert main(["doctor", "--model", str(tiny_model_dir), "--device", "cpu"]) == 0
    assert "passes a second" in capsys.readouterr().out
    assert main(["doctor", "--model", "no-such"]) == 1
    assert "BROKEN: no model 'no-such'" in capsys.readouterr().out
    assert main(["doctor", "--device", "tpu9"]) == 2


@pytest.mark.parametrize("name", ["cifar10-head", "cifar10-transformer", "cifar10-diffusion", "masked"])
def test_doctor_checks_models_of_any_kind(name, tiny_model_dir, capsys):
    model = f"masked:{tiny_model_dir}" if name == "masked" else name
    assert main(["doctor", "--model", model, "--device", "cpu", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["model"]
    assert found["method"] == {"masked": "masked", "cifar10-transformer": "discriminative"}.get(
        name, name.removeprefix("cifar10-")
    )
    assert found["classes"] == 10 and found["tokens"] == 1 and found["gflop_per_pass"] > 0
    assert ("all 10 classes" in found["a_pass"]) == (name in ("cifar10-head", "cifar10-transformer"))
    assert found["speed"] and all(row["passes_per_second"] > 0 for row in found["speed"])
    learnt = found["calibration"]
    passes = 1 if "all" in found["a_pass"] else 10
    assert learnt["draw_seconds"] == pytest.approx(
        learnt["overhead_seconds"] + passes * learnt["seconds_per_pass"]
    )


def test_doctor_says_what_scores_are_broken(capsys, monkeypatch):
    from anytime_cls.scorers.base import Piece

    def nothing(self, pieces: list[Piece], steps: tuple[int, ...]) -> list[np.ndarray]:
        return [np.full((len(piece.classes), len(steps)), np.nan) for piece in pieces]

    from anytime_cls.classifier import AnytimeClassifier

    kind = type(AnytimeClassifier.load("cifar10-head", "cpu").scorer)
    monkeypatch.setattr(kind, "score", nothing)
    assert main(["doctor", "--model", "cifar10-head", "--device", "cpu"]) == 1
    assert "BROKEN: its scores of a picture are no 10 finite numbers" in capsys.readouterr().out
