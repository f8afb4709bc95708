"""Token by token: evidence for an answer against a rival, and how much single tokens know. No torch.

The paper's Figures 1, 3, 4 and 5 (docs/explain.md): log p(x_i | what was read before it, c) of every token
x_i, under K orders shared by all classes. Beside them, *insertion* and *deletion* (Petsiuk et al., *RISE*,
BMVC 2018), which an any-order model answers without grey patches: the probability of the answer by the first
m tokens alone, where those with the most evidence are read first, or last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import softmax

Array = np.ndarray


@final
@dataclass(frozen=True, eq=False)
class TokenScores:
    """Of one image.

    by_step : float64 [K, C, N], nats: of the token that each order reads i-th
    orders : int64 [K, N]: the place (raster order) that it reads i-th
    """

    by_step: Array
    orders: Array

    @property
    def by_place(self) -> Array:
        """The same by place in the image: [K, C, N]."""
        placed = np.empty_like(self.by_step)
        np.put_along_axis(
            placed, np.broadcast_to(self.orders[:, None], self.by_step.shape), self.by_step, axis=2
        )
        return placed

    @property
    def totals(self) -> Array:
        """log p(x | order, class): [K, C]."""
        found: Array = self.by_step.sum(axis=2)
        return found

    @property
    def answers(self) -> Array:
        """What each order alone answers (Figure 1): int [K]."""
        found: Array = self.totals.argmax(axis=1)
        return found

    @property
    def means(self) -> Array:
        """Averaged over orders, the paper's classifier: [C]."""
        found: Array = self.totals.mean(axis=0)
        return found

    def rivals(self) -> tuple[int, int]:
        """The answer of all orders together, and the best other class."""
        first, second = np.argsort(-self.means, kind="stable")[:2]
        return int(first), int(second)

    def contrast(self, answer: int, rival: int) -> Array:
        """log p(x_i | answer) − log p(x_i | rival) by place, order by order: [K, N] nats (Figure 3)."""
        placed = self.by_place
        found: Array = placed[:, answer] - placed[:, rival]
        return found


def shown(contrast: Array) -> Array:
    """What Figure 3 draws, [K, N] → [N] nats: what speaks for the answer, averaged over orders.

    Cut off at 0 after averaging: cut off before, the noise of single orders would add up.
    """
    found: Array = np.maximum(contrast.mean(axis=0), 0.0)
    return found


def probability_by_step(by_step: Array, answer: int, temperature: float = 1.0) -> Array:
    """Probability of the answer after 0 .. N tokens that an order reads: [..., C, N] → [..., N + 1]."""
    running = np.cumsum(by_step, axis=-1)
    start = np.zeros((*running.shape[:-1], 1))
    each = softmax(np.concatenate([start, running], axis=-1) / temperature, axis=-2)
    found: Array = each[..., answer, :]
    return found


def area(curve: Array) -> float:
    """Mean height of a curve [N + 1] over the share of tokens read, by the trapezoid rule."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


@final
@dataclass(frozen=True, eq=False)
class Explanation:
    """Why one image is what it is said to be. Class numbers are positions in `labels`.

    crop : uint8 [S, S, 3], what the model saw
    contrast : evidence by place, order by order, [K, N] nats (`TokenScores.contrast`)
    insertion, deletion, chance : [N + 1], probability of the answer by the first 0 .. N tokens read: those
        with most evidence first; those with least first (what is left when the most telling are taken away);
        and in random orders, the mean of all K
    """

    name: str
    content: str  # SHA-256 of the crop, hexadecimal, as in traces
    labels: tuple[str, ...]
    answer: int
    rival: int
    probability: float  # of the answer, all orders together
    truth: int  # −1: not known
    answers: Array  # int [K], of single orders
    orders: Array  # int64 [K, N]
    crop: Array
    contrast: Array
    insertion: Array
    deletion: Array
    chance: Array

    @property
    def side(self) -> tuple[int, int]:
        """Rows and columns of the token grid; one row where it is no square."""
        found = grid(self.contrast[0]).shape
        return found[0], found[1]

    @property
    def map(self) -> Array:
        """Evidence by place, averaged over orders, as Figure 3 draws it: [rows, columns] nats, from 0."""
        return shown(self.contrast).reshape(self.side)

    def scores(self) -> dict[str, float]:
        """Areas under the curves: insertion, where high says that the map is right; deletion, where low does;
        and what random orders give.
        """
        return {
            "insertion": area(self.insertion),
            "deletion": area(self.deletion),
            "random": area(self.chance),
        }

    def votes(self) -> dict[str, int]:
        """How many single orders answer what, most first."""
        counts = np.bincount(self.answers, minlength=len(self.labels))
        return {self.labels[c]: int(counts[c]) for c in np.argsort(-counts, kind="stable") if counts[c]}


@final
class TokenAccuracy:
    """How often one token alone is right about the class, over labelled images (Figures 4 and 5).

    Figure 4: by place, of one order, and averaged over all orders. Figure 5: by how many tokens were read
    before it.
    """

    def __init__(self, n_tokens: int) -> None:
        self.images = 0
        self._step, self._one, self._all = np.zeros((3, n_tokens))

    def add(self, scores: TokenScores, truth: int) -> None:
        placed = scores.by_place
        self.images += 1
        self._step += (scores.by_step.argmax(axis=1) == truth).mean(axis=0)
        self._one += (placed.argmax(axis=1) == truth).mean(axis=0)
        self._all += placed.mean(axis=0).argmax(axis=0) == truth

    @property
    def by_step(self) -> Array:
        """[N], by the tokens read before."""
        return self._step / max(1, self.images)

    @property
    def one(self) -> Array:
        """[N], by place, of one order."""
        return self._one / max(1, self.images)

    @property
    def all(self) -> Array:
        """[N], by place, averaged over all orders."""
        return self._all / max(1, self.images)


def grid(places: Array) -> Array:
    """[N] in raster order as [rows, columns]: one row where it is no square."""
    root = round(len(places) ** 0.5)
    return places.reshape(root, root) if root * root == len(places) else places[None]


def centre_and_border(square: Array) -> tuple[float, float]:
    """Mean over the inner half of both sides of a grid [rows, columns], and over the rest."""
    inner = np.zeros(square.shape, bool)
    a, b = (size // 4 for size in square.shape)
    inner[a : square.shape[0] - a, b : square.shape[1] - b] = True
    return float(square[inner].mean()), float(square[~inner].mean()) if not inner.all() else float("nan")


def anchor(content: str) -> str:
    """The address of a picture's section in a page of `explain`, by its content: SHA-256 of the crop,
    hexadecimal, as traces have it."""
    return f"picture-{content[:16]}"
