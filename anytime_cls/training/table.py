"""What tokens say of classes with no transformer at all: naive Bayes, a table of counts a place."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from anytime_cls.stats.intervals import proportion

Array = np.ndarray

OF_THE_CLASS = 30.0  # tokens of a place, of a class, that the class's other places count as
OF_ALL = 200.0  # tokens of a class that all classes count as


def log_table(tokens: Array, labels: Array, vocab_size: int, n_classes: int) -> Array:
    """log p(token | place, class), nats: int [n, N], [n] → float32 [C, N, V].

    Counts of a place shrink to those of the class, these to those of all classes, and all are positive.
    """
    n_places = tokens.shape[1]
    counts = np.zeros((n_classes, n_places, vocab_size), np.float32)
    np.add.at(counts, (labels[:, None], np.arange(n_places), tokens), 1)
    of_class = counts.sum(1)
    of_all = of_class.sum(0) + 0.5
    shrunk = of_class + OF_ALL * of_all / of_all.sum()
    shrunk /= shrunk.sum(1, keepdims=True)
    counts += OF_THE_CLASS * shrunk[:, None]
    counts /= counts.sum(2, keepdims=True)
    found: Array = np.log(counts)
    return found


def naive_bayes(tokens: Array, table: Array) -> Array:
    """Σ log p(token | place, class): int [n, N] → float64 [n, C], nats."""
    scores = np.zeros((len(tokens), len(table)))
    for place, column in enumerate(tokens.T):
        scores += table[:, place, column].T
    return scores


def table_accuracy(
    seen: Tensor, labels: Tensor, tokens: Tensor, wanted: Tensor, vocab_size: int
) -> dict[str, Any]:
    """How often the table of tokens seen [n, N], with their labels [n], is right on others: with interval."""
    n_classes = int(max(labels.max(), wanted.max())) + 1
    table = log_table(seen.numpy(), labels.numpy(), vocab_size, n_classes)
    return proportion(naive_bayes(tokens.numpy(), table).argmax(axis=1) == wanted.numpy())
