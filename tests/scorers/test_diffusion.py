"""Diffusion scores: the formulas of public code, and the promises of a scorer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anytime_cls.draws.base import Draw
from anytime_cls.draws.keyed import normal, words
from anytime_cls.scorers.base import Piece
from anytime_cls.scorers.diffusion import (
    CLARK_JAINI,
    EVEN,
    Ddpm,
    LatentDiffusion,
    SiTPath,
    Straight,
    errors,
    weight_at,
)
from anytime_cls.testing import check_scorer

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "diffusion_formulas.npz")
NOISE = torch.from_numpy(GOLDEN["noise"])
CLEAN = torch.from_numpy(GOLDEN["latent"]).expand(4, -1, -1, -1)
NUMBERS = CLEAN[0].numel()


def toy(x: Tensor, told: Tensor, classes: Tensor) -> Tensor:
    """What a network might say; the golden numbers were made with the same."""
    bent = 1 + 0.1 * classes.view(-1, 1, 1, 1).float()
    return torch.tanh(x * bent - 0.3 * torch.sin(told.view(-1, 1, 1, 1).float() / 100))


def of_class(c: int) -> Tensor:
    return torch.full((4,), c)


@pytest.mark.parametrize("c", range(3))
@pytest.mark.parametrize("program", ["adaptive", "dit"])
def test_ddpm_errors_are_those_of_the_public_programs(program: str, c: int) -> None:
    steps = GOLDEN["times" if program == "adaptive" else "dit_times"]
    times = torch.from_numpy(steps / 1000)
    found = errors(toy, Ddpm(), CLEAN, times, NOISE, of_class(c)) / NUMBERS
    assert np.abs(found.numpy() - GOLDEN[f"{program}_{c}"]).max() < 1e-5


@pytest.mark.parametrize("c", range(3))
def test_sit_errors_are_of_the_noise_at_its_own_times(c: int) -> None:
    times = torch.from_numpy(1 - GOLDEN["sit_times"].astype(np.float64))
    found = errors(lambda x, told, y: toy(x, told * 1000, y), SiTPath(), CLEAN, times, NOISE, of_class(c))
    assert np.allclose(found, GOLDEN[f"sit_{c}"], rtol=1e-5)


def test_every_whole_time_of_ddpm_is_told_as_itself() -> None:
    told = Ddpm().told(torch.arange(1000, dtype=torch.float64) / 1000)
    assert told.tolist() == list(range(1000))
    assert Ddpm().told(torch.tensor([1.0])).item() == 999


def test_sit_is_told_real_times_from_1_at_the_latent_to_0_at_noise() -> None:
    told: list[Tensor] = []

    def listener(x: Tensor, at: Tensor, classes: Tensor) -> Tensor:
        told.append(at)
        return x

    times = torch.tensor([0.0, 0.25, 0.6, 1.0], dtype=torch.float64)
    errors(listener, SiTPath(), CLEAN, times, NOISE, of_class(0))
    assert told[0].dtype == torch.float32
    assert torch.allclose(told[0], torch.tensor([1.0, 0.75, 0.4, 0.0]))


@pytest.mark.parametrize("path, sign", [(Straight(), 1), (SiTPath(), -1), (Ddpm(), 0)])
@pytest.mark.parametrize("loss", ["noise", "data"])
def test_a_network_that_knows_the_answer_has_no_error(path, sign: int, loss: str) -> None:
    times = torch.tensor([0.001, 0.3, 0.7, 0.95], dtype=torch.float64)

    def oracle(x: Tensor, told: Tensor, classes: Tensor) -> Tensor:
        return NOISE if sign == 0 else sign * (NOISE - CLEAN)

    found = errors(oracle, path, CLEAN, times, NOISE, of_class(0), loss)
    assert found.max() < 1e-3 * (1 if loss == "noise" else 50)


@pytest.mark.parametrize("path", [Straight(), Ddpm()])
def test_error_of_the_data_is_that_of_its_estimate(path) -> None:
    times = torch.tensor([0.05, 0.3, 0.5, 0.7], dtype=torch.float64)
    a, s = (part.float().view(-1, 1, 1, 1) for part in path.mix(times))
    noisy = a * CLEAN + s * NOISE
    predicted = toy(noisy, path.told(times), of_class(1))
    estimate = (noisy - s * path.noise(noisy, predicted, times)) / a
    found = errors(toy, path, CLEAN, times, NOISE, of_class(1), "data")
    assert torch.allclose(found, (estimate - CLEAN).square().sum((1, 2, 3)), rtol=1e-4)


def test_weights_are_log_linear_between_their_times() -> None:
    times = np.array([0.0, 0.1, 0.5, 1.0])
    assert np.allclose(weight_at(EVEN, times), 1)
    assert np.allclose(weight_at(CLARK_JAINI, times), np.exp(-7 * times))
    assert np.allclose(weight_at([(0, 1.0), (0.5, 4.0), (1, 1.0)], np.array([0.25, 0.75])), 2)


@dataclass(frozen=True)
class Drawn:
    """A time and its noise, independent from draw to draw."""

    name: str
    steps: int = 1
    block: int = 1
    distinct: int | None = None

    def at(self, seed: int, content: bytes, k: int) -> Draw:
        key = f"{seed}:{k}:".encode() + content
        t = float(words(b"time:" + key, 1)[0] >> np.uint64(11)) * 2.0**-53
        return Draw(k, (np.array(t), normal(b"noise:" + key, (4, 8, 8))), covariate=t)


@dataclass(frozen=True)
class Small:
    steps: int = 1
    unit: str = "loss"
    joint: bool = False
    screens: dict[str, tuple[float, float]] = field(default_factory=dict)

    def draws(self, name: str, steps: int) -> Drawn:
        return Drawn(name)

    def flops(self, steps: int, classes: int = 1) -> float:
        return 1e6 * classes


class Pooled:
    """A latent of four means of a picture's parts."""

    pixel_range = (-1.0, 1.0)
    latent_shape = (4, 8, 8)

    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        found = torch.nn.functional.avg_pool2d(pixels, 2)
        found = torch.cat((found, found.mean(1, keepdim=True)), dim=1)
        return found if normal is None else (1 - noise) * found + noise * normal


