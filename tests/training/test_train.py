"""Training end to end on pictures a small model can learn, and resuming it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from anytime_cls.certify.measure import fit_trace, measure_trace
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.datasets.base import Dataset
from anytime_cls.datasets.names import open_dataset, train_and_test
from anytime_cls.models.load import build_transformer
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.options import RaceOptions
from anytime_cls.race.fitted import Fitted
from anytime_cls.traces.read import Trace
from anytime_cls.training import contrast, tokenizer
from anytime_cls.training import transformer as fitting
from anytime_cls.training.finish import Scoring, finish
from anytime_cls.training.nets import augment
from anytime_cls.training.recipe import ImageSet, Recipe, class_names, load_images, split_holdout
from anytime_cls.training.train import train
from anytime_cls.training.views import tokens_of

TINY = Recipe(
    image_size=16, widths=(8, 16, 16), blocks=(1, 1, 1), levels=(4, 4, 4), tokens="labels",
    dim=32, n_layer=1, n_head=1, batch_size=16, tokenizer_epochs=4, epochs=10, holdout=0.2, lr=1e-2,
)  # fmt: skip
CPU = torch.device("cpu")


def quiet(*args):
    pass


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Three classes told apart by colour: red, green and blue noise, 60 images each and 12 to test."""
    root, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 12)):
        for c, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 90, (16, 16, 3))
                pixels[..., c] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    return root


@pytest.mark.parametrize("layout", ["randar", "sigma"])
def test_the_loss_is_taken_over_each_stages_prefix(layout, stripes, tmp_path, monkeypatch):
    """The schedule: a quarter, a half, then whole orders."""
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=1, layout=layout)
    seen = []

    def build(*args):
        model = build_transformer(*args)
        model.register_forward_pre_hook(lambda module, args: seen.append(args[3]))
        return model

    monkeypatch.setattr("anytime_cls.training.recipe.build_transformer", build)
    train(stripes, tmp_path, recipe, device=CPU, report=quiet)
    steps = len(seen)
    assert sorted(set(seen)) == [4, 8, 16] and seen == sorted(seen)
    assert seen.count(4) == pytest.approx(0.4 * steps, abs=1) and seen.count(16) >= 0.2 * steps - 1


