"""What a method must do to be raced. NumPy in, NumPy out: whoever has torch inside keeps it inside.

docs/scorers.md shows a scorer in 40 lines; `anytime_cls.testing.check_scorer` says whether one keeps its
word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from anytime_cls.draws.base import Draw, Draws

Array = np.ndarray
Encoded = Any  # what a scorer's `encode` made of one view of an image: only the scorer looks inside


class Piece(NamedTuple):
    """One draw of one image, wanted for some classes: n rows."""

    encoded: Encoded
    draw: Draw
    classes: Array  # int64 [n], the model's class ids


class Shape(Protocol):
    """What a card says of its method, without weights: enough for a plan, an estimate and a replay."""

    @property
    def steps(self) -> int: ...  # of a whole draw: an image's tokens, or 1
    @property
    def unit(self) -> str: ...  # "nats" (log p), or "loss": negative, to be weighted by covariate
    @property
    def joint(self) -> bool: ...  # one call gives all classes: dropping some saves nothing
    def draws(self, name: str, steps: int) -> Draws:
        """The sampler of this name, of draws scored for so many steps. Raises ValueError, naming what there
        is."""

    def flops(self, steps: int, classes: int = 1) -> float:
        """Of one draw's first `steps` for so many classes: a + b · classes (b = 0 where joint)."""

    @property
    def screens(self) -> Mapping[str, tuple[float, float]]:
        """The scorer's screens by name, and what they take: (a, b) of a + b · classes FLOPs an image,
        backward passes counted. Empty for most."""


class Screen(Protocol):
    """An estimate for every class before the first draw; its trace column replays without the model.

    Of an image it is a function of (weights, image, seed, which classes), whatever else is in the call. What
    it draws, it draws by keys of its own: the race's draws stay independent of who was let in. All numbers
    are float32's values.
    """

    def flops(self, classes: int) -> float:
        """Of one image and so many classes, backward passes counted."""

    def estimate(
        self, encoded: Sequence[Encoded], seed: int, contents: Sequence[bytes], classes: Array
    ) -> Array:
        """float64 [I, n] for n of the model's class ids, int64: of a whole draw's score, in the scorer's unit
        and up to a constant an image."""

    def control(self, pieces: Sequence[Piece], steps: int) -> list[Array] | None:
        """What a piece's first `steps` steps hold of the estimate above their share (steps / all) of it, [n]
        each: a control variate, since draws that cover all steps evenly have it at 0 on average. None where
        a screen has none."""


class Scorer(Protocol):
    """Weights on a device. Made by a method's `load(card, device, dtype)`, found by the registry."""

    @property
    def shape(self) -> Shape: ...  # the card's
    @property
    def device(self) -> str: ...  # as torch names it, or the like
    @property
    def dtype(self) -> str: ...  # what it computes in; scores are float32 numbers all the same
    @property
    def screens(self) -> Mapping[str, Screen]: ...  # by name; empty for most
    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> Sequence[Encoded]:
        """uint8 [I, S, S, 3] → what `score` reads, one at a time or many, with the same bits. keys: what each
        image's latent noise is drawn by (`draws.keyed.normal`)."""

    def width(self, steps: int) -> int:
        """How large a row is on the device (positions): the engine cuts its tiles by it."""

    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """Running scores of each piece's rows after these many steps (ascending): float64 [n, len(at)].

        Each is a float32's value, higher is likelier, and depends on its own row and on how many rows the
        call has, nothing else. Raises MemoryError (or torch's) where they do not fit: the engine halves.
        """


class Method(Protocol):
    """A kind of scorer: what an entry point of the group `anytime_cls.methods` names. Light to import."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> Any:
        """The model's card (`models.card.ModelCard`). source: what follows `NAME:` where the model is named.
        labels: an open-vocabulary model's classes, as `--classes` or the data set names them."""

    def load(self, card: Any, device: str, dtype: str) -> Scorer:
        """Its weights on a device."""
