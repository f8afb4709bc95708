"""Screens: against the exact scores they stand for, alone or in company, and what they cost."""

import numpy as np
import pytest
import torch

from anytime_cls.draws.base import Draw
from anytime_cls.models.load import any_order, build_transformer
from anytime_cls.models.zoo import read_card
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.base import Piece
from anytime_cls.scorers.screens import GradientScreen, SumScreen, TableScreen, screens_of
from anytime_cls.testing import FakeScorer, check_scorer

SHAPE = {"dim": 32, "n_layer": 2, "n_head": 2, "vocab_size": 11, "n_tokens": 16, "n_classes": 5}
CLASSES, PLACES = np.arange(5), np.arange(16)


def made(layout: str, **shape: int) -> AnyOrder:
    """A scorer with weights large enough that every input matters."""
    model = build_transformer(layout, SHAPE | shape)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            parameter.copy_(drawn * 0.3)
    return AnyOrder(model.eval(), None)  # its images are token ids already


@pytest.fixture(params=["randar", "sigma"])
def scorer(request) -> AnyOrder:
    return made(request.param)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 11, (4, 16)))


KEYS = [b"a", b"b", b"c", b"d"]


def centred(x):
    return x - x.mean(axis=-1, keepdims=True)


def exact(scorer, images, steps, name="uniform", k=0, seed=0, keys=KEYS):
    """Scores of every class on order k of the images: [I, C]."""
    draws = scorer.shape.draws(name, steps)
    pieces = [Piece(i, draws.at(seed, key, k), CLASSES) for i, key in zip(images, keys, strict=True)]
    return np.stack([values[:, 0] for values in scorer.score(pieces, [steps])]), pieces


def test_the_table_is_the_sum_of_what_every_token_scores_first(scorer, images):
    screen = TableScreen(scorer.model)
    sums = np.zeros((4, 5))
    for place in PLACES:
        order = np.roll(PLACES, -place)
        pieces = [Piece(image, Draw(0, (order,)), CLASSES) for image in images]
        sums += np.stack([values[:, 0] for values in scorer.score(pieces, [1])])
    assert np.allclose(screen.estimate(images, 0, KEYS, CLASSES), sums, atol=1e-4)
    assert screen.table.shape == (16, 11, 5)
    assert np.allclose(np.exp(screen.table).sum(axis=1), 1, atol=1e-5)


def test_controls_of_a_partition_cancel_and_are_the_scores_own_tokens(scorer, images):
    screen = TableScreen(scorer.model)
    whole = screen.estimate(images, 0, KEYS, CLASSES)
    total = np.zeros((4, 5))
    for k in range(4):
        _, pieces = exact(scorer, images, 4, "stratified", k)
        total += np.stack(screen.control(pieces, 4))
    assert np.allclose(total, 0, atol=1e-4)
    first, pieces = exact(scorer, images, 1)
    assert np.allclose(np.stack(screen.control(pieces, 1)) + whole / 16, first, atol=1e-4)
    some = [piece._replace(classes=np.array([3, 1])) for piece in pieces]
    assert np.array_equal(np.stack(screen.control(some, 1)), np.stack(screen.control(pieces, 1))[:, [3, 1]])


@pytest.mark.parametrize(("steps", "orders"), [(16, 1), (16, 2), (4, 3), (5, 2)])
def test_the_gradient_is_the_exact_scores_difference_of_near_classes(scorer, images, steps, orders):
    """With classes ε apart, exact scores differ as the gradient says, up to ε²."""
    weight = scorer.model.cls_embedding.weight
    with torch.no_grad():
        weight.copy_(weight.mean(dim=0) + 0.02 * (weight - weight.mean(dim=0)))
    found = GradientScreen(scorer.model, orders, steps).estimate(images, 7, KEYS, CLASSES)
    keys = [b"screen:" + key for key in KEYS]
    name = "stratified" if steps == 4 else "uniform"
    draws = [exact(scorer, images, steps, name, k, 7, keys)[0] for k in range(orders)]
    want = centred(np.mean(draws, axis=0)) * 16 / steps
    assert np.abs(want).max() > 0.01
    assert np.allclose(centred(found), want, atol=0.02 * np.abs(want).max() + 2e-4)


def test_the_exponentiated_gradient_moves_towards_the_likelier_classes(scorer, images):
    """At a huge η the second order's point is the first's best class, so its gradient is the one there."""
    moved = GradientScreen(scorer.model, 2, eta=1e6).estimate(images, 0, KEYS, CLASSES)
    at_mean = GradientScreen(scorer.model, 1).estimate(images, 0, KEYS, CLASSES)
    second = 2 * centred(moved) - centred(at_mean)
    embeddings = scorer.model.cls_embedding.weight.detach()[:5]
    for i, image in enumerate(images):
        order = scorer.shape.draws("uniform", 16).at(0, b"screen:" + KEYS[i], 1).what[0]
        point = embeddings[at_mean[i].argmax()][None].clone().requires_grad_()
        log_p = scorer.model(torch.from_numpy(image)[None], point, torch.from_numpy(order)[None])
        (g,) = torch.autograd.grad(log_p.sum(), point)
        assert np.allclose(second[i], centred((g @ embeddings.T)[0].numpy()), rtol=1e-3, atol=1e-3)
    assert not np.allclose(
        centred(moved), centred(GradientScreen(scorer.model, 2).estimate(images, 0, KEYS, CLASSES))
    )


def every_screen(model):
    table, gradient = TableScreen(model), GradientScreen(model, 3, 4)
    return {
        "table": table, "gradient": gradient, "exponentiated": GradientScreen(model, 2, 8, 0.1),
        "sum": SumScreen(((table, 0.5), (gradient, 0.25))),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["table", "gradient", "exponentiated", "sum"])