@pytest.fixture(scope="module")
def trained(stripes, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    fitted = train(stripes, out, TINY, device=CPU, report=quiet)
    card = finish(
        *fitted, TINY, out, name="stripes", labels=["sea", "grass", "fire"], data="coloured noise",
        notes={"license": "MIT"}, scoring=Scoring(36, 36, 8),
        progress=quiet,
    )  # fmt: skip
    return out, card


def test_a_trained_model_classifies_new_pictures(trained, stripes):
    out, card = trained
    assert card.labels == ["sea", "grass", "fire"] and card.synsets == ["blue", "green", "red"]
    metrics = card.fields["metrics"]
    assert metrics["measured_on"] == "test images" and metrics["images"] == 36
    assert set(metrics["accuracy_at_k"]) == {"1", "4"} and metrics["accuracy_at_k"]["4"]["value"] >= 0.9
    assert {row["rule"] for row in metrics["rules_at_delta_0.05"]} >= {"paired", "fixed", "marginal"}
    assert metrics["race"]["accuracy"]["value"] >= 0.9 and metrics["race"]["images"] == 36
    for draws, steps in (("uniform", 16), ("stratified", 4), ("stratified", 2), ("stratified", 1)):
        fit = card.fitted.of(draws, steps)
        assert set(fit.priors) == {"paired", "marginal"} and fit.temperature > 0
    classifier = AnytimeClassifier.load(str(out), device="cpu")
    decision = classifier.classify(stripes / "test" / "red" / "03.png", RaceOptions(max_orders=8))
    assert decision.label == "fire"


def test_the_model_directory_says_how_it_was_made(trained):
    out, _ = trained
    fields = json.loads((out / "model.json").read_text())
    assert fields["recipe"] == json.loads(json.dumps(dataclasses.asdict(TINY)))
    assert fields["tokenizer"]["saw_labels"] is True
    assert read_card(out).sha256.keys() == {"transformer.safetensors", "tokenizer.safetensors"}


def test_the_held_out_images_are_listed_for_a_sweep(trained, stripes):
    out, card = trained
    listed = (out / "holdout.txt").read_text().split()
    dataset = open_dataset(str(stripes / "train"), card, ids=out / "holdout.txt")
    assert sorted(listed) == [sample.id for sample in dataset.samples] and len(listed) == 36


def test_its_figures_are_of_traces_as_sweep_records_them(trained, stripes):
    out, card = trained
    for name, split, ids in (("calibration", "train", out / "holdout.txt"), ("test", "test", None)):
        with Trace.open(out / f"{name}.h5") as trace:
            dataset = open_dataset(str(stripes / split), card, ids=ids, limit=36, seed=TINY.seed)
            assert trace.attrs["dataset_fingerprint"] == dataset.fingerprint
            assert trace.attrs["dataset"] == dataset.name and trace.attrs["root"] == dataset.root
            race = card.fitted.race
            assert trace.attrs["rule"] == "fixed" and trace.attrs["k_max"] == 8 == race.max_orders
            assert trace.attrs["order_sampler"] == race.orders and trace.pass_tokens == (race.prefix or 16)
            if name == "test":
                measured = {key: value for key, value in card.fields["metrics"].items() if key != "race"}
                assert measure_trace(trace, card) == measured
            else:
                fit = fit_trace(trace)
                fitted = Fitted.read(fit, 16).fits
                assert fitted.items() <= card.fitted.fits.items() and fit["calibration_images"] == 36


@pytest.mark.parametrize("tokens", ["labels", "manifold"])
def test_a_resumed_run_ends_with_the_same_weights(tokens, stripes, tmp_path, monkeypatch):
    """Killed in the middle of any stage, then resumed: what an uninterrupted run would have given."""
    recipe = dataclasses.replace(
        TINY, tokens=tokens, words=64, word_width=8, codes=32, tokenizer_epochs=1, epochs=2, contrast_epochs=1
    )
    straight = train(stripes, tmp_path / "straight", recipe, device=CPU, report=quiet)

    class Killed(Exception):
        pass

    def kill_at(stage_to_kill, at):
        def report(stage, step, steps, loss, rate):
            if (stage, step) == (stage_to_kill, at):
                raise Killed

        return report

    for stage in (tokenizer, fitting, contrast):  # a checkpoint every step
        monkeypatch.setattr(stage, "_loop", partial(stage._loop, every=0.0))
    for stage, at in (("tokenizer", 144 if tokens == "manifold" else 3), ("transformer", 5), ("contrast", 4)):
        with pytest.raises(Killed):
            train(stripes, tmp_path / "cut", recipe, device=CPU, resume=True, report=kill_at(stage, at))
    resumed = train(stripes, tmp_path / "cut", recipe, device=CPU, resume=True, report=quiet)
    for a, b in zip(straight[:2], resumed[:2], strict=True):
        state = b.state_dict()
        for key, value in a.state_dict().items():
            assert torch.allclose(value.float(), state[key].float(), atol=1e-6), key


@pytest.mark.parametrize("tokens", ["manifold", "reconstruction", "selfsupervised"])
def test_tokens_without_labels_make_a_model_that_says_so(tokens, stripes, tmp_path):
    recipe = dataclasses.replace(TINY, tokens=tokens, words=64, word_width=8, codes=32, contrast_epochs=2)
    said = []
    fitted = train(stripes, tmp_path, recipe, device=CPU, report=quiet, say=said.append)
    assert len(said) == 1 and said[0].startswith("tokens alone") and "of 36 test images" in said[0]
    card = finish(
        *fitted, recipe, tmp_path, name="stripes", labels=["b", "g", "r"], data="", notes={},
        scoring=Scoring(36, 36, 4), progress=quiet,
    )  # fmt: skip
    kind = "manifold" if tokens == "manifold" else "fsq"
    assert card.fields["tokenizer"]["kind"] == kind and card.fields["tokenizer"]["saw_labels"] is False
    assert card.fields["naive_bayes"]["n"] == 36 and card.fields["naive_bayes"]["value"] > 0.5
    assert card.fields["metrics"]["accuracy_at_k"]["4"]["value"] >= 0.6
    images = load_images(train_and_test(stripes)[1], 16).images
    classifier = AnytimeClassifier.load(str(tmp_path), device="cpu")
    stored = classifier.scorer.encode(images[:5].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.stack(stored), tokens_of(fitted[0], images[:5], CPU).numpy())


def test_other_images_are_refused_and_nothing_is_rewritten(stripes, tmp_path):
    """Else some that were held out have been trained on, and accuracy is of images that the model knows."""
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=0.1)
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(stripes, data)
    run = partial(train, data, out, recipe, device=CPU, resume=True, report=quiet)
    run(limit=60)

    def kept():
        return {path.name: path.read_bytes() for path in out.iterdir()}

    before = kept()
    run(limit=60)
    assert kept().keys() == before.keys() and kept()["holdout.txt"] == before["holdout.txt"]
    for limit in (50, 61, None):
        with pytest.raises(ValueError, match=r"begun with 60 images \(--limit 60\), not with .*--out"):
            run(limit=limit)
    listed = (out / "holdout.txt").read_text().split()
    used = data / "train" / listed[0]
    pixels = Image.open(used).copy()
    pixels.putpixel((3, 3), (1, 2, 3))
    content = used.read_bytes()
    pixels.save(used)
    with pytest.raises(ValueError, match="other pixels under the same names"):
        run(limit=60)
    used.write_bytes(content)
    used.rename(used.with_name("renamed.png"))
    with pytest.raises(ValueError, match="other names or classes"):
        run(limit=60)
    used.with_name("renamed.png").rename(used)
    (out / "data.json").unlink()  # as of a run from before it was written
    with pytest.raises(ValueError, match=r"holdout\.txt lists other images"):
        run(limit=50)
    assert {**kept(), "data.json": before["data.json"]} == before
    run(limit=60)
    assert kept() == before


