"""`curve` and `budget`: one command from pictures to a report, and right answers within milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_data import make_images

from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("curve") / "pictures", 3)


def run(capsys: Any, *args: object) -> tuple[int, str, str]:
    code = main([*map(str, args)])
    return code, *capsys.readouterr()


def test_one_command_from_pictures_to_a_report(tiny_model_dir, images, tmp_path, capsys, monkeypatch):
    out = tmp_path / "report.html"
    words = ("curve", images, "--model", tiny_model_dir, "--limit", 6, "-o", out)
    code, said, err = run(capsys, *words, "--estimate")
    assert code == 0 and said == "" and not out.exists() and "in all" in err and err.count("about ") == 3
    code, _, err = run(capsys, *words)
    assert code == 0 and "<html" in out.read_text() and err.count("$ anytime-cls sweep") == 2
    names = sorted(path.name for path in Path(f"{out}.traces").iterdir())
    assert names == ["orders-curves.h5", "orders.h5", "race.h5"]
    with Trace.open(f"{out}.traces/orders.h5") as trace:
        assert len(trace) == 6 and trace.attrs["rule"] == "fixed"
    from anytime_cls.classifier import AnytimeClassifier

    load = AnytimeClassifier.load
    monkeypatch.setattr(AnytimeClassifier, "load", lambda *_: pytest.fail("scored again"))
    out.unlink()
    assert run(capsys, *words, "-q")[::2] == (0, "") and out.exists()  # goes on: only drawn again
    monkeypatch.setattr(AnytimeClassifier, "load", load)
    code, _, err = run(capsys, *words, "-q", "--seed", 7)  # another run's traces are not overwritten
    assert code == 2 and err.count("\n") == 1 and "seed" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("curve", "PICTURES", "-o", "x.txt"), "-o takes a file ending in .html"),
        (("curve", "no-such-folder", "-o", "x.html"), "no data set 'no-such-folder'"),
        (("budget", "MODEL", "PICTURES", "--at", "fast"), "cannot read the budget 'fast'"),
        (("budget", "MODEL"), "labelled images are needed"),
        (("budget", "MODEL", "PICTURES", "--at", " "), "--at takes budgets"),
    ],
)
def test_what_makes_no_sense_is_one_line(words, says, tiny_model_dir, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = {"PICTURES": images, "MODEL": tiny_model_dir}
    words = [named.get(word, word) for word in words]
    model = ["--model", tiny_model_dir] if words[0] == "curve" else []
    code, out, err = run(capsys, *words, *model)
    assert code == 2 and out == "" and err.count("\n") == 1 and says in err


def test_budgets_are_measured_one_by_one(tiny_model_dir, images, capsys):
    words = ("budget", tiny_model_dir, images, "--limit", 6, "--at", "20passes,40passes", "--rule", "fixed")
    code, out, _ = run(capsys, *words, "--max-orders", 4, "--screen", "none", "--json", "-q")
    few, many = map(json.loads, out.splitlines())
    assert code == 0 and (few["budget"], many["budget"]) == ("20passes", "40passes")
    assert few["done_before_the_budget"] == 0 and many["done_before_the_budget"] == 1
    for row in (few, many):
        assert row["images"] == 6 and row["failed"] == 0
        got, took = row["accuracy"], row["seconds"]
        assert got["low"] <= got["value"] <= got["high"] and 0 < took["median"] <= took["p95"] <= took["max"]
    code, out, err = run(capsys, *words)
    assert code == 0 and len(out.splitlines()) == 3 and "20passes" in out and "6 images" in err
