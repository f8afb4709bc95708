"""Class vectors learn at a rate of their own; runs from before there was one go on as they were."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

from anytime_cls.datasets.base import Dataset
from anytime_cls.training import transformer as fitting
from anytime_cls.training.contrast import fit_contrast
from anytime_cls.training.folder import begun_recipe, check_recipe
from anytime_cls.training.recipe import ImageSet, Recipe
from anytime_cls.training.transformer import fit_transformer

SMALL = Recipe(
    image_size=16, levels=(4, 4), tokens="labels", dim=32, n_layer=1, n_head=1, batch_size=8, epochs=0.1,
    min_steps=2, prefixes=((1.0, 1.0),), weight_decay=0.5, class_dropout=0.0, lr=1e-2,
)  # fmt: skip
CPU = torch.device("cpu")
CLASSES = 4
rng = np.random.default_rng(0)
TOKENS = torch.from_numpy(rng.integers(0, 16, (32, 16)).astype(np.int32))
PICTURES = ImageSet(
    torch.zeros(32, 3, 16, 16, dtype=torch.uint8),
    torch.arange(32) % CLASSES,
    Dataset("x", "x", [f"class {c}" for c in range(CLASSES)], np.arange(CLASSES), [], ""),
)


def quiet(*args):
    pass


def begun(recipe):
    torch.manual_seed(recipe.seed + 1)
    return recipe.new_model(CLASSES)


def moves(before, after):
    """How far vectors went: of classes, of the null class, which no step reads, and of tokens."""
    vectors = (after.cls_embedding.weight - before.cls_embedding.weight).detach().abs()
    words = (after.tok_embeddings.weight - before.tok_embeddings.weight).detach().abs()
    return float(vectors[:-1].max()), float(vectors[-1].max()), float(words.max())


def transformer_steps(recipe, out):
    model = fit_transformer(lambda _: TOKENS, PICTURES, recipe, out / "first.pt", CPU, quiet)
    return moves(begun(recipe), model)


def contrast_steps(recipe, out):
    recipe = dataclasses.replace(recipe, contrast_epochs=0.25, rivals=1, averaging=0.0)
    model = begun(recipe)
    fit_contrast(model, lambda _: TOKENS, PICTURES, recipe, out / "last.pt", CPU, quiet)
    return moves(begun(recipe), model)


@pytest.mark.parametrize("steps", [transformer_steps, contrast_steps])
def test_class_vectors_move_by_their_rate_and_do_not_decay(steps, tmp_path):
    """AdamW's first move is the rate's, whatever the gradient (there is none until the output moves)."""
    recipe = dataclasses.replace(SMALL, class_rate=7.0, weight_decay=0.0)
    vectors, unread, words = steps(recipe, tmp_path)
    assert vectors == pytest.approx(7 * words, rel=0.02) and unread == 0
    (tmp_path / "decayed").mkdir()
    decayed = dataclasses.replace(recipe, weight_decay=0.5)
    assert steps(decayed, tmp_path / "decayed")[:2] == pytest.approx((vectors, 0), rel=1e-4)


def test_at_the_common_rate_they_are_weights_like_others(tmp_path):
    vectors, unread, words = transformer_steps(dataclasses.replace(SMALL, weight_decay=0.0), tmp_path)
    assert vectors == pytest.approx(words, rel=0.02) and unread == 0
    (tmp_path / "decayed").mkdir()
    assert transformer_steps(SMALL, tmp_path / "decayed")[1] > 0


def as_before(model, rate, weight_decay, class_rate=1.0):
    """The optimiser of runs from before there was a rate for class vectors."""
    assert class_rate == 1
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))


def test_a_run_from_before_there_was_a_rate_goes_on_as_it_was(tmp_path, monkeypatch):
    """Its recipe.json does not name one, and its checkpoint has two groups of weights."""
    old = json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(SMALL, min_steps=6))))
    del old["class_rate"]
    (tmp_path / "recipe.json").write_text(json.dumps(old))
    recipe = begun_recipe(tmp_path, {})
    check_recipe(tmp_path, recipe, resume=True)
    with pytest.raises(ValueError, match="another recipe"):
        check_recipe(tmp_path, dataclasses.replace(recipe, class_rate=5.0), resume=True)

    class Killed(Exception):
        pass

    def kill(stage, step, *rest):
        if step == 4:
            raise Killed

    monkeypatch.setattr(fitting, "_loop", partial(fitting._loop, every=0.0))
    run = partial(fit_transformer, lambda _: TOKENS, PICTURES, recipe)
    with monkeypatch.context() as before:
        before.setattr(fitting, "adamw", as_before)
        straight = run(tmp_path / "straight.pt", CPU, quiet)
        with pytest.raises(Killed):
            run(tmp_path / "cut.pt", CPU, kill)
    resumed = run(tmp_path / "cut.pt", CPU, quiet)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
