"""Evidence of tokens: by hand, and against what the model says of whole orders."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from basics import write_photo
from scipy.special import softmax

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.explain.choose import choose, truth_of
from anytime_cls.explain.score import check_explains, explain, token_scores
from anytime_cls.explain.tokens import (
    TokenAccuracy,
    TokenScores,
    area,
    centre_and_border,
    probability_by_step,
    shown,
)
from anytime_cls.models.zoo import read_card
from anytime_cls.pixels.inputs import Input
from anytime_cls.scorers.base import Piece

#: Two orders of three tokens, two classes; token 2 says most for class 1.
BY_STEP = np.array([[[-1.0, -2.0, -3.0], [-1.0, -1.0, -2.0]], [[-4.0, -1.0, -1.0], [-1.0, -1.0, -3.0]]])
ORDERS = np.array([[0, 2, 1], [2, 1, 0]])
SCORES = TokenScores(BY_STEP, ORDERS)


def test_scores_are_put_in_their_places():
    np.testing.assert_array_equal(SCORES.by_place[0], [[-1, -3, -2], [-1, -2, -1]])
    np.testing.assert_array_equal(SCORES.by_place[1], [[-1, -1, -4], [-3, -1, -1]])
    np.testing.assert_array_equal(SCORES.totals, [[-6, -4], [-6, -5]])
    assert SCORES.answers.tolist() == [1, 1] and SCORES.rivals() == (1, 0)


def test_evidence_is_a_difference_cut_off_after_averaging():
    """Place 0 says 0 and −2, place 1 says 1 and 0, place 2 says 1 and 3."""
    contrast = SCORES.contrast(1, 0)
    np.testing.assert_array_equal(contrast, [[0, 1, 1], [-2, 0, 3]])
    np.testing.assert_array_equal(shown(contrast), [0, 0.5, 2])


def test_probability_grows_token_by_token():
    found = probability_by_step(BY_STEP[0], 1, temperature=2.0)
    expected = [softmax(np.array(pair) / 2)[1] for pair in ([0, 0], [-1, -1], [-3, -2], [-6, -4])]
    np.testing.assert_allclose(found, expected)
    assert probability_by_step(BY_STEP, 1).shape == (2, 4)
    assert area(np.array([0.0, 1.0, 1.0])) == pytest.approx(0.75)


def test_accuracy_of_single_tokens():
    """By step: of class 1, ties count for class 0. By place: of one order, and of the orders' average."""
    accuracy = TokenAccuracy(3)
    accuracy.add(SCORES, 1)
    np.testing.assert_allclose(accuracy.by_step, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(accuracy.one, [0, 0.5, 1])
    np.testing.assert_allclose(accuracy.all, [0, 1, 1])
    accuracy.add(SCORES, 0)
    np.testing.assert_allclose(accuracy.all, [0.5, 0.5, 0.5])
    grid = np.zeros((4, 4))
    grid[1:3, 1:3] = 1
    assert centre_and_border(grid) == (1.0, 0.0)


@pytest.fixture(scope="module")
def classifier(tiny_model_dir):
    return AnytimeClassifier.load(str(tiny_model_dir), "cpu")


def test_token_scores_add_up_to_what_the_model_says(classifier, tmp_path):
    """Of whole orders, within float32; each class is scored on the same orders."""
    encoded, content = classifier.encode(write_photo(tmp_path / "p.jpg"))
    found = token_scores(classifier, encoded, content, 3, 7, np.array([4, 1]))
    shape = classifier.card.shape
    draws = [shape.draws("uniform", shape.steps).at(7, content, k) for k in range(3)]
    whole = classifier.scorer.score([Piece(encoded, d, np.array([4, 1])) for d in draws], [shape.steps])
    np.testing.assert_allclose(found.totals, np.stack(whole)[:, :, 0], rtol=1e-6)
    assert found.by_step.shape == (3, 2, shape.steps) and (found.by_step < 0).all()
    np.testing.assert_array_equal(found.orders, [d.what[0] for d in draws])


def test_an_explanation_reads_the_most_telling_tokens_first(classifier, tmp_path):
    """Insertion ends where its order's whole score says, and its first token is the one of most evidence."""
    photo = write_photo(tmp_path / "p.jpg", 3)
    found, scores = explain(classifier, photo, "p", orders=4)
    assert (found.answer, found.rival) == scores.rivals() and len(
        found.insertion
    ) == classifier.card.tokens + 1
    mean = found.contrast.mean(axis=0)
    order = np.argsort(-mean, kind="stable")
    encoded, _ = classifier.encode(photo)
    from anytime_cls.draws.base import Draw

    every = np.arange(len(classifier.labels))
    at = [1, classifier.card.tokens]
    (running,) = classifier.scorer.score([Piece(encoded, Draw(0, (order,)), every)], at)
    expected = softmax(running / classifier.card.temperature, axis=0)[found.answer]
    np.testing.assert_allclose(found.insertion[[1, -1]], expected, rtol=1e-4)
    assert found.insertion[0] == found.deletion[0] == pytest.approx(1 / len(every))
    assert found.map.shape == (8, 8) and found.map.min() >= 0 and sum(found.votes().values()) == 4
    other, _ = explain(classifier, photo, "p", orders=4, why=found.rival, rather=found.answer)
    np.testing.assert_allclose(other.contrast, -found.contrast)


def test_classes_may_be_some(classifier, tmp_path):
    found, scores = explain(classifier, write_photo(tmp_path / "p.jpg"), "p", 2, classes=np.array([5, 3, 8]))
    assert found.labels == ("dog", "cat", "ship") and scores.by_step.shape[1] == 3


def test_a_model_without_orders_of_tokens_is_refused():
    shape = SimpleNamespace(
        steps=1, draws=lambda name, steps: SimpleNamespace(at=lambda *_: SimpleNamespace(what=()))
    )
    card = SimpleNamespace(name="whole", method="m", shape=shape)
    with pytest.raises(ValueError, match="whole \\(m\\) does not score a picture token by token"):
        check_explains(SimpleNamespace(card=card))


def test_folders_are_taken_alike():
    items = [
        Input(f"d/{folder}/{i}.png", b"") for folder, n in (("a", 9), ("b", 2), ("c", 5)) for i in range(n)
    ]
    names = [item.name.split("/")[1] for item in choose(items, 8, seed=0)]
    assert names == ["a"] * 3 + ["b"] * 2 + ["c"] * 3
    assert choose(items, 99, 0) == items
    assert choose(items, 8, 0) == choose(items, 8, 0) != choose(items, 8, 1)


def test_a_folder_s_name_may_be_a_class(tiny_model_dir):
    card = read_card(str(tiny_model_dir))
    classes = np.array([5, 3])
    assert truth_of(card, "x/cat/1.png", classes) == 1 and truth_of(card, "x/dog/1.png", classes) == 0
    assert truth_of(card, "x/ship/1.png", classes) == truth_of(card, "x/nothing/1.png", classes) == -1