def scorer(**options) -> LatentDiffusion:
    return LatentDiffusion(toy, Pooled(), Ddpm(), Small(), **options)


def test_keeps_the_promises_of_a_scorer() -> None:
    check_scorer(scorer(), image_size=16, n_classes=5)


def test_a_score_is_minus_the_weighted_error_of_its_draw() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    made = scorer(weighting=CLARK_JAINI)
    latents = made.encode(crops)
    draws = [Drawn("uniform").at(0, bytes([i]), i) for i in range(2)]
    pieces = [Piece(latents[i], draws[i], np.arange(3 - i)) for i in range(2)]
    found = made.score(pieces, [1])
    assert [rows.shape for rows in found] == [(3, 1), (2, 1)]
    for piece, rows in zip(pieces, found, strict=True):
        t = piece.draw.covariate
        wrong = errors(
            toy,
            Ddpm(),
            torch.from_numpy(piece.encoded)[None],
            torch.tensor([t], dtype=torch.float64),
            torch.from_numpy(piece.draw.what[1])[None],
            torch.tensor([1]),
        )
        assert rows[1, 0] == pytest.approx(-np.exp(-7 * t) * wrong.item(), rel=1e-5)


def test_latent_noise_is_drawn_by_the_key() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    clean = scorer().encode(crops)
    noisy = scorer().encode(crops, 0.25, [b"a", b"b"])
    for i, key in enumerate((b"a", b"b")):
        assert np.allclose(noisy[i], 0.75 * clean[i] + 0.25 * normal(key, (4, 8, 8)), atol=1e-6)


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="no loss 'velocity'"):
        scorer(loss="velocity")
