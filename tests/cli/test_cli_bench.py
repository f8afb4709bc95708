"""`anytime-cls bench`: what it prints and refuses."""

from __future__ import annotations

import json

import pytest
import torch

from anytime_cls_cli.main import main

TINY = "32,2,2,50,5,16"


@pytest.fixture(autouse=True)
def _threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_model_as_json(tiny_model_dir, capsys):
    command = ["bench", "--model", str(tiny_model_dir), "--device", "cpu", "--batch-size", "2,1"]
    assert main([*command, "--prefix", "8,64", "--threads", "1", "--seconds", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(tiny_model_dir) and report["dtype"] == "float32" and report["threads"] == 1
    assert report["weights_bytes"] == 4 * report["parameters"] and report["search"] is None
    assert [(row["rows"], row["prefix"]) for row in report["measured"]] == [(1, 8), (2, 8), (1, 64), (2, 64)]
    for row in report["measured"]:
        seconds = row["seconds"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert row["passes_per_second"] == pytest.approx(row["rows"] / seconds["median"])
        assert 0 < row["share_of_ceiling"]["median"] < 2


def test_random_weights_for_people_with_a_search(capsys):
    assert main(["bench", "--shape", TINY, "--device", "cpu", "--seconds", "0.2", "--dtype", "bf16"]) == 0
    out = capsys.readouterr().out
    assert f"{TINY} (random weights): " in out and "16 tokens" in out and "bfloat16 on cpu" in out
    assert "passes/s by rows: 1: " in out and "would fit into memory" in out
    table = out[out.index("\n rows") + 1 :].splitlines()
    assert table[0].split()[:3] == ["rows", "tokens", "passes/s"]
    assert table[1].split()[1] == "16" and table[1].count("%") == 3


@pytest.mark.parametrize(
    ("name", "joint", "a_pass"),
    [
        ("cifar10-head", True, "a pass gives all 10 classes of a picture"),
        ("cifar10-transformer", True, "a pass gives all 10 classes of a picture"),
        ("cifar10-diffusion", False, "a pass is one draw (a time and a noise) of one class"),
        ("masked", False, "a pass is one draw of one class"),
    ],
)
def test_models_of_another_kind_are_timed_through_their_scorer(name, joint, a_pass, tiny_model_dir, capsys):
    model = f"masked:{tiny_model_dir}" if name == "masked" else name
    command = ["bench", "--model", model, "--device", "cpu", "--batch-size", "3,1", "--threads", "1"]
    assert main([*command, "--seconds", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["joint"], report["a_pass"]) == (model, joint, a_pass)
    assert report["flops_per_pass"] > 0 and report["search"] is None
    assert [(row["rows"], row["prefix"]) for row in report["measured"]] == [(1, 1), (3, 1)]
    for row in report["measured"]:
        seconds = row["seconds"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert row["passes_per_second"] == pytest.approx(row["rows"] / seconds["median"])
        flops = row["flops_per_second"] * seconds["median"]
        assert flops == pytest.approx(row["rows"] * report["flops_per_pass"])


def test_another_kind_for_people_with_a_search(capsys):
    assert main(["bench", "--model", "cifar10-head", "--device", "cpu", "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cifar10-head (head): a pass gives all 10 classes of a picture, ")
    assert "passes/s by rows: 1: " in out and "rows: pictures in a call" in out
    table = out[out.index("\n rows") + 1 :].splitlines()
    assert table[0].split()[:3] == ["rows", "steps", "passes/s"] and table[1].split()[1] == "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compile"], "--compile is of any-order transformers"),
        (["--prefix", "2"], "--prefix takes numbers from 1 to 1"),
        (["--batch-size", "0"], "--batch-size takes numbers from 1"),
    ],
)
def test_mistakes_about_another_kind_take_one_line(arguments, message, capsys):
    assert main(["bench", "--model", "cifar10-head", "--device", "cpu", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "randar-s"], "a shape is randar-l, randar-xl or DIM"),
        (["--shape", "32,2,2,50,5,15"], "n_tokens must be a square, got 15"),
        (["--shape", TINY, "--dtype", "int3"], "unknown dtype 'int3'"),
        (["--shape", TINY, "--device", "tpu9"], "device 'tpu9' is not available"),
        (["--shape", TINY, "--prefix", "17"], "--prefix takes numbers from 1 to 16"),
        (["--shape", TINY, "--prefix", ""], "--prefix takes numbers"),
        (["--shape", TINY, "--batch-size", "0"], "--batch-size takes numbers from 1"),
        (["--shape", TINY, "--batch-size", "many"], "--batch-size takes numbers from 1"),
        (["--shape", TINY, "--compile", "--device", "cpu"], "--compile needs a CUDA device"),
        (["--model", "no-such"], "no-such"),
    ],
)
def test_mistakes_take_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_a_batch_that_does_not_fit_is_no_traceback(capsys, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("anytime_cls.engine.bench.measure", full)
    assert main(["bench", "--shape", TINY, "--device", "cpu", "--batch-size", "9"]) == 2
    err = capsys.readouterr().err
    assert "could not be run here: CUDA out of memory" in err and "smaller --batch-size" in err
