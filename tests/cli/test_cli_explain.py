"""`anytime-cls explain`: pictures, pages and rows; what makes no sense is one line."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from basics import write_photo
from PIL import Image

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.explain.score import explain
from anytime_cls.explain.tokens import anchor
from anytime_cls.pictures.explain_page import page
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main


@pytest.fixture
def folders(tmp_path):
    """Two pictures of a cat, one of a dog, one in a folder that is no class's."""
    for i, name in enumerate(("cat", "cat", "dog", "other")):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        write_photo(tmp_path / "data" / name / f"{i}.jpg", i)
    return tmp_path / "data"


def run(model, *args):
    return main(["explain", "--model", str(model), "--device", "cpu", *map(str, args)])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_is_drawn(ending, folders, tiny_model_dir, tmp_path, capsys):
    out = tmp_path / f"why.{ending}"
    assert run(tiny_model_dir, folders, "--orders", 2, "-o", out) == 0
    said = capsys.readouterr()
    *pictures, figure_4, _, figure_5 = said.out.splitlines()
    assert len(pictures) == 4 and "single orders: " in pictures[0] and "4 of 4 pictures" in said.err
    assert figure_4.startswith("one token is right, 1 order: ") and "56-63 " in figure_5
    if ending == "png":
        with Image.open(out) as image:
            assert image.width > 2000 and np.asarray(image.convert("L")).std() > 10
    else:
        assert out.stat().st_size > 5000
    before = out.read_bytes()
    assert run(tiny_model_dir, folders, "--orders", 2, "-o", out) == 2 and out.read_bytes() == before
    assert run(tiny_model_dir, folders, "--orders", 2, "-o", out, "--overwrite", "-q") == 0
    assert out.read_bytes() == before  # the same numbers are the same file


def test_a_page_has_every_picture_and_its_labels(folders, tiny_model_dir, tmp_path, capsys):
    out = tmp_path / "why.html"
    assert run(tiny_model_dir, folders, "--orders", 2, "--show", 2, "-o", out, "--json", "-q") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tokens, text = rows.pop(), out.read_text()
    assert tokens["images"] == 3 and len(tokens["by_step"]) == 64 and np.shape(tokens["all"]) == (8, 8)
    assert [row["truth"] for row in rows] == ["cat", "cat", "dog", None]
    assert sum(f'id="{anchor(row["content"])}"' in text for row in rows) == 2
    assert "Over 3 labelled pictures" in text and "http" not in text.split("<main>")[1].replace(
        "http://www.w3", ""
    )
    for row in rows:
        assert sum(row["single_orders"].values()) == row["orders"] == 2 and row["label"] != row["rival"]
        assert np.shape(row["evidence"]) == (8, 8) and 0 <= row["deletion"] <= 1


def test_the_class_and_its_rival_can_be_named(folders, tiny_model_dir, tmp_path, capsys):
    out = tmp_path / "why.svg"
    assert (
        run(tiny_model_dir, folders / "dog", "--why", "cat", "--not", "ship", "-o", out, "--json", "-q") == 0
    )
    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (row["label"], row["rival"]) == ("cat", "ship")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "why.gif"), "-o takes FILE.png, .svg, .pdf or .html; got 'why.gif'"),
        (("-o", "why.png", "--why", "unicorn"), "'unicorn' is no class that is scored here"),
        (("-o", "why.png", "--why", "cat", "--not", "cat"), "name one class, 'cat': name two"),
        (("-o", "why.png", "--classes", "cat,dog", "--not", "ship"), "'ship' is no class that is"),
        (("-o", "no/where/why.png",), "is not a folder"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line(
    options, said, folders, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run(tiny_model_dir, folders, *options) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not list(tmp_path.glob("why*"))


def test_what_cannot_be_read_is_said_and_the_rest_goes_on(folders, tiny_model_dir, tmp_path, capsys):
    (folders / "cat" / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "why.png"
    assert run(tiny_model_dir, folders, tmp_path / "none.jpg", "--orders", 1, "-o", out, "-q") == 1
    said = capsys.readouterr()
    assert out.exists() and len(said.out.splitlines()) == 7 and len(said.err.splitlines()) == 2
    assert run(tiny_model_dir, tmp_path / "none.jpg", "-o", tmp_path / "no.png") == 1
    assert not (tmp_path / "no.png").exists()


def test_hostile_names_stay_text(tiny_model_dir, tmp_path):
    """Of files and classes, in the page."""
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    one, _ = explain(classifier, write_photo(tmp_path / "p.jpg"), "<script>$x$\0</script>", 1)
    text = page([one], None, 1, "<b>", "& <i>")
    assert (
        "<script>" not in text
        and "<b>" not in text
        and "&lt;script&gt;" in text
        and "&amp; &lt;i&gt;" in text
    )


def test_a_report_links_races_to_their_maps(folders, tiny_model_dir, tmp_path, capsys):
    """Of the pictures that the page has, seen from where the report is; other pages are refused."""
    shutil.rmtree(folders / "other")
    (tmp_path / "my pages").mkdir()
    why, trace, out = tmp_path / "my pages" / "why.html", tmp_path / "t.h5", tmp_path / "report.html"
    assert run(tiny_model_dir, folders / "cat", "--orders", 1, "-o", why, "-q") == 0
    sweep = ["sweep", str(folders), "--model", str(tiny_model_dir), "--rule", "fixed", "--max-orders", "4"]
    assert main([*sweep, "-o", str(trace), "-q"]) == 0
    plot = ["plot", str(trace), "--bootstrap", "0", "-q", "--maps"]
    assert main([*plot, str(why), "-o", str(out)]) == 0
    found = re.findall(r'<a href="(my%20pages/why.html#picture-[0-9a-f]{16})">', out.read_text())
    with Trace.open(trace) as recorded:
        label = recorded.images["label"] == recorded.labels.index("cat")
        keys = {anchor(key) for key in recorded.images["content"][label]}
    assert {link.split("#")[1] for link in found} == keys and len(keys) == 2
    assert all(f'id="{key}"' in why.read_text() for key in keys)
    capsys.readouterr()
    for other, said in ((out, "is no page of 'anytime-cls explain'"), (tmp_path / "none", "No such file")):
        assert main([*plot, str(other), "-o", str(tmp_path / "other.html")]) == 2
        assert said in capsys.readouterr().err
    assert main([*plot, str(why), "-o", str(tmp_path / "p.png")]) == 2
