"""Sweeps: what they race, what they record, and what they print."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from basics import TINY_LABELS
from sweep_data import CLASSES, contents, make_images, sweep

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.datasets.names import open_dataset
from anytime_cls.plan.options import RaceOptions
from anytime_cls.stats.intervals import wilson
from anytime_cls.sweeps.sweep import (
    Shard,
    Stopped,
    Tally,
    race_images,
    run_sweep,
    sweep_plan,
    sweep_provenance,
)
from anytime_cls.traces.merge import merge_traces
from anytime_cls.traces.read import Trace
from anytime_cls.traces.rows import evaluations
from anytime_cls.traces.schema import MATCH_KEYS, ImageRow
from anytime_cls.traces.write import TraceWriter


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of four classes."""
    return make_images(tmp_path_factory.mktemp("data") / "pictures", 3)


@pytest.fixture(scope="module")
def classifier(tiny_model_dir: Path) -> AnytimeClassifier:
    return AnytimeClassifier.load(str(tiny_model_dir), "cpu")


def test_sweep_end_to_end_as_a_program(tiny_model_dir, classifier, images, tmp_path):
    """From the command line to numbers that classify gives too, under a name that says what it is."""
    command = [sys.executable, "-m", "anytime_cls_cli", "sweep", images, "--model", tiny_model_dir]
    options = ["--max-orders", "8", "--seed", "5", "--device", "cpu", "--budget", "40passes"]
    done = subprocess.run(
        list(map(str, [*command, *options])), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures-tiny-paired.h5"]
    found = dict(re.findall(r"^(\w[\w, ]*?) {2,}(.*)$", done.stdout, re.M))
    options_ = RaceOptions(max_orders=8, seed=5, budget="40passes")
    with Trace.open(tmp_path / "pictures-tiny-paired.h5") as trace:
        assert trace.complete and trace.labels == TINY_LABELS
        assert trace.images["index"].tolist() == list(range(12))
        assert trace.images["id"].tolist() == sorted(f"{c}/{i}.png" for c in CLASSES for i in range(3))
        hits = 0
        for i, row in enumerate(map(trace.row, range(12))):
            decision = classifier.classify(images / row.id, options_)
            assert row.label == TINY_LABELS.index(row.id.split("/")[0])
            assert row.prediction == decision.index and row.orders == decision.orders
            assert row.stop == decision.stop and row.passes == len(trace.scores(i)) == decision.passes
            assert row.token_fraction == pytest.approx(row.passes / 80) and row.seconds > 0
            hits += row.prediction == row.label
        low, high = wilson(hits / 12, 12)
        assert found["accuracy"] == f"{100 * hits / 12:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        assert trace.attrs["images"] == 12 and trace.attrs["dataset"] == "pictures"
        assert trace.attrs["root"] == str(images) and len(trace.attrs["dataset_fingerprint"]) == 64
        assert trace.attrs["workers"] == 1 and trace.attrs["flops"] > 0 and "prefixes" not in trace.attrs
        assert trace.attrs["budget"] == "40passes" and trace.attrs["command"].startswith("anytime-cls sweep ")
        saving = 1 / trace.images["token_fraction"].mean()
        than = "less compute than 8 whole orders of all classes"
        assert found["passes"].endswith(" an image, of 80") and found["saving"] == f"{saving:.1f}× {than}"


def test_json_at_the_end(tiny_model_dir, images, tmp_path, capsys):
    code, found, err = sweep(
        capsys, images, "--model", tiny_model_dir, "--max-orders", 4, "-o", tmp_path / "x.h5", "-q"
    )
    assert code == 0 and found is not None and err == ""
    with Trace.open(tmp_path / "x.h5") as trace:
        column = trace.images
        assert found["images"] == found["labelled"] == 12 and found["errors"] == 0
        assert found["accuracy"] == np.mean(column["prediction"] == column["label"])
        assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
        assert found["orders_mean"] == column["orders"].mean() and found["calls"] == column["passes"].sum()
        assert found["passes"] == pytest.approx(found["calls"])  # whole orders: a call is a pass
        assert found["full_passes"] == 40 and found["saving"] == pytest.approx(40 / column["passes"].mean())
        assert sum(found["stop"].values()) == 12 and found["wall_seconds"] > 0
    assert (found["dataset"], found["model"], found["rule"]) == ("pictures", "tiny", "paired")


def test_images_that_cannot_be_read_are_rows_with_an_error(tiny_model_dir, tmp_path, capsys):
    """Alone, in a row, first and last: the others keep what they have without them."""
    good = make_images(tmp_path / "good", 2)
    bad = make_images(tmp_path / "bad" / "good", 2)
    broken = ("bird/1.png", "car/0.png", "car/1.png", "plane/1.png")
    for name in broken:
        (bad / name).write_bytes((bad / name).read_bytes()[:60] if "1" in name else b"")
    options = ("--model", tiny_model_dir, "--max-orders", 4, "-o")
    assert sweep(capsys, good, *options, tmp_path / "a.h5")[0] == 0
    code, found, err = sweep(capsys, bad, *options, tmp_path / "b.h5")
    assert code == 1 and found is not None and found["errors"] == 4 and found["labelled"] == 4
    assert "4 of 8 images could not be classified: the trace says why (column error)" in err
    a, b = contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5")
    for i, error in enumerate(b["images"]["error"]):
        assert bool(error) == (b["images"]["id"][i] in broken)
        if error:
            assert b["images"]["prediction"][i] == -1 and b["scores"][i] == b""
        else:
            assert b["scores"][i] == a["scores"][i]


def test_choosing_images_and_classes(tiny_model_dir, images, tmp_path, capsys):
    options = ("--model", tiny_model_dir, "--max-orders", 4)
    (tmp_path / "ids").write_text("bird/2.png\ncat/0.png\n")
    wanted = {
        "limit": (["--limit", 8], 8, TINY_LABELS),
        "ids": (["--ids", tmp_path / "ids"], 2, TINY_LABELS),
        "classes": (["--classes", "cat,plane"], 6, ["plane", "cat"]),
    }
    for name, (some, count, labels) in wanted.items():
        path = tmp_path / f"{name}.h5"
        code, found, _ = sweep(capsys, images, *options, *some, "-o", path)
        assert code == 0 and found is not None and found["images"] == count
        with Trace.open(path) as trace:
            assert trace.labels == labels and trace.images["index"].tolist() == list(range(count))
            names = [labels[i] for i in trace.images["label"]]
            assert names == [key.split("/")[0] for key in trace.images["id"]]
            assert set(names) == ({"bird", "cat"} if name == "ids" else {*labels} & {*CLASSES})
            assert found["full_passes"] == len(labels) * 4


def test_shards_merge_to_what_one_run_gives(tiny_model_dir, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (images, "--model", tiny_model_dir, "--max-orders", 4)
    assert sweep(capsys, *options)[0] == 0
    names = []
    for i in (1, 2, 3):
        assert sweep(capsys, *options, "--shard", f"{i}/3")[0] == 0
        names.append(f"pictures-tiny-paired-{i}-of-3.h5")
        with Trace.open(names[-1]) as trace:
            assert trace.images["index"].tolist() == list(range(i - 1, 12, 3))
            assert trace.attrs["shard"] == f"{i}/3" and trace.attrs["images"] == 12
    merge_traces(names[::-1], "merged.h5")
    assert contents(Path("merged.h5")) == contents(Path("pictures-tiny-paired.h5"))
    code, _, err = sweep(capsys, *options, "--shard", "2/3", "-o", names[0], "--resume")
    assert code == 2 and "shard is 1/3 there and 2/3 here" in err


def test_recorded_prefixes_cost_nothing_and_change_nothing(tiny_model_dir, images, tmp_path, capsys):
    options = (images, "--model", tiny_model_dir, "--rule", "fixed", "--max-orders", 3, "--limit", 4)
    assert sweep(capsys, *options, "-o", tmp_path / "a.h5")[0] == 0
    assert sweep(capsys, *options, "-o", tmp_path / "b.h5", "--record-prefixes", "32,8")[0] == 0
    with Trace.open(tmp_path / "a.h5") as a, Trace.open(tmp_path / "b.h5") as b:
        assert b.attrs["prefixes"] == [8, 32] and len(b.attrs["prefix_flops"]) == 2
        assert 0 < b.attrs["prefix_flops"][0] < b.attrs["prefix_flops"][1] < b.attrs["flops"]
        assert (a.images["passes"] == 30).all() and (b.images["passes"] == 30).all()
        for i in range(4):
            np.testing.assert_array_equal(a.matrix(i), b.matrix(i))
            at8, at32, whole = (b.matrix(i, 3, prefix) for prefix in (8, 32, 64))
            assert np.isfinite(at8).all() and (at8 > at32).all() and (at32 > whole).all()
            assert set(b.scores(i).prefix.tolist()) == {8, 32, 64}


def test_evaluations_are_counted_once(classifier, images):
    """Also where the budget allowed a prefix only, that other prefixes were recorded of."""
    source = images / "cat" / "0.png"
    for options, expected in (
        (RaceOptions(max_orders=2, rule="fixed", prefixes=(8, 16)), 20),
        (RaceOptions(max_orders=2, budget="4passes", prefixes=(8, 16), screen="none"), 10),
        (RaceOptions(max_orders=2, budget="15passes", rule="fixed", prefixes=(8, 16)), 10),
    ):
        assert evaluations(classifier.classify(source, options)) == expected


def test_imagenet_by_synset_folders(tmp_path, capsys):
    """1,000 classes named by synset, of a model that names them in words."""
    model, names = imagenet_model(tmp_path / "model")
    make_images(tmp_path / "val", 1, ["n01440764", "n02123045", "n04037443"], size=16)
    code, found, err = sweep(
        capsys, "imagenet", "--root", tmp_path / "val", "--model", model, "--max-orders", 1, "-o",
        tmp_path / "x.h5", "-q",
    )  # fmt: skip
    assert code == 0 and found is not None, err
    assert found["classes"] == 1000 and found["images"] == 3 and found["dataset"] == "imagenet"
    with Trace.open(tmp_path / "x.h5") as trace:
        assert trace.images["label"].tolist() == [0, 281, 751]
        assert trace.labels == names and "tabby" in names[281]
        assert trace.images["passes"].tolist() == [1000] * 3
        assert len(np.unique(trace.matrix(2))) > 900


def imagenet_model(path: Path) -> tuple[Path, list[str]]:
    """A random model of ImageNet's 1,000 classes: 16 pixels, 16 tokens."""
    import torch

    from anytime_cls.models.labels import imagenet_labels
    from anytime_cls.models.load import save_model
    from anytime_cls.scorers.randar import RandAR
    from anytime_cls.scorers.shapes import RandARConfig
    from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer

    names = list(imagenet_labels().names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = FSQConfig(image_size=16, widths=(8, 8, 8), blocks=(1, 1, 1))
        tokenizer = FSQTokenizer(shape)
        config = RandARConfig(32, 1, 2, shape.vocab_size, tokenizer.n_tokens, len(names))
        model = RandAR(config)
        torch.nn.init.normal_(model.output.weight, std=0.1)
        torch.nn.init.normal_(model.cls_embedding.weight, std=1.0)
    fields = {
        "name": "tiny-in1k", "labels": names, "image_size": 16, "model": config.to_dict(),
        "tokenizer": {"kind": "fsq", **shape.to_dict()},
    }  # fmt: skip
    save_model(path, fields, model.reference_state(), tokenizer.state_dict())
    return path, names


# ---- from Python


def test_run_sweep_from_python(classifier, images, tmp_path):
    dataset = open_dataset(str(images), classifier.card)
    plan = sweep_plan(dataset, classifier.card, RaceOptions(max_orders=4))
    attributes = sweep_provenance(plan, dataset, classifier.card)
    seen: list[int] = []
    with TraceWriter.create(tmp_path / "x.h5", attributes, dataset.labels) as writer:
        tally = run_sweep(classifier, dataset, plan, writer, lambda tally: seen.append(tally.done))
    assert seen == list(range(1, 13)) and tally.done == tally.total == tally.labelled == 12
    with Trace.open(tmp_path / "x.h5") as trace:
        column = trace.images
        assert tally.correct == (column["prediction"] == column["label"]).sum()
        assert tally.saving == pytest.approx(1 / column["token_fraction"].mean())


def test_stopped_between_batches_and_gone_on_with(classifier, images, tmp_path):
    """What was finished counts in the tally of the next attempt, and nothing is scored twice."""
    dataset = open_dataset(str(images), classifier.card)
    plan = sweep_plan(dataset, classifier.card, RaceOptions(max_orders=8))
    attributes = sweep_provenance(plan, dataset, classifier.card)
    run = (classifier, dataset, plan)
    with TraceWriter.create(tmp_path / "a.h5", attributes, dataset.labels) as writer:
        run_sweep(*run, writer)
    tallies: list[Tally] = []
    with (
        pytest.raises(Stopped),
        TraceWriter.create(tmp_path / "b.h5", attributes, dataset.labels) as writer,
    ):
        run_sweep(*run, writer, tallies.append, stop=lambda: len(tallies) >= 5)
    finished = tallies[-1].done
    assert 5 <= finished < 12
    passes = classifier.engine.passes
    with TraceWriter.resume(tmp_path / "b.h5", attributes, dataset.labels) as writer:
        tally = run_sweep(*run, writer)
    assert (tally.before, tally.done) == (finished, 12)
    with Trace.open(tmp_path / "b.h5") as trace:
        rest = trace.images["passes"][finished:].sum()
        assert classifier.engine.passes - passes == pytest.approx(rest)
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")
    assert not classifier.scorer.model._forward_pre_hooks


def test_work_is_pulled_as_it_is_needed(classifier, images):
    """The stream asks for no more than it can take up, so that chunks go to who is free."""
    dataset = open_dataset(str(images), classifier.card)
    pulled: list[int] = []

    def indices() -> Any:
        for turn in range(100):
            for index in range(12):
                pulled.append(12 * turn + index)
                yield index

    plan = sweep_plan(dataset, classifier.card, RaceOptions())
    results = race_images(classifier, dataset, indices(), plan)
    first = [next(results)[0] for _ in range(3)]
    assert first == [0, 1, 2] and len(pulled) < 400
    results.close()


def test_a_reader_that_fails_costs_its_image_alone(classifier, images):
    dataset = open_dataset(str(images), classifier.card)

    def broken() -> bytes:
        raise KeyError("shard 3\nis gone")

    samples = [replace(s, load=broken) if i in (0, 5, 11) else s for i, s in enumerate(dataset.samples)]
    plan = sweep_plan(dataset, classifier.card, RaceOptions(max_orders=2))
    rows = list(race_images(classifier, replace(dataset, samples=samples), range(12), plan))
    assert [index for index, _, _ in rows] == list(range(12))
    assert [i for i, row, _ in rows if row.error] == [0, 5, 11]
    assert rows[5][1].error == "'shard 3\\nis gone'" and rows[5][1].id == samples[5].id


def test_the_thresholds_of_a_calibrated_rule_are_recorded(images, classifier):
    """A model calibrated anew between a run and its resumption would mix two rules."""
    dataset = open_dataset(str(images), classifier.card)
    held = {
        "risk": 0.01, "k_max": 8, "order_sampler": "uniform", "n_classes": 10, "alpha": 1e-3,
        "thresholds": {"1": 1e-3, "4": 1e-3}, "prior": {"scale": 1.0, "power": 0.0, "df": 20.0},
    }  # fmt: skip
    card = replace(classifier.card, fields={**classifier.card.fields, "calibrated": [held]})
    options = RaceOptions(rule="calibrated", delta=0.02, max_orders=8)
    recorded = sweep_provenance(sweep_plan(dataset, card, options), dataset, card)["calibrated"]
    assert json.loads(recorded) == {"thresholds": [[1, 1e-3], [4, 1e-3]], "rungs": []}
    plan = sweep_plan(dataset, card, RaceOptions())
    assert sweep_provenance(plan, dataset, card)["calibrated"] is None
    assert "calibrated" in MATCH_KEYS


def test_shards_cover_everything_once():
    for n in (1, 3, 7):
        together = [i for part in range(1, n + 1) for i in Shard(part, n).indices(20)]
        assert sorted(together) == list(range(20))
    assert str(Shard.parse(" 2/4")) == "2/4"


def test_tally_takes_back():
    tally = Tally(3)
    row = ImageRow("a", "a", 1, 1, 2, 20, 0.5, 0.1, "decided", 0.9)
    assert math.isnan(tally.accuracy) and math.isnan(tally.saving)
    tally.add(row)
    assert (tally.done, tally.correct, tally.saving, tally.accuracy) == (1, 1, 2.0, 1.0)
    tally.add(row, -1)
    assert (tally.done, tally.correct, tally.calls, tally.used) == (0, 0, 0, 0.0)


# ---- progress


def test_progress_in_lines_without_a_terminal(tiny_model_dir, images, tmp_path, capsys, monkeypatch):
    from anytime_cls_cli.show import sweep as sweep_show

    monkeypatch.setattr(sweep_show, "LINE_EVERY", 0.0)
    options = (images, "--model", tiny_model_dir, "--max-orders", 2, "--limit", 3, "-o")
    _, _, err = sweep(capsys, *options, tmp_path / "x.h5")
    lines = err.splitlines()[3:]  # after what is about to be done
    assert len(lines) == 3
    assert re.fullmatch(
        r"3/3  \d+\.\d % \[\d+\.\d, \d+\.\d\]  \d\.\d+× less compute  \d+\.\d/s  0 ms left", lines[2]
    )
    _, _, err = sweep(capsys, *options, tmp_path / "y.h5", "-q")
    assert err == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_progress_bar_on_a_terminal(tiny_model_dir, images, tmp_path, monkeypatch):
    """The bar, its figures, and then nothing left of it but the table on standard output."""
    import io

    from anytime_cls_cli.main import main

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    out, err = io.StringIO(), Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    options = ["sweep", str(images), "--model", str(tiny_model_dir), "--max-orders", "2", "--device", "cpu"]
    assert main([*options, "-o", str(tmp_path / "x.h5")]) == 0
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err.getvalue())
    assert re.search(r"12/12 \d+\.\d % \[\d+\.\d, \d+\.\d\]  \d\.\d+× less compute  \d+\.\d/s", drawn)
    assert "accuracy" in out.getvalue() and "[" in out.getvalue() and "\x1b" not in out.getvalue()


def test_help_and_import_stay_light():
    code = (
        "import sys; from anytime_cls_cli.main import main\n"
        "assert main(['sweep', '--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'h5py', 'PIL', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--record-prefixes" in done.stdout
