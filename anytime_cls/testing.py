"""For whoever writes a scorer: one made of a matrix, and a check of any other (docs/scorers.md)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anytime_cls.draws.base import Draw, Draws
from anytime_cls.scorers.base import Encoded, Piece, Scorer, Screen, Shape

Array = np.ndarray


@dataclass(frozen=True)
class Numbered:
    """Draws that are nothing but their number: a scorer that looks its scores up needs no more."""

    name: str = "numbered"
    steps: int = 1
    block: int = 1
    distinct: int | None = None

    def at(self, seed: int, content: bytes, k: int) -> Draw:
        return Draw(k)


@dataclass(frozen=True)
class FakeShape:
    """The shape of a :class:`FakeScorer`. Any sampler's name gives its numbered draws."""

    steps: int = 1
    unit: str = "nats"
    joint: bool = False
    screens: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def draws(self, name: str, steps: int) -> Draws:
        return Numbered(name, steps)

    def flops(self, steps: int, classes: int = 1) -> float:
        return 1e6 * steps * (1 if self.joint else classes)


@dataclass
class FakeScorer:
    """Scores from a matrix: an image's encoding is its number, and what it scores stands in `scores`.

    scores : [I, K, C], or [I, K, C, steps] as running scores; float32 values. An image is told by its first
    pixel's red value.
    """

    scores: Array
    shape: FakeShape = field(default_factory=FakeShape)
    device: str = "cpu"
    dtype: str = "float32"
    screens: Mapping[str, Screen] = field(default_factory=dict)

    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[int]:
        return [int(crop[0, 0, 0]) for crop in crops]

    def width(self, steps: int) -> int:
        return steps

    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        out = []
        for image, draw, classes in pieces:
            values = self.scores[image, draw.k][classes].astype(np.float32).astype(float)
            running = values if values.ndim == 2 else np.multiply.outer(values, np.ones(self.shape.steps))
            out.append(running[:, np.asarray(at) - 1])
        return out


def check_scorer(scorer: Scorer, image_size: int, n_classes: int, sampler: str = "uniform") -> None:
    """Says whether a scorer keeps the promises that a race rests on. Raises AssertionError naming the first
    that it does not.

    Parameters
    ----------
    image_size : pixels a side of the crops that it encodes
    n_classes : its classes are 0 .. n_classes − 1, two at least
    sampler : the name of draws that it has
    """
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, image_size, image_size, 3), np.uint8)
    shape, steps = scorer.shape, scorer.shape.steps
    _check_shape(shape, n_classes)
    draws = shape.draws(sampler, steps)
    _check_draws(draws)
    encoded = scorer.encode(crops)
    assert len(encoded) == len(crops), "encode must give one thing an image"

    everyone = np.arange(n_classes)
    at = sorted({1, max(1, steps // 2), steps})
    pieces = [Piece(seen, draws.at(0, bytes([i]), i), everyone) for i, seen in enumerate(encoded)]
    together = scorer.score(pieces, at)
    for piece, values in zip(pieces, together, strict=True):
        assert values.shape == (n_classes, len(at)), "score must give [classes, len(at)] a piece"
        assert values.dtype == np.float64 and np.isfinite(values).all(), "scores must be finite float64"
        assert (values == values.astype(np.float32)).all(), "scores must be values of float32"
        (again,) = scorer.score([piece], at)
        assert np.allclose(again, values, atol=1e-3), "a piece's scores depend on the other pieces"
    same = scorer.score(pieces, at)
    assert all(map(np.array_equal, together, same)), "the same call gave other scores the second time"
    alone: list[Encoded] = [scorer.encode(crop[None])[0] for crop in crops]
    moved = scorer.score([p._replace(encoded=one) for p, one in zip(pieces, alone, strict=True)], at)
    assert all(map(np.array_equal, together, moved)), "images encoded one at a time score otherwise than many"
    _check_neighbours(scorer, pieces, at, together)
    for column, m in enumerate(at):
        (value,) = scorer.score(pieces[:1], [m])
        assert np.allclose(value[:, 0], together[0][:, column], atol=1e-3), f"`at` = [{m}] alone differs"
    if shape.joint:
        (some,) = scorer.score([pieces[0]._replace(classes=everyone[::2])], at)
        assert np.array_equal(some, together[0][::2]), "a joint scorer's classes depend on which are asked"
    for name, screen in scorer.screens.items():
        _check_screen(name, screen, pieces, n_classes)


def _check_shape(shape: Shape, n_classes: int) -> None:
    assert shape.steps >= 1 and shape.unit in ("nats", "loss"), "steps from 1; unit is nats or loss"
    cost = shape.flops(shape.steps, n_classes)
    assert cost > 0, "flops must be positive"
    assert shape.flops(1, n_classes) <= cost, "flops must not fall with steps"
    assert shape.flops(shape.steps, 1) <= cost, "flops must not fall with classes"
    assert pickle.loads(pickle.dumps(shape)) is not None, "a shape must pickle: workers get it"


def _check_draws(draws: Draws) -> None:
    first, again, other = (draws.at(seed, b"image", 1) for seed in (0, 0, 1))
    assert first.k == 1, "a draw must say its number"
    assert all(map(np.array_equal, first.what, again.what)), "a draw must be a function of its key alone"
    assert len(first.what) == len(other.what), "draws must be alike"
    assert draws.block >= 1 and (draws.distinct is None or draws.distinct >= 1), "block and distinct from 1"
    pickle.loads(pickle.dumps(draws))


def _check_neighbours(scorer: Scorer, pieces: list[Piece], at: Sequence[int], together: list[Array]) -> None:
    """A row may depend on how many rows a call has, and on nothing else of its company."""
    company = [pieces[0], pieces[2], pieces[1]]
    moved = scorer.score(company, at)
    assert np.array_equal(moved[0], together[0]), "a row's last bits depend on its neighbours"


def _check_screen(name: str, screen: Screen, pieces: list[Piece], n_classes: int) -> None:
    """An estimate is of its own image alone; a control of a piece's own classes."""
    everyone, keys = np.arange(n_classes), [bytes([i]) for i in range(len(pieces))]
    encoded = [piece.encoded for piece in pieces]
    found = screen.estimate(encoded, 0, keys, everyone)
    assert found.shape == (len(pieces), n_classes), f"screen {name!r} must give [images, classes]"
    assert found.dtype == np.float64 and np.isfinite(found).all(), f"screen {name!r} must give finite float64"
    assert (found == found.astype(np.float32)).all(), f"screen {name!r} must give values of float32"
    for i, (one, key) in enumerate(zip(encoded, keys, strict=True)):
        alone = screen.estimate([one], 0, [key], everyone)
        assert np.array_equal(alone[0], found[i]), (
            f"screen {name!r} depends on the other images, or on chance"
        )
    cost = screen.flops(n_classes)
    assert 0 <= screen.flops(1) <= cost, f"the flops of screen {name!r} must not fall with classes"
    few = [piece._replace(classes=everyone[::2]) for piece in pieces]
    controls, some = screen.control(pieces, 1), screen.control(few, 1)
    assert (controls is None) == (some is None), f"screen {name!r} must have a control always or never"
    for whole, part in zip(controls or [], some or [], strict=True):
        assert whole.shape == (n_classes,), f"the control of screen {name!r} must be [classes] a piece"
        assert np.array_equal(whole[::2], part), (
            f"the control of screen {name!r} depends on the classes asked"
        )
