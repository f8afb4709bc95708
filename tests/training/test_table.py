"""Naive Bayes on tokens, and the rivals that a class is told from."""

import numpy as np
import torch

from anytime_cls.training.contrast import drawn_rivals
from anytime_cls.training.table import OF_ALL, OF_THE_CLASS, log_table, naive_bayes, table_accuracy


def test_a_place_shrinks_to_its_class_and_a_class_to_all():
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(0, 4, (30, 3)), np.arange(30) % 2
    table = np.exp(log_table(tokens, labels, 5, 2))
    np.testing.assert_allclose(table.sum(2), 1, rtol=1e-5)
    assert table.min() > 0  # the fifth token was never seen
    everywhere = np.bincount(tokens.ravel(), minlength=5) + 0.5
    own = np.bincount(tokens[labels == 1].ravel(), minlength=5)
    of_class = (own + OF_ALL * everywhere / everywhere.sum()) / (own.sum() + OF_ALL)
    here = np.bincount(tokens[labels == 1, 2], minlength=5)
    np.testing.assert_allclose(table[1, 2], (here + OF_THE_CLASS * of_class) / (15 + OF_THE_CLASS), rtol=1e-4)


def test_scores_are_sums_over_places():
    table = np.log(np.random.default_rng(1).dirichlet(np.ones(4), (3, 2)))
    tokens = np.array([[0, 3], [2, 2]])
    expected = [[table[c, 0, a] + table[c, 1, b] for c in range(3)] for a, b in tokens]
    np.testing.assert_allclose(naive_bayes(tokens, table), expected)


def test_tokens_that_tell_classes_are_right():
    labels = torch.arange(40) % 4
    found = table_accuracy(labels[:, None].repeat(1, 4), labels, labels[:8, None].repeat(1, 4), labels[:8], 4)
    assert found["value"] == 1.0 and found["n"] == 8


def test_rivals_are_other_classes_and_likelier_ones_more_often():
    scores = np.tile([0.0, -50.0, -5.0, -400.0], (500, 1))
    own = torch.zeros(500, dtype=torch.int64)
    drawn = drawn_rivals(scores, own, 1, torch.Generator().manual_seed(0))[:, 0]
    counts = np.bincount(drawn, minlength=4)
    assert counts[0] == 0 and counts[2] > counts[3] and counts[1] > counts[3]
    both = drawn_rivals(scores, own, 3, torch.Generator().manual_seed(0))
    assert (both.sort(1).values == torch.tensor([1, 2, 3])).all()
