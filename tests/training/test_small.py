"""Few pictures: what is refused at once, what is chosen, and a model begun from another."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.models.zoo import embedded_names, read_card
from anytime_cls.training import start as starting
from anytime_cls.training.finish import Scoring, finish
from anytime_cls.training.folder import begun_recipe, is_finished, taken
from anytime_cls.training.outlook import FEW, Outlook, held_of, outlook
from anytime_cls.training.recipe import Recipe, split_holdout
from anytime_cls.training.settle import CLASS_RATE, chosen_start, settled
from anytime_cls.training.start import default_start, load_start, named, read_start, with_classes, written
from anytime_cls.training.train import train

CPU = torch.device("cpu")
TINY = Recipe(
    image_size=16, widths=(8, 16, 16), blocks=(1, 1, 1), levels=(4, 4, 4), tokens="labels", dim=32,
    n_layer=1, n_head=1, batch_size=16, tokenizer_epochs=4, epochs=10, holdout=0.2, lr=1e-2,
)  # fmt: skip


def quiet(*args: object) -> None:
    pass


def noise(root: Path, channels: dict[str, tuple[int, ...]], n: int) -> Path:
    """Classes told apart by which colours are bright."""
    rng = np.random.default_rng(len(channels))
    for name, bright in channels.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 90, (16, 16, 3))
            pixels[..., list(bright)] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


def made(data: Path, out: Path, recipe: Recipe, start: starting.Start | None = None, **more: object):
    fitted = train(data, out, recipe, device=CPU, report=quiet, start=start, **more)
    return finish(
        *fitted, recipe, out, name="it", labels=fitted[2].labels, data="noise", notes={}, start=start,
        scoring=Scoring(20, 20, 8), progress=quiet,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A model of red, green and blue."""
    root = tmp_path_factory.mktemp("old")
    data = noise(root / "data", {"red": (0,), "green": (1,), "blue": (2,)}, 40)
    made(data, root / "model", TINY)
    return root / "model"


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Classes that it has not seen."""
    classes = {"yellow": (0, 1), "cyan": (1, 2), "purple": (0, 2), "grey": ()}
    return noise(tmp_path_factory.mktemp("new") / "data", classes, 25)


def adapted(trained: Path) -> tuple[Recipe, starting.Start]:
    card = read_start(str(trained))
    recipe = dataclasses.replace(
        TINY, start=written(str(trained), card), class_steps=100, tune_steps=300, class_lr=3e-2, tune_lr=1e-3,
        prefixes=((0.5, 0.25), (0.5, 1.0)),
    )  # fmt: skip
    return recipe, load_start(card, CPU)


def test_a_model_begun_from_another_knows_new_classes_by_its_tokens(trained, others, tmp_path):
    recipe, start = adapted(trained)
    card = made(others, tmp_path, recipe, start)
    old = read_card(trained)
    assert card.labels == ["cyan", "grey", "purple", "yellow"]
    assert card.sha256["tokenizer.safetensors"] == old.sha256["tokenizer.safetensors"]
    assert card.fields["tokenizer"] == old.fields["tokenizer"]
    assert card.fields["started_from"] == {"model": "it", "sha256": old.sha256}
    assert card.fields["metrics"]["race"]["accuracy"]["value"] >= 0.8  # of images held out, where chance is ¼
    classifier = AnytimeClassifier.load(str(tmp_path), device="cpu")
    held = (tmp_path / "holdout.txt").read_text().split()
    right = [classifier.classify(others / name).label == name.split("/")[0] for name in held]
    assert np.mean(right) >= 0.8


def test_first_only_the_class_vectors_move(trained, others, tmp_path, monkeypatch):
    recipe, start = adapted(trained)
    before = {key: value.clone() for key, value in start.model.state_dict().items()}
    model = train(
        others, tmp_path, dataclasses.replace(recipe, tune_steps=0), device=CPU, report=quiet, start=start
    )[1]
    after = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {"cls_embedding.weight"} == {"cls_embedding.weight"} & changed
    assert after["cls_embedding.weight"].shape == (5, 32)
    assert torch.equal(after["cls_embedding.weight"][-1], before["cls_embedding.weight"][-1])  # null


def test_new_classes_begin_at_the_mean_of_the_old(trained):
    model = load_start(read_start(str(trained)), CPU).model
    old = model.cls_embedding.weight.detach().clone()
    new = with_classes(model, 2).cls_embedding.weight.detach()
    assert torch.allclose(new, torch.stack((old[:3].mean(0), old[:3].mean(0), old[3])))
    assert model.config.n_classes == 2


def test_a_resumed_adaptation_ends_with_the_same_weights(trained, others, tmp_path, monkeypatch):
    recipe, start = adapted(trained)
    recipe = dataclasses.replace(recipe, class_steps=6, tune_steps=6)
    whole = train(others, tmp_path / "whole", recipe, device=CPU, report=quiet, start=start)[1]
    monkeypatch.setattr(starting, "_loop", partial(starting._loop, every=0.0))

    class Killed(Exception):
        pass

    for killed in ("classes", "tuning"):

        def report(stage, step, steps, loss, rate, killed=killed):
            if (stage, step) == (killed, 4):
                raise Killed

        with pytest.raises(Killed):
            train(others, tmp_path / "cut", recipe, device=CPU, resume=True, report=report,
                  start=adapted(trained)[1])  # fmt: skip
    cut = train(others, tmp_path / "cut", recipe, device=CPU, resume=True, report=quiet,
                start=adapted(trained)[1])[1]  # fmt: skip
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, cut.state_dict()[key], atol=1e-6), key


def test_a_finished_model_is_left_as_it_is(trained, tmp_path):
    """Whatever was added to model.json since stays there."""
    out = tmp_path / "model"
    data = noise(tmp_path / "data", {"a": (0,), "b": (1,)}, 30)
    made(data, out, TINY)
    assert is_finished(out)
    fields = json.loads((out / "model.json").read_text()) | {"data": "said later"}
    (out / "model.json").write_text(json.dumps(fields))
    content = (out / "model.json").read_bytes()
    assert made(data, out, TINY, resume=True).fields["data"] == "said later"
    assert (out / "model.json").read_bytes() == content


def test_a_model_cut_short_while_it_was_calibrated_goes_on(tmp_path):
    data = noise(tmp_path / "data", {"a": (0,), "b": (1,)}, 30)
    whole = made(data, tmp_path / "whole", TINY)
    fitted = train(data, tmp_path / "cut", TINY, device=CPU, report=quiet)

    def stop_at(stage, done, total):
        if (stage, done) == ("design-2", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(*fitted, TINY, tmp_path / "cut", name="it", labels=["a", "b"], data="noise", notes={},
               scoring=Scoring(20, 20, 8), progress=stop_at)  # fmt: skip
    assert not is_finished(tmp_path / "cut")
    again = made(data, tmp_path / "cut", TINY, resume=True)
    assert again.fields["race"] == whole.fields["race"]
    assert again.fields["metrics"]["race"]["accuracy"] == whole.fields["metrics"]["race"]["accuracy"]


# ---- before anything is done


def seen(*counts: int, tested: int = 0) -> Outlook:
    return Outlook("here", [f"c{i}" for i in range(len(counts))], np.array(counts), tested, "here/c0/x.png")


@pytest.mark.parametrize(("classes", "each"), [(3, 30), (20, 5), (2, 25), (10, 5), (200, 2), (3, 500)])
def test_small_folders_that_suffice(classes, each):
    found = seen(*[each] * classes)
    found.check(calibrates=True)
    assert found.held >= FEW and held_of(found.counts, found.share).max() < each


def test_too_few_pictures_are_refused_with_the_number_that_suffices():
    with pytest.raises(
        ValueError, match=r"4 of 20 can be held out, 10 are needed: give 23 a class, or --cal"
    ):
        seen(10, 10).check(calibrates=True)
    seen(23, 23).check(calibrates=True)
    with pytest.raises(ValueError, match="give 23"):
        seen(22, 22).check(calibrates=True)
    seen(10, 10).check(calibrates=False)
    with pytest.raises(ValueError, match="class 'c1' has one image"):
        seen(50, 1).check(calibrates=False)


def test_what_is_held_out_is_what_was_said(others):
    found = outlook(others)
    assert (found.images, len(found.labels), found.tested) == (100, 4, 0)
    assert found.chance == 0.25 and Path(found.example).is_file()
    from anytime_cls.datasets.names import train_and_test
    from anytime_cls.training.recipe import load_images

    images = load_images(train_and_test(others)[0], 16)
    assert len(split_holdout(images, found.share, 0)[1]) == found.held


def test_few_pictures_begin_from_a_model_and_many_do_not():
    few, many = seen(30, 30, 30), seen(*[500] * 4)
    assert chosen_start(few, "", {}) == default_start() in embedded_names()
    assert chosen_start(many, "", {}) == "" == chosen_start(few, "none", {})
    assert chosen_start(few, "", {"dim": 64}) == ""  # whoever says a size wants a network of it
    assert chosen_start(many, "some/model", {"views": 3}) == "some/model"
    with pytest.raises(ValueError, match="leave dim out, or --from none"):
        chosen_start(few, "some/model", {"dim": 64})


def test_the_default_start_has_seen_no_label():
    assert read_card(default_start()).fields["tokenizer"]["saw_labels"] is False


def test_from_nothing_few_pictures_take_steps_and_not_epochs():
    recipe = settled(seen(30, 30, 30), {}, "", None)
    assert recipe.min_steps >= 1500 and recipe.tokenizer_min_steps >= 1000 and recipe.tokens == "manifold"
    assert recipe.codes < Recipe.codes and recipe.batch_size < Recipe.batch_size
    assert settled(seen(30, 30, 30), {"epochs": 1.0}, "", None).min_steps == 0
    many = settled(seen(*[5000] * 10), {}, "", None)
    assert many.codes == Recipe.codes and many.batch_size == Recipe.batch_size
    assert many.holdout == 0.04 and recipe.holdout == 0.2
    assert many.class_rate == recipe.class_rate == CLASS_RATE != Recipe.class_rate
    assert settled(seen(30, 30, 30), {"class_rate": 2.0}, "", None).class_rate == 2


def test_steps_are_no_fewer_than_asked_for(others, tmp_path):
    recipe = dataclasses.replace(TINY, tokenizer_epochs=0.1, epochs=0.1, min_steps=7, tokenizer_min_steps=5)
    steps = {}
    train(others, tmp_path, recipe, device=CPU, report=lambda stage, *rest: steps.update({stage: rest[1]}))
    assert steps == {"tokenizer": 5, "transformer": 7}


def test_a_run_is_gone_on_with_by_what_it_was_begun_with(tmp_path, others):
    recipe = settled(seen(30, 30, 30), {"seed": 3}, "", None)
    assert begun_recipe(tmp_path, {}) is None
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    assert begun_recipe(tmp_path, {}) == recipe
    assert begun_recipe(tmp_path, {"dim": 64}).dim == 64
    assert named("runs/a model 0123456789abcdef") == "runs/a model"


def test_a_folder_that_was_not_there_goes_if_nothing_was_written(tmp_path):
    out = tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="no"), taken(out):
        raise ValueError("no")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="no"), taken(out):
        (out / "kept").touch()
        raise ValueError("no")
    assert (out / "kept").exists()
    with pytest.raises(ValueError, match="no"), taken(out):
        raise ValueError("no")
    assert (out / "kept").exists()
