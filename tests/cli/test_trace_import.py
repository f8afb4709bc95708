"""Other programs' results as traces, in the layouts that they write; and traces as arrays."""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from replay_data import full_trace, races
from scipy.special import softmax

from anytime_cls.curves.file import read_curves
from anytime_cls.models.card import ModelError
from anytime_cls.models.imported import read_names
from anytime_cls.models.results import read_results
from anytime_cls.traces.foreign import adaptive, dit_errors, mixed
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

T = 1000  # timesteps of a diffusion model


def errors_of(seed: int, classes: int, steps: int) -> np.ndarray:
    """Mean squared errors [draws, classes], float32: one class is better by a little at every timestep."""
    rng = np.random.default_rng(seed)
    shared = np.linspace(0.9, 0.1, steps)[:, None] + rng.normal(0, 0.02, (steps, 1))
    own = rng.normal(0, 0.01, classes)
    return (shared + own + rng.normal(0, 0.002, (steps, classes))).astype(np.float32)


def funnel(errors: np.ndarray, n_samples: list[int], to_keep: list[int]) -> dict:
    """What eval_prob_adaptive.py keeps of one image, whose errors at every timestep are known: stages that
    try ever more timesteps on ever fewer prompts."""
    most, data, done = max(n_samples), {}, set()
    grid = list(range(T // most // 2, T, T // most))[:most]
    left = list(range(errors.shape[1]))
    for n, keep in zip(n_samples, to_keep, strict=True):
        stage = [t for t in grid[len(grid) // n // 2 :: len(grid) // n][:n] if t not in done]
        done.update(stage)
        for c in left:
            t = torch.tensor(stage)
            error = torch.tensor(errors[[grid.index(t) for t in stage], c])
            before = data.get(c)
            data[c] = {
                "t": t if before is None else torch.cat([before["t"], t]),
                "pred_errors": error if before is None else torch.cat([before["pred_errors"], error]),
            }
        left = sorted(left, key=lambda c: float(data[c]["pred_errors"].mean()))[:keep]
    return {"errors": data, "pred": np.int64(left[0]), "label": 0}


@pytest.fixture
def adaptive_run(tmp_path):
    """40 images, 4 prompts; the classes' numbers are not their columns. Files as torch.save writes them."""
    folder = tmp_path / "v2-0_1trials_2_1keep_8_16samples"
    folder.mkdir()
    every = [errors_of(i, 4, 16) for i in range(40)]
    for i, errors in enumerate(every):
        found = funnel(errors, [16], [1])
        found["label"] = 10 + int(errors.mean(axis=0).argmin() if i % 4 else 3)
        found["pred"] = np.int64(10 + int(found["pred"]))
        torch.save(found, folder / f"{i:02}.pt")
    names = tmp_path / "prompts.csv"
    with names.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "classname", "classidx"))
        writer.writerows((f"a photo of {n}.", n, 10 + i) for i, n in enumerate(("cat", "dog", "a, b", "eel")))
    return folder, names, np.stack(every)


def run(*args) -> int:
    return main(["trace", "import", *map(str, args)])


def test_a_run_of_diffusion_classifier_is_replayed_and_calibrated(adaptive_run, tmp_path, capsys):
    folder, names, every = adaptive_run
    out = tmp_path / "sd.h5"
    assert run(folder, "--names", names, "-o", out) == 0
    assert "40 images of 4 classes from diffusion-classifier" in capsys.readouterr().out
    with Trace.open(out) as trace:
        assert trace.complete and trace.labels == ["cat", "dog", "a, b", "eel"]
        assert trace.attrs["rule"] == "fixed" and trace.attrs["unit"] == "loss" and trace.attrs["k_max"] == 16
        scores = np.stack([trace.matrix(i) for i in range(40)])
        wanted = (-8192.0 * every.astype(float)).astype(np.float32)
        np.testing.assert_allclose(scores.mean(axis=1), wanted.mean(axis=1), rtol=1e-6)  # shuffled, all there
        np.testing.assert_array_equal(np.sort(scores, axis=1), np.sort(wanted, axis=1))
        assert not np.array_equal(scores[0], wanted[0])
        best = every.mean(axis=1).argmin(axis=1)
        assert trace.images["prediction"].tolist() == best.tolist()
        assert (trace.images["label"] == best)[np.arange(40) % 4 > 0].all()
        assert trace.images["id"][7] == "07"
        p = softmax(scores[3].mean(axis=0)).max()
        assert trace.images["probability"][3] == pytest.approx(p)
    assert run(folder, "--names", names, "-o", out, "--in-order", "--overwrite") == 0
    with Trace.open(out) as trace:
        np.testing.assert_array_equal(trace.matrix(5), wanted[5])
    curves = tmp_path / "curves.h5"
    assert main(["replay", str(out), "-o", str(curves), "--rule", "fixed,paired", "-q"]) == 0
    found = read_curves(curves)
    full = [one for one in found.runs if one.settings["rule"] == "fixed"][-1]
    assert (full.prediction == best).all() and len({one.settings["rule"] for one in found.runs}) == 2
    cal = tmp_path / "cal.json"
    assert main(["calibrate", str(out), "--risk", "0.3", "--split", "0.8", "-o", str(cal), "-q"]) == 0
    assert json.loads(cal.read_text())["calibrated"][0]["risk"] == 0.3
    assert main(["trace", "info", str(out)]) == 0 and "diffusion-classifier" in capsys.readouterr().out
    assert main(["plot", str(out), "-o", str(tmp_path / "p.png"), "-q", "--bootstrap", "20"]) == 0


def test_a_funnel_keeps_what_every_class_has(tmp_path, capsys):
    """4 of 16 timesteps for all, the rest for two, then one: shown as it is; with --common it is replayed."""
    every = [errors_of(i, 4, 16) for i in range(6)]
    for i, errors in enumerate(every):
        torch.save(funnel(errors, [4, 8, 16], [3, 2, 1]), tmp_path / f"{i}.pt")
    out = tmp_path / "f.h5"
    assert run(tmp_path, "-o", out) == 0 and "--common" in capsys.readouterr().out
    with Trace.open(out) as trace:
        assert trace.attrs["rule"] == "funnel" and trace.labels == ["0", "1", "2", "3"]
        matrix = trace.matrix(0)
        assert np.isfinite(matrix).sum(axis=0).tolist().count(16) == 2
        assert np.isfinite(matrix[:4]).all() and (np.diff(np.isfinite(matrix).astype(int), axis=0) <= 0).all()
        answers = trace.images["prediction"].tolist()
    assert answers == [int(funnel(errors, [4, 8, 16], [3, 2, 1])["pred"]) for errors in every]
    assert main(["replay", str(out), "-o", str(tmp_path / "c.h5"), "-q"]) == 2
    assert "rule 'funnel'" in capsys.readouterr().err
    assert run(tmp_path, "-o", tmp_path / "common.h5", "--common") == 0
    with Trace.open(tmp_path / "common.h5") as trace:
        assert trace.attrs["rule"] == "fixed" and trace.matrix(0).shape == (4, 4)
    assert main(["replay", str(tmp_path / "common.h5"), "-o", str(tmp_path / "c.h5"), "-q"]) == 0


@pytest.mark.parametrize("how", ["plain", "vb", "spatial"])
def test_a_run_of_dit_is_a_folder_a_class(how, tmp_path, capsys):
    """Errors [timesteps, trials], with three further numbers, or as maps: squared errors either way. Image 2
    is not in every folder."""
    errors = np.stack([errors_of(i, 3, 10).reshape(5, 2, 3) for i in range(3)])
    for c, number in enumerate((7, 2, 9)):
        folder = tmp_path / "imagenet" / f"DiT256x256_cls{number}_t200_2trials_randnoise" / "val"
        folder.mkdir(parents=True)
        for i in range(3):
            one = torch.tensor(errors[i, :, :, c])
            if how == "vb":
                one = torch.stack([one, one + 1, one + 2, one + 3], dim=2)
            if how == "spatial":
                one = one[:, :, None, None] + torch.tensor([[-0.5, 0.5], [0.25, -0.25]])
            if (i, c) != (2, 1):
                torch.save(one, folder / f"{i}.pt")
    targets = tmp_path / "targets.txt"
    targets.write_text("9\n5\n7\n")
    out = tmp_path / "dit.h5"
    assert run(tmp_path / "imagenet", "--targets", targets, "--in-order", "-o", out) == 0
    assert "2 images of 3 classes from diffusion-classifier DiT, 1 left out" in capsys.readouterr().out
    with Trace.open(out) as trace:
        assert trace.labels == ["2", "7", "9"] and trace.images["label"].tolist() == [2, -1]
        wanted = -2048.0 * errors[0].reshape(10, 3)[:, [1, 0, 2]]
        np.testing.assert_allclose(trace.matrix(0), wanted, rtol=1e-5)


def make_likelihoods(images: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = races(4, images, n_classes=5, k_max=6).astype(np.float32)
    classes = np.array([3, 14, 15, 92, 65])
    return scores, classes[scores.mean(axis=1).argmax(axis=1)], classes


@pytest.mark.parametrize("how", ["tuple", "dict", "bare", "npy", "npz"])
def test_likelihoods_of_ar_classifier_come_in_as_they_are(how, tmp_path, capsys):
    """As its function returns them, by name, alone with a list of targets; on the GPU's floats or NumPy's."""
    scores, targets, classes = make_likelihoods()
    tensor, further, out = torch.tensor(scores), [], tmp_path / "ar.h5"
    file = tmp_path / f"likelyhoods.{how if how in ('npy', 'npz') else 'pt'}"
    names = tmp_path / "names.csv"
    names.write_text("classname,classidx\n" + "".join(f"c{i},{i}\n" for i in classes))
    match how:
        case "tuple":
            torch.save((tensor, torch.tensor(targets), torch.zeros(30, 5, 4)), file)
        case "dict":
            named = {"targets": torch.tensor(targets), "classes": torch.tensor(classes)}
            torch.save({"likelyhoods": tensor, **named}, file)
        case "npz":
            np.savez(file, likelihoods=scores, targets=targets, classes=classes)
        case _:
            torch.save(tensor, file) if how == "bare" else np.save(file, scores)
            np.save(tmp_path / "targets.npy", targets)
            further = ["--targets", tmp_path / "targets.npy"]
    if how not in ("dict", "npz"):
        further += ["--names", names]
    assert run(file, *further, "--in-order", "-o", out) == 0
    with Trace.open(out) as trace:
        np.testing.assert_array_equal(np.stack([trace.matrix(i) for i in range(30)]), scores)
        assert (trace.images["label"] == trace.images["prediction"]).all()
        assert trace.labels == [f"{'' if how in ('dict', 'npz') else 'c'}{i}" for i in classes]
        assert trace.attrs["unit"] == "nats"


def test_draws_are_mixed_and_none_is_lost():
    """By a key, so always alike; those of all classes stay first."""
    scores = np.arange(12.0).reshape(6, 2)
    scores[3:, 1] = np.nan
    found = mixed(scores, b"a")
    assert sorted(found[:3, 0]) == [0, 2, 4] and sorted(found[3:, 0]) == [6, 8, 10]
    np.testing.assert_array_equal(found, mixed(scores, b"a"))
    assert len({mixed(scores, bytes([k]))[0, 0] for k in range(40)}) == 3


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def object_number(path: Path) -> None:
    """A number of NumPy's whose type is an object: the text that names it is refused before torch sees it."""
    torch.save({"errors": {}, "pred": np.int64(1), "label": 0}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in members:
        if name.endswith("data.pkl"):
            members[name] = members[name].replace(b"X\x02\x00\x00\x00i8", b"X\x02\x00\x00\x00O8")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def hostile(kind: str, path: Path) -> None:
    match kind:
        case "code":
            torch.save({"errors": Evil(), "label": 0}, path)
        case "object":
            object_number(path)
        case "pickle":
            path.write_bytes(pickle.dumps(Evil()))
        case "bomb":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("archive/data.pkl", b"\x80\x02" + b"\0" * (1 << 24))
        case "strides":
            torch.save(torch.zeros(1).expand(1000, 1000, 1000), path)
        case "cut":
            torch.save(torch.zeros(4, 3, 2), path)
            path.write_bytes(path.read_bytes()[:-300])
        case "text":
            path.write_text("no results")


@pytest.mark.parametrize("kind", ["code", "object", "pickle", "bomb", "strides", "cut", "text"])
def test_hostile_files_are_refused_in_one_line(kind, tmp_path, capsys):
    file = tmp_path / "x.pt"
    hostile(kind, file)
    assert run(file, "-o", tmp_path / "t.h5") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and str(file) in said.err and said.out == ""
    assert list(tmp_path.iterdir()) == [file]


def test_hostile_arrays_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    (tmp_path / "claims.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("scores.npy", header.getvalue())
    for name in ("objects.npy", "claims.npy", "claims.npz", "none.npy", "x.txt"):
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            read_results(tmp_path / name)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (torch.zeros(3, 2), "no tensor of likelihoods"),
        (torch.full((2, 3, 4), float("nan")), "scores that are no numbers"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), "no tensor of likelihoods"),
        ((torch.zeros(2, 3, 4), torch.zeros(3, dtype=torch.int64)), "targets must be 2 whole numbers"),
        ({"errors": {0: {}, 1: {}}, "label": 0}, "prompt 0 has no 't' and 'pred_errors'"),
        ({"errors": {0: {"t": torch.tensor([5]), "pred_errors": torch.tensor([0.5])},
                     1: {"t": torch.tensor([7]), "pred_errors": torch.tensor([0.5])}}, "label": 0},
         "draws are not shared"),
        ({"errors": {0: {"t": torch.tensor([5]), "pred_errors": torch.tensor([float("inf")])},
                     1: {"t": torch.tensor([5]), "pred_errors": torch.tensor([0.5])}}, "label": 0},
         "prompt 0 has errors that are no numbers"),
    ],
)  # fmt: skip
def test_what_has_no_known_layout_is_one_line(found, said, tmp_path, capsys):
    torch.save(found, tmp_path / "x.pt")
    assert run(tmp_path / "x.pt", "-o", tmp_path / "t.h5") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "t.h5").exists()


def test_names_that_do_not_fit_are_refused(tmp_path, capsys):
    np.save(tmp_path / "x.npy", make_likelihoods(2)[0])
    (tmp_path / "names.txt").write_text("a\nb\n")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    assert run(tmp_path / "x.npy", "--names", tmp_path / "names.txt", "-o", tmp_path / "t.h5") == 2
    assert "2 classes are named, and it has 5" in capsys.readouterr().err
    with pytest.raises(ModelError, match="no list of classes"):
        read_names(tmp_path / "wrong.csv")
    assert (
        run(tmp_path / "nothing", "-o", tmp_path / "t.h5") == 2
        and run(tmp_path, "-o", tmp_path / "t.h5") == 0
    )


def test_layouts_by_hand():
    one = {"t": np.array([3, 1]), "pred_errors": np.array([0.5, 0.25], np.float32)}
    scores, label = adaptive({"errors": {1: one, 0: {k: v[:1] for k, v in one.items()}}, "label": 4}, 8)
    np.testing.assert_array_equal(scores, [[-2, -2], [np.nan, -1]])
    assert label == 4 and adaptive({"errors": {0: one, 1: one}})[1] is None
    np.testing.assert_array_equal(dit_errors(np.array([[0.5, 0.25]], np.float32), 8), [-2, -1])
    with pytest.raises(ValueError, match="save_eps"):
        dit_errors(np.zeros((2, 1, 4, 8), np.float32), 8)


# traces as arrays


def test_a_full_trace_is_exported_as_arrays(tmp_path, capsys):
    scores = races(1, 9, n_classes=3, k_max=4)
    screens = {"table": scores.mean(axis=1)}
    path = full_trace(
        tmp_path / "full.h5",
        scores,
        scores.mean(1).argmax(1),
        failed={2},
        prefixes={4: 2 * scores},
        screens={k: v.astype("f4").astype(float) for k, v in screens.items()},
    )
    out = tmp_path / "full.npz"
    assert main(["trace", "export", str(path), "--format", "npz", "-o", str(out)]) == 0
    assert f"{8 * 12 * 2 + 8 * 3} log-likelihoods of 9 images" in capsys.readouterr().out
    with np.load(out, allow_pickle=False) as found:
        good = np.arange(9) != 2
        assert found["scores"].dtype == np.float32 and found["scores"].shape == (9, 4, 3)
        np.testing.assert_array_equal(found["scores"][good], scores[good].astype(np.float32))
        np.testing.assert_array_equal(found["scores_4"][good], (2 * scores[good]).astype(np.float32))
        np.testing.assert_array_equal(found["screen_table"][good], screens["table"][good].astype(np.float32))
        assert np.isnan(found["scores"][2]).all()
        assert found["labels"].tolist() == [f"class {c}" for c in range(3)]
        assert found["image_id"][4] == "im4" and found["image_error"][2] == "no image"
        assert json.loads(str(found["attributes"]))["rule"] == "fixed"
        round_trip = found["scores"][good]
        np.savez(tmp_path / "again.npz", likelihoods=round_trip, targets=found["image_label"][good])
    assert run(tmp_path / "again.npz", "--in-order", "-o", tmp_path / "again.h5") == 0
    with Trace.open(tmp_path / "again.h5") as trace:
        np.testing.assert_array_equal(np.stack([trace.matrix(i) for i in range(8)]), round_trip)


def test_an_adaptive_trace_is_exported_as_columns(tmp_path):
    torch.save(funnel(errors_of(0, 4, 16), [4, 8, 16], [3, 2, 1]), tmp_path / "0.pt")
    assert run(tmp_path, "-o", tmp_path / "f.h5") == 0
    assert main(["trace", "export", str(tmp_path / "f.h5"), "-o", str(tmp_path / "f.npz")]) == 0
    with np.load(tmp_path / "f.npz") as found, Trace.open(tmp_path / "f.h5") as trace:
        scores = trace.scores(0)
        np.testing.assert_array_equal(found["value"], scores.value)
        assert found["offsets"].tolist() == [0, len(scores)] and found["order"].dtype == np.uint16
        assert "scores" not in found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "x.txt"), "its end, or --format, says what to write: csv, parquet or npz"),
        (("-o", "x.npz", "--scores"), "leave --scores out"),
        (("-o", "x.npz", "--format", "hdf"), "--format says what to write"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    full_trace(tmp_path / "full.h5", races(1, 3))
    assert main(["trace", "export", "full.h5", *options]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
