"""Which pictures are explained, and what they are of, where their folders say so. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anytime_cls.models.card import ModelCard
from anytime_cls.pixels.inputs import Input


def choose(items: Sequence[Input], most: int, seed: int) -> list[Input]:
    """At most so many, of every folder alike, at random where there are more; in the order given."""
    if len(items) <= most:
        return list(items)
    folders: dict[Path, list[int]] = {}
    for at, item in enumerate(items):
        folders.setdefault(Path(item.name).parent, []).append(at)
    rng = np.random.default_rng(seed)
    shuffled = [[members[i] for i in rng.permutation(len(members))] for members in folders.values()]
    turns = max(map(len, shuffled))
    taken = [members[turn] for turn in range(turns) for members in shuffled if turn < len(members)]
    return [items[at] for at in sorted(taken[:most])]


def truth_of(card: ModelCard, name: str, classes: np.ndarray) -> int:
    """The class that a picture's folder is named after, as a position in `classes` (the model's ids); −1
    where it is named after none, or several.
    """
    folder = Path(name).absolute().parent.name
    found = card.class_index.find(folder) if folder else []
    at = classes.tolist().index(found[0]) if len(found) == 1 and found[0] in classes else -1
    return at