def test_an_estimate_is_of_its_image_seed_and_classes_alone(scorer, images, name):
    screen = every_screen(scorer.model)[name]
    together = screen.estimate(images, 3, KEYS, CLASSES)
    for i in range(4):
        assert np.array_equal(screen.estimate([images[i]], 3, [KEYS[i]], CLASSES)[0], together[i])
    with torch.inference_mode():  # as the engine may be
        assert np.array_equal(screen.estimate(images, 3, KEYS, CLASSES), together)
    moved = screen.estimate(images, 3, KEYS, CLASSES[::-1])
    assert np.allclose(moved[:, ::-1], together, atol=1e-4)
    drawn = not np.array_equal(screen.estimate(images, 4, KEYS, CLASSES), together)
    assert drawn == (name != "table")


def test_the_gradient_of_some_classes_is_at_their_own_mean(scorer, images):
    some = np.array([0, 4])
    screen = GradientScreen(scorer.model)
    embeddings = scorer.model.cls_embedding.weight.detach()
    alone = screen.estimate(images, 0, KEYS, some)
    order = scorer.shape.draws("uniform", 16).at(0, b"screen:a", 0).what[0]
    point = embeddings[[0, 4]].mean(dim=0, keepdim=True).requires_grad_()
    scorer.model(torch.from_numpy(images[0])[None], point, torch.from_numpy(order)[None]).sum().backward()
    assert alone[0, 1] - alone[0, 0] == pytest.approx(
        float(point.grad[0] @ (embeddings[4] - embeddings[0])), abs=1e-3
    )


def test_costs_count_the_backward_pass(scorer):
    model, cfg = scorer.model, scorer.shape
    assert GradientScreen(model, 2, 4).flops(5) == pytest.approx(2 * 3 * cfg.flops(4), rel=0.01)
    assert TableScreen(model).flops(5) == 80
    for name, screen in screens_of(model).items():
        shared, each = cfg.screens[name]
        assert screen.flops(7) == pytest.approx(shared + 7 * each)
    parts = every_screen(model)
    assert parts["sum"].flops(5) == parts["table"].flops(5) + parts["gradient"].flops(5)


def test_a_sum_is_weighted_and_its_control_the_tables(scorer, images):
    parts = every_screen(scorer.model)
    args = (images, 0, KEYS, CLASSES)
    want = 0.5 * parts["table"].estimate(*args) + 0.25 * parts["gradient"].estimate(*args)
    assert np.allclose(parts["sum"].estimate(*args), want, atol=1e-4)
    _, pieces = exact(scorer, images, 4)
    want = 0.5 * np.stack(parts["table"].control(pieces, 4))
    assert np.allclose(np.stack(parts["sum"].control(pieces, 4)), want, atol=1e-5)
    assert parts["gradient"].control(pieces, 4) is None
    assert SumScreen(((parts["gradient"], 1.0),)).control(pieces, 4) is None


def test_a_table_too_large_is_refused_and_not_offered():
    model = made("randar").model
    large = type(model.config)(**(model.config.to_dict() | {"vocab_size": 1 << 20, "n_classes": 1000}))
    assert set(screens_of(model)) == {"table", "gradient"}
    model.config = large
    assert set(screens_of(model)) == {"gradient"}
    with pytest.raises(ValueError, match=r"table would take 62\.5 GiB: use the gradient"):
        TableScreen(model)


@pytest.mark.parametrize("setting", [{"orders": 0}, {"steps": 17}, {"steps": 0}, {"eta": -1.0}])
def test_impossible_gradients_are_refused(setting):
    with pytest.raises(ValueError, match="a gradient takes 1 order or more, 1 to 16 of its tokens"):
        GradientScreen(made("sigma").model, **setting)


def test_an_embedded_models_screens_keep_their_word(tiny_model_dir):
    card = read_card(str(tiny_model_dir))
    scorer = any_order.load(card, "cpu", "float32")
    assert {"table", "gradient"} <= set(scorer.screens) and scorer.screens is scorer.screens
    check_scorer(scorer, card.image_size, len(card.labels))


class Fixed:
    """A screen of a matrix."""

    def __init__(self, values, cost=lambda n: n):
        self.values, self.cost = np.asarray(values, float), cost

    def flops(self, classes):
        return self.cost(classes)

    def estimate(self, encoded, seed, contents, classes):
        return np.stack([self.values for _ in encoded])[:, classes]

    def control(self, pieces, steps):
        return None


class Company(Fixed):
    def estimate(self, encoded, seed, contents, classes):
        return super().estimate(encoded, seed, contents, classes) + len(encoded)


class Flighty(Fixed):
    def control(self, pieces, steps):
        return [np.arange(len(piece.classes), dtype=float) for piece in pieces]


@pytest.mark.parametrize(
    ("screen", "said"),
    [
        (Fixed([1, 2, np.nan]), "finite"),
        (Fixed([1, 2, np.pi]), "values of float32"),
        (Fixed([1, 2, 3], lambda n: -n), "must not fall"),
        (Company([1, 2, 3]), "depends on the other images"),
        (Flighty([1, 2, 3]), "depends on the classes asked"),
    ],
)
def test_broken_screens_are_found_out(screen, said):
    scores = np.zeros((256, 3, 3), np.float32)
    with pytest.raises(AssertionError, match=said):
        check_scorer(FakeScorer(scores, screens={"mine": screen}), 8, 3)
    check_scorer(FakeScorer(scores, screens={"mine": Fixed([1, 2, 3])}), 8, 3)
