"""`anytime-cls compare`: the folder it makes, what it prints, how it goes on, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from peer_models import KINDS, LABELS, write
from sweep_data import contents, make_images, start

from anytime_cls.models.zoo import read_card
from anytime_cls.replay.source import Source
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

ROOT = Path(__file__).parents[2]
SMALL = ("--max-orders", "3", "--bootstrap", "100", "--device", "cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("data") / "images", 3)


def cli(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    code = main(["compare", *map(str, arguments)])
    return code, *capsys.readouterr()


def refused(capsys: Any, *arguments: object) -> str:
    code, out, err = cli(capsys, *arguments)
    assert code == 2 and out == "" and err.startswith("anytime-cls: ") and err.count("\n") == 1, err
    return err


def test_from_a_shell(tiny_model_dir, images, tmp_path, capsys):
    """The whole way, in a process of its own: table, files, clock; and JSON when it goes on."""
    out = tmp_path / "out"
    words = [images, "--models", tiny_model_dir, *SMALL, "--shift", "clean,fog:5", "--time-images", "3",
             "-o", out]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "anytime_cls_cli", "compare", *map(str, words)],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The race of tiny (") and "× the race's FLOPs" in done.stdout
    assert "fog:5" in done.stdout and "MB, batched" in done.stdout
    assert "2/2  tiny on fog:5: 12 images, 3 uniform draws of 10 classes, about" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.h5")) == [
        f"{what}/{images_}/tiny.h5" for what in ("curves", "traces") for images_ in ("clean", "fog-5")
    ]  # fmt: skip
    page = (out / "compare.md").read_text()
    assert page.startswith("# 1 method on 12 images") and "## Other images" in page
    assert "Made by `anytime-cls compare" in page and "Live, each method" in page
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["tiny", "tiny table", "tiny gradient"]
    assert all(0 <= float(row["accuracy"]) <= 1 and float(row["flops"]) > 0 for row in rows)
    assert float(rows[0]["live_seconds_alone"]) > 0 and rows[1]["live_seconds_alone"] == ""
    assert len(list(csv.DictReader((out / "sets.csv").read_text().splitlines()))) == 6
    tex = (out / "compare.tex").read_text()
    assert "includegraphics" in tex and "tiny table & table, no order" in tex
    assert (out / "compare.png").stat().st_size > 5000 and b"</svg>" in (out / "compare.svg").read_bytes()
    clocked = (out / "clock.json").read_text()

    code, text, err = cli(capsys, *words, "--resume", "--json")
    assert code == 0 and err == "", err  # nothing was raced, or timed, anew
    found = json.loads(text)
    assert text.count("\n") == 1 and found["headline"][0] in done.stdout
    assert (out / "clock.json").read_text() == clocked
    assert {row["images of"] for row in found["sets"]} == {"clean", "fog:5"}


def test_models_and_images_are_added_to_what_is_there(tiny_model_dir, images, tmp_path, capsys):
    out = tmp_path / "out"
    given = (images, *SMALL, "--time-images", "0", "-o", out, "-q", "--json")
    assert cli(capsys, *given, "--models", tiny_model_dir)[0] == 0
    trace = out / "traces" / "clean" / "tiny.h5"
    before = trace.stat().st_mtime_ns
    said = refused(capsys, *given, "--models", tiny_model_dir)
    assert "has a comparison already: go on with --resume" in said
    more = ("--models", f"{tiny_model_dir},{tiny_model_dir}:raster", "--shift", "clean,sketch", "--resume")
    code, text, err = cli(capsys, *given, *more)
    assert code == 0 and err == "" and len(json.loads(text)["sets"]) == 8
    assert trace.stat().st_mtime_ns == before
    assert "max_orders" in (said := refused(capsys, *given, "--models", tiny_model_dir, "--resume",
                            "--max-orders", "2")) or "k_max" in said  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_it_goes_on_to_the_same(tiny_model_dir, images, tmp_path, capsys):
    def command(out: str) -> list[object]:
        return ["compare", images, "--models", tiny_model_dir, *SMALL, "--time-images", "0", "--shift",
                "clean,fog:5", "-o", tmp_path / out, "--resume"]  # fmt: skip

    for wanted in (1, 3):  # parts on disk
        process = start(command("x"), tmp_path / "log", slow=0.01)
        until = time.monotonic() + 120
        while len(list((tmp_path / "x").rglob("part-*.h5"))) < wanted and process.is_alive():
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        process.join()
    for out in ("x", "whole"):
        assert main([str(word) for word in command(out)]) == 0
    capsys.readouterr()
    for images_ in ("clean", "fog-5"):
        paths = [tmp_path / out / "traces" / images_ / "tiny.h5" for out in ("x", "whole")]
        assert contents(paths[0]) == contents(paths[1])
    tables = [(tmp_path / out / "compare.md").read_text().splitlines() for out in ("x", "whole")]
    kept = [[line for line in table if "`anytime-cls" not in line] for table in tables]
    # but for the seconds of all draws, which only the clocked table has
    assert kept[0] == kept[1]


def test_an_image_that_cannot_be_read_is_left_out_and_said(tiny_model_dir, tmp_path, capsys):
    root = make_images(tmp_path / "data", 3)
    (root / "bird" / "broken.png").write_bytes(b"no picture")
    given = (root, "--models", tiny_model_dir, *SMALL, "--time-images", "0", "-o", tmp_path / "out", "--json")
    code, text, err = cli(capsys, *given, "-q")
    assert code == 1 and "1 images could not be classified" in err and "Traceback" not in err
    assert json.loads(text)["rows"][0]["images"] == 12


def test_every_kind_of_method_in_one_table(tmp_path, capsys):
    """Any-order, masked, raster, discriminative, head and diffusion models, random but real."""
    root = make_images(tmp_path / "data", 6, LABELS)
    models = [write(kind, tmp_path / kind) for kind in KINDS]
    any_order = tmp_path / "any"  # a raster model's weights are those of an any-order one
    shutil.copytree(models[0], any_order)
    fields = json.loads((any_order / "model.json").read_text())
    (any_order / "model.json").write_text(json.dumps(fields | {"layout": "sigma", "name": "any"}))
    names = ",".join(map(str, (any_order, f"masked:{any_order}", *models)))
    code, text, err = cli(
        capsys, root, "--models", names, "--max-orders", "4", "--max-draws", "8", "--time-images", "0",
        "--bootstrap", "50", "-o", tmp_path / "out", "--json", "-q",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(text)
    rows = {row["method"]: row for row in found["rows"]}
    kinds = {name: row["kind"] for name, row in rows.items()}
    assert kinds == {
        "any": "autoregressive", "any table": "screen", "any gradient": "screen",
        f"masked:{any_order}": "masked diffusion", "tiny-raster": "one order",
        "tiny-discriminative": "discriminative", "tiny-head": "discriminative", "tiny-diffusion": "diffusion",
    }  # fmt: skip
    assert len(found["headline"]) >= 3  # against masked and latent diffusion, and its own fixed K
    assert "than tiny-diffusion (" in found["headline"][1]
    shapes = {path.name: read_card(path).shape for path in models}
    for kind in ("discriminative", "head"):  # one pass, whatever the classes
        assert rows[f"tiny-{kind}"]["flops"] == pytest.approx(shapes[kind].flops())
    assert rows["tiny-raster"]["flops"] == pytest.approx(4 * shapes["raster"].flops(64))
    assert rows["tiny-diffusion"]["full_flops"] == pytest.approx(8 * 4 * shapes["diffusion"].flops())
    traces = sorted(path.name for path in (tmp_path / "out" / "traces" / "clean").glob("*diffusion*"))
    assert traces == ["tiny-diffusion-levels.h5", "tiny-diffusion.h5"]
    with Trace.open(tmp_path / "out" / "traces" / "clean" / traces[0]) as trace:
        assert Source(trace).block == 4


def test_what_was_clocked_is_read_only_where_it_makes_sense(tmp_path):
    from anytime_cls_cli.compare import _known

    file = tmp_path / "clock.json"
    good = dict.fromkeys(("images", "images_alone", "seconds_batched", "seconds_alone", "bytes_batched",
                          "bytes_alone", "bytes_loaded"), 1)  # fmt: skip
    for text, found in (
        (json.dumps({"a": good}), {"a": good}), ("", {}), ("[1]", {}), ('{"a": 1}', {}), ("[" * 9999, {}),
        (json.dumps({"a": {"images": 1}}), {}),
    ):  # fmt: skip
        file.write_text(text)
        assert _known(file) == found
    assert _known(tmp_path / "nothing") == {}


def test_a_model_may_have_settings_of_its_own():
    from anytime_cls_cli.compare import named

    found = named("cifar10, timm:vit,weights=/a/b.pt,head=c,runs/x=y/m,dit")
    assert found == ["cifar10", "timm:vit,weights=/a/b.pt,head=c", "runs/x=y/m", "dit"]


def test_what_makes_no_sense_is_one_line(tiny_model_dir, images, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    model = ("--models", tiny_model_dir)
    for arguments, said in (
        ((images,), "name the models to compare"),
        ((images, "--models", "nothing"), "no model 'nothing'"),
        ((images, *model, "--shift", "fogg:3"), "no data set 'fogg:3'"),
        ((images, *model, "--shift", "fog:9"), "a severity is 1 to 5"),
        ((images, *model, "--rules", "quick"), "unknown rule 'quick'"),
        ((images, *model, "-o", file), "is a file: -o names a folder"),
        ((images, *model, "-o", tmp_path / "no" / "where"), "is not a folder"),
        (("nowhere", *model), "no data set 'nowhere'"),
        ((images, *model, "--batch-size", "none"), "--batch-size"),
    ):
        assert said in refused(capsys, *arguments, *(() if "-o" in arguments else ("-o", tmp_path / "out")))
    assert not (tmp_path / "out").exists()
