"""Examples: those that teach, as they stand; those behind figures, on made-up traces with a known answer."""

from __future__ import annotations

import csv
import importlib.util
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from basics import write_photo
from replay_data import full_trace, races
from scipy.special import softmax
from sweep_data import CLASSES, make_images

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.traces.read import Trace

EXAMPLES = Path(__file__).parent.parent / "examples"
FIGURES = EXAMPLES / "figures"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FIGURES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def taught(name: str, monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    """Run an example as a command does."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_a_race_is_watched_until_its_answer(monkeypatch, capsys):
    taught("watch_race", monkeypatch, EXAMPLES / "bird.jpg", "40passes")
    *steps, last = capsys.readouterr().out.splitlines()
    left = [int(step.split(" of 10 classes")[0].split()[-1]) for step in steps]
    assert len(steps) > 1 and left == sorted(left, reverse=True) and left[-1] == 1
    assert "bird.jpg: bird (" in last and ", decided after " in last


def test_a_folder_is_swept_and_replayed(tmp_path, monkeypatch, capsys):
    for name in ("bird", "frog", "horse"):
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / f"{name}.jpg", tmp_path / "data" / name)
    taught("sweep_and_replay", monkeypatch, tmp_path / "data", tmp_path / "full.h5")
    first, *runs = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'full.h5'}: 3 images in 480 calls of 16 tokens, 100.0% right"
    assert [run.split(":")[0] for run in runs] == [
        f"{rule} delta={delta}" for rule in ("paired", "calibrated") for delta in (0.01, 0.05)
    ]
    for run in runs:
        assert "100.0% right, 100.0% agree" in run and int(run.split("x less")[0].split()[-1]) > 8


def test_a_folder_of_shifted_pictures(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from anytime_cls.shifts.shortcuts import colour_of

    make_images(tmp_path / "data", 2, ["cat", "dog"])
    out = tmp_path / "out"
    taught("shifted_folder", monkeypatch, tmp_path / "data", out, "--shift", "patch:1")
    assert capsys.readouterr().out == f"4 pictures of data+patch:1 in {out}\n"
    for number, name in enumerate(("cat", "dog")):
        marks = [np.asarray(Image.open(path))[0, 0] for path in sorted((out / name).iterdir())]
        assert len(marks) == 2 and all((mark == colour_of(number, 2)).all() for mark in marks)


def test_every_script_behind_a_figure_imports_and_has_its_line(monkeypatch):
    monkeypatch.syspath_prepend(FIGURES)
    lines = (FIGURES / "README.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split("`")[1] for line in lines if line.startswith("| `")]
    scripts = sorted(path.name for path in FIGURES.glob("*.py"))
    assert listed == scripts
    for name in scripts:
        assert callable(load(name.removesuffix(".py")).main)


@pytest.mark.parametrize("rule", ["fixed", "paired"])
def test_against_paper_counts_what_the_traces_hold(rule, tmp_path, monkeypatch, capsys):
    """`whole` is a full trace of 16 orders read at K = 8, or a race at K_max 8 that stands for them."""
    scores = races(3, 50)
    k_max, held = (16, scores) if rule == "fixed" else (8, scores[:, :8])
    label = scores[:, :8].mean(axis=1).argmax(axis=1)
    label[:5] = (label[:5] + 1) % 5
    whole = full_trace(tmp_path / "whole.h5", held, label, rule=rule, k_max=k_max)
    race = full_trace(tmp_path / "race.h5", scores[:, :4], label, pass_tokens=16, order_sampler="stratified")
    answers = scores.cumsum(axis=1).argmax(axis=2)
    right = (answers == label[:, None]).mean(axis=0)
    monkeypatch.setattr(sys, "argv", ["x", str(whole), str(race), "--all", str(race), "--orders", "8"])
    load("against_paper").main()
    out = capsys.readouterr().out
    assert "50 images, 5 classes" in out and "K = 8 whole orders  90.0%" in out and ", 40 passes" in out
    assert f"the race             {right[3]:.1%}" in out and "stratified, 16 tokens" in out
    assert f"{100 * (right[3] - 0.9):+.2f} points" in out
    assert "0 of 50 images" in out
    first = int(np.flatnonzero(right[:4] >= right[3] - 1e-9)[0]) + 1
    assert f"K = {first}, " in out


def test_against_paper_refuses_other_models(tmp_path, monkeypatch):
    whole = full_trace(tmp_path / "whole.h5", races(3, 6))
    race = full_trace(tmp_path / "race.h5", races(3, 6), model_sha256="ef" * 32)
    monkeypatch.setattr(sys, "argv", ["x", str(whole), str(race)])
    with pytest.raises(SystemExit, match="one model"):
        load("against_paper").main()


def test_the_front_page_marks_the_race_at_its_risk(tmp_path, monkeypatch, capsys):
    """The CSV's default points are the curve's at the δ asked for; one that was not raced is refused."""
    scores = races(4, 60)
    label = scores.mean(axis=1).argmax(axis=1)
    full = full_trace(tmp_path / "full.h5", scores, label, flops=1e6, pass_flops=1e6)
    line = ["x", f"made-up={full}", "--race", "paired", "--bootstrap", "20"]
    line += ["-o", str(tmp_path / "front.png")]
    for options, mark in (([], 0.05), (["--risk", "0.1"], 0.1)):
        monkeypatch.setattr(sys, "argv", line + options)
        load("front_page").main()
        with (tmp_path / "front.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["curve"] == "paired"]
        (default,) = [row for row in rows if row["default"] == "1"]
        assert float(default["value"]) == mark
    monkeypatch.setattr(sys, "argv", [*line, "--risk", "0.123"])
    with pytest.raises(SystemExit):
        load("front_page").main()
    assert "made-up: paired has no risk 0.123: it has " in capsys.readouterr().err


def test_how_short_tells_designs_apart(tmp_path, monkeypatch, capsys):
    """Of the images both traces have: shares right, and cross entropies at their best temperatures."""
    scores = races(5, 40)
    label = scores.mean(axis=1).argmax(axis=1)
    label[:8] = (label[:8] + 1) % 5
    noisy = scores[:30] + np.random.default_rng(6).normal(0, 4, (30, *scores.shape[1:]))
    noisy = noisy.astype("f4").astype(float)
    first = full_trace(tmp_path / "a.h5", scores, label, prefixes={4: 2 * scores})
    second = full_trace(tmp_path / "b.h5", noisy, label[:30], pass_tokens=16, order_sampler="stratified")
    monkeypatch.setattr(sys, "argv", ["x", str(first), str(second)])
    module = load("how_short")
    module.main()
    out = capsys.readouterr().out
    k_max, means = scores.shape[1], scores[:30].mean(axis=1)
    temperatures = np.geomspace(0.1, 15, 2000)
    p = [softmax(means / t, axis=1)[np.arange(30), label[:30]] for t in temperatures]
    least = min(-np.log(one).mean() for one in p)
    assert out.startswith("30 images")
    lines = {line.split(" K =")[0].strip(): line for line in out.splitlines()[1:]}  # the last K of each
    whole, twice = lines["64 tokens, uniform"], lines["4 of 64 tokens, uniform"]
    other = lines["16 tokens, stratified"]
    assert f"{64 * k_max} tokens   {22 / 30:.1%}  {least:.3f} nats" in whole
    assert twice.endswith("0.000 ± 0.000")  # a temperature makes up for the factor
    apart = module.cross_entropy(noisy.mean(axis=1), label[:30]) - module.cross_entropy(means, label[:30])
    assert other.endswith(f"{apart.mean():+.3f} ± {apart.std(ddof=1) / np.sqrt(30):.3f}") and apart.mean() > 0


def test_many_classes_cost_what_their_races_cost(tmp_path, monkeypatch, capsys):
    """Of some of the classes: their images and scores alone; a screen that knows makes many cheap."""
    rng = np.random.default_rng(8)
    label = np.arange(1200) % 12
    true = rng.normal(0, 1, (1200, 1, 12))
    true[np.arange(1200), 0, label] += 5
    scores = (true + rng.normal(0, 1, (1200, 8, 12))).astype("f4").astype(float)
    screen = (2 * scores.mean(axis=1)).astype("f4").astype(float)
    path = full_trace(tmp_path / "full.h5", scores, label, screens={"table": screen})
    module = load("many_classes")
    with Trace.open(path) as trace:
        module.restricted(trace, np.array([1, 5, 11]), tmp_path / "three.h5")
    with Trace.open(tmp_path / "three.h5") as three:
        assert len(three) == 300 and three.images["label"].tolist()[:3] == [0, 1, 2]
        np.testing.assert_array_equal(three.matrix(1), scores[5][:, [1, 5, 11]])
        np.testing.assert_array_equal(three.matrix(1, 1, 0)[0], screen[5, [1, 5, 11]])
        assert three.attrs["screen_flops"] == [3e6 / 4]
    monkeypatch.setattr(sys, "argv", ["x", str(path), "--classes", "6,12", "--risk", "0.1"])
    module.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [row[2] for row in rows] == ["48.0", "96.0"] and all(row[9] == "table" for row in rows)
    assert all(float(row[6]) < float(row[3]) for row in rows)
    for row in rows:
        for value, low, high in (row[3:6], row[6:9]):
            assert float(low[1:-1]) <= float(value) <= float(high[:-1])
    found = module.measured(path, 0.1, ["table"])
    assert found["spent"].mean() == pytest.approx(found["whole_passes"])
    assert len(found["spent"]) == found["images"]
    b, thousand = module.exponent([10, 100], np.array([1.0, 10.0]))
    assert (b, thousand) == (pytest.approx(1.0), pytest.approx(100.0))


def test_screen_recall_counts_who_is_let_in(tmp_path, monkeypatch, capsys):
    """A table that is the answer, a gradient that knows nothing, and their sum."""
    scores = races(5, 60)
    means = scores.mean(axis=1)
    label = means.argmax(axis=1)
    rng = np.random.default_rng(0)
    screens = {"table": 4 * means, "gradient": rng.normal(size=means.shape)}
    screens = {name: values.astype(np.float32).astype(float) for name, values in screens.items()}
    path = full_trace(tmp_path / "full.h5", scores, label, screens=screens)
    out = tmp_path / "screening.png"
    monkeypatch.setattr(sys, "argv", ["x", str(path), "-o", str(out)])
    load("screen_recall").main()
    said = capsys.readouterr().out
    table = next(line for line in said.splitlines() if line.startswith("  table: "))
    assert (
        "60 images" in said and "100.0 % [94.0, 100.0] the answer; lets in 1.0 for 90%, 1.0 for 95%" in table
    )
    gradient = next(line for line in said.splitlines() if line.startswith("  gradient: "))
    assert float(gradient.split("lets in ")[1].split()[0]) > 3
    assert "  table + gradient: " in said and out.stat().st_size > 5000


def test_a_shortlist_is_who_is_within_the_gap():
    values = np.array([[0.0, -1, -3], [-2, 0, -0.5], [0, -5, -5]])
    recall, size = load("screen_recall").shortlists(values, np.array([1, 1, 0]))
    assert recall.tolist() == [1 / 3, 2 / 3, 1]
    assert np.allclose(size, [1, 1, 5 / 3])  # within 0, 0 and 1: 2, 2 and 1 classes at last


def test_new_classes_links_so_many_pictures_of_so_many_classes(tmp_path):
    make_images(tmp_path / "data" / "train", 4, ["a", "b", "c"])
    make_images(tmp_path / "data" / "val", 3, ["a", "b", "c"])
    chosen = set()
    for seed in range(6):
        load("new_classes").linked(tmp_path / "data", tmp_path / str(seed), 2, 3, seed)
        train, test = (
            {path.name for path in (tmp_path / str(seed) / split).iterdir()} for split in ("train", "val")
        )
        assert train == test and len(train) == 2
        chosen.add(frozenset(train))
        for split, n in (("train", 3), ("val", 3)):
            images = [path for name in train for path in (tmp_path / str(seed) / split / name).iterdir()]
            assert len(images) == 2 * n and all(path.is_symlink() and path.is_file() for path in images)
    assert len(chosen) > 1


def test_unlike_compares_scores_on_pictures_of_no_class(tiny_model_dir, tmp_path, monkeypatch, capsys):
    """Against a folder of the same pictures every score is at chance."""
    for i in range(6):
        for folder in ("own", "same"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_photo(tmp_path / folder / f"{i}.jpg", i)
    line = ["x", str(tmp_path / "own"), str(tmp_path / "same"), "--model", str(tiny_model_dir)]
    monkeypatch.setattr(sys, "argv", [*line, "--images", "6", "--device", "cpu"])
    load("unlike").main()
    rows = [row.split() for row in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 8 and all(float(row[-3]) == 0.5 for row in rows)
    assert {"evidence", "typicality", "best"} <= {row[0] for row in rows}


def test_robustness_is_a_trace_a_point_and_goes_on(tiny_model_dir, tmp_path, monkeypatch, capsys):
    """Right and passes are the traces', a mean is of its points', and what is whole is not scored again."""
    data, out = make_images(tmp_path / "data", 3), tmp_path / "out"
    (tmp_path / "ids").write_text("".join(f"{name}/{i}.png\n" for name in CLASSES for i in (0, 2)))
    line = ["x", str(data), "--model", str(tiny_model_dir), "--ids", str(tmp_path / "ids"), "--device", "cpu"]
    line += ["--corruptions", "contrast", "gaussian-noise", "--threads", "1", "-o", str(out)]
    loads = []
    load_model = AnytimeClassifier.load
    monkeypatch.setattr(AnytimeClassifier, "load", lambda *a: loads.append(a) or load_model(*a))

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*line, *more, "--", "--max-orders", "4"])
        load("robustness").main()
        return capsys.readouterr().out

    said = run()
    assert len(loads) == 11 and (out / "robustness.png").stat().st_size > 5000
    with (out / "robustness.csv").open() as file:
        rows = {(row["corruption"], row["severity"]): row for row in csv.DictReader(file)}
    assert len(rows) == 11 + 6 and all(row["images"] == "8" for row in rows.values())
    right, passes = {}, {}
    for path in out.glob("*-*.h5"):
        kind, _, severity = path.stem.rpartition("-")
        with Trace.open(path) as trace:
            assert trace.attrs["dataset"] == f"data+{kind}:{severity}" and trace.attrs["k_max"] == 4
            right[kind, severity] = np.mean(trace.images["prediction"] == trace.images["label"])
            passes[kind, severity] = 40 * trace.images["token_fraction"].mean()
        assert float(rows[kind, severity]["right"]) == pytest.approx(right[kind, severity])
        assert float(rows[kind, severity]["passes"]) == pytest.approx(passes[kind, severity])
    assert len(right) == 10 and float(rows["mean", "all"]["right"]) == pytest.approx(
        np.mean([*right.values()])
    )
    at_five = [passes["contrast", "5"], passes["gaussian-noise", "5"]]
    assert float(rows["mean", "5"]["passes"]) == pytest.approx(np.mean(at_five))
    assert f"mean, 5             right {100 * float(rows['mean', '5']['right']):.1f} [" in said
    (out / "contrast-2.h5").unlink()
    assert run() == said and len(loads) == 12
    with pytest.raises(SystemExit, match="2"):
        run("--images", "4")
    assert "the images chosen, or their labels, differ" in capsys.readouterr().err and len(loads) == 12