def test_damaged_files_of_a_run_are_named(stripes, tmp_path):
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=0.1)
    run = partial(train, stripes, tmp_path, recipe, device=CPU, resume=True, report=quiet, limit=40)
    run()
    for name in ("checkpoint-tokenizer.pt", "checkpoint-transformer.pt", "recipe.json", "data.json"):
        path = tmp_path / name
        good = path.read_bytes()
        for bad in (b"", good[: len(good) // 2], b"[1]", b"PK\3\4" + bytes(200)):
            path.write_bytes(bad)
            with pytest.raises(ValueError, match=f"{name} is damaged") as error:
                run()
            assert "\n" not in str(error.value) and path.read_bytes() == bad
        if name.endswith(".pt"):
            for wrong in ({"step": 1}, {"step": -1, "net": {}}, {"net": {}, "step": "1"}, [1]):
                torch.save(wrong, path)
                with pytest.raises(ValueError, match=f"{name} is damaged"):
                    run()
        path.write_bytes(good)
    run()
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-tokenizer\.pt, but no recipe\.json"):
        run(resume=False)


def test_a_folder_is_trained_into_by_one_process(stripes, tmp_path):
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=0.1)
    hold = (
        "import sys; from pathlib import Path; from anytime_cls.training.folder import taken\n"
        "with taken(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another training is at work there"):
            train(stripes, tmp_path, recipe, device=CPU, report=quiet)
        other.communicate()
    train(stripes, tmp_path, recipe, device=CPU, report=quiet)  # let go when it ended


def test_a_class_of_one_image_is_named(stripes, tmp_path):
    shutil.copytree(stripes, tmp_path / "data")
    for path in sorted((tmp_path / "data" / "train" / "green").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="class 'green' has one image, and needs two"):
        train(tmp_path / "data", tmp_path / "out", TINY, device=CPU, report=quiet)
    shutil.rmtree(tmp_path / "data" / "test")
    shutil.copytree(stripes / "train" / "green", tmp_path / "data" / "train" / "green", dirs_exist_ok=True)
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=0.1)
    train(tmp_path / "data", tmp_path / "out", recipe, device=CPU, report=quiet)  # nothing was claimed


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": -1}, {"epochs": 0}, {"epochs": float("nan")}, {"tokenizer_epochs": float("inf")},
        {"lr": -1e-3}, {"batch_size": 0}, {"n_layer": 0}, {"dim": 0}, {"seed": -1}, {"seed": 1 << 70},
        {"class_rate": 0},
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataclasses.replace(TINY, **bad)


def test_another_run_is_not_overwritten(stripes, tmp_path):
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=0.1)
    train(stripes, tmp_path, recipe, device=CPU, report=quiet)
    with pytest.raises(ValueError, match="--resume"):
        train(stripes, tmp_path, recipe, device=CPU, report=quiet)
    with pytest.raises(ValueError, match="another recipe"):
        train(stripes, tmp_path, TINY, device=CPU, resume=True, report=quiet)


def test_data_that_cannot_be_trained_on_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        train(tmp_path / "none", tmp_path / "out", TINY, device=CPU, report=quiet)
    (tmp_path / "data" / "only").mkdir(parents=True)
    with pytest.raises(ValueError, match="two or more classes, found 0"):
        load_images(train_and_test(tmp_path / "data")[0], 16)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir()
        (tmp_path / "data" / name / "x.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"a/x\.png"):
        load_images(train_and_test(tmp_path / "data")[0], 16)


def test_folders_are_read_as_a_sweep_reads_them(tmp_path):
    """Links are followed, empty classes are none, val/ is the test set beside train/; a limit is exact."""
    pixels = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    for name in ("train/a", "train/b/deep", "train/.hidden", "elsewhere", "val/a"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            pixels.save(tmp_path / name / f"{i}.png")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "c").symlink_to(tmp_path / "elsewhere")
    training, testing = train_and_test(tmp_path)
    images = load_images(training, 16)
    assert images.dataset.labels == ["a", "b", "c"] and len(images) == 9
    assert (
        images.dataset.samples[3].id == "b/deep/0.png"
        and images.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    )
    assert len(load_images(training, 16, limit=4)) == 4
    assert len(load_images(testing, 16, classes=["a", "b", "c"])) == 3  # not every class has test images
    with pytest.raises(ValueError, match="the images to train on have no 'a'"):
        load_images(testing, 16, classes=["b", "c"])


def test_classes_are_called_by_the_first_of_their_names_unless_two_share_it(tmp_path):
    folders = ["n1", "n2", "n3", "n4"]
    assert class_names(tmp_path, folders) == folders
    (tmp_path / "classes.tsv").write_text("n1\tgoldfish, Carassius auratus\nn2\tcrane, bird\nn3\tCrane\n")
    assert class_names(tmp_path, folders) == ["goldfish", "crane, bird", "Crane", "n4"]


def test_the_holdout_is_stratified_and_seeded():
    labels = torch.arange(3).repeat_interleave(50)
    dataset = Dataset("x", "x", ["a", "b", "c"], np.arange(3), [], "")
    data = ImageSet(torch.zeros(150, 3, 1, 1), labels, dataset)
    keep, held = split_holdout(data, 0.1, seed=4)
    assert [int((labels[held] == c).sum()) for c in range(3)] == [5, 5, 5]
    assert sorted(np.concatenate([keep, held]).tolist()) == list(range(150))
    assert np.array_equal(held, split_holdout(data, 0.1, seed=4)[1])
    assert not np.array_equal(held, split_holdout(data, 0.1, seed=5)[1])


def test_augmentation_shifts_and_mirrors_whole_pictures():
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8)
    padded = torch.nn.functional.pad(image.float(), (4,) * 4, mode="reflect").to(torch.uint8)
    views = [
        view
        for flip in (lambda x: x, lambda x: x.flip(3))
        for dy in range(9)
        for dx in range(9)
        for view in (flip(padded[:, :, dy : dy + 8, dx : dx + 8]),)
    ]
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        out = augment(image, generator)
        match = [i for i, view in enumerate(views) if torch.equal(view, out)]
        assert match
        seen.add(match[0] // 81)
    assert seen == {0, 1}
