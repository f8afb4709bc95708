"""Diffusion classifiers: how badly a network that was told a class finds the noise in a noisy latent.

Li et al., *Your Diffusion Model is Secretly a Zero-Shot Classifier*, ICCV 2023,
https://arxiv.org/abs/2303.16203, and Clark & Jaini, *Text-to-Image Diffusion Models are Zero-Shot
Classifiers*, NeurIPS 2023, https://arxiv.org/abs/2303.15233. A draw is one (t, ε) that all classes share; its
score is

    −w(t) ‖ε − ε̂(z_t, t, class)‖²,    z_t = a(t) z + s(t) ε,

with t from 0 (the latent) to 1 (noise) whatever the network's own clock. What a network predicts is made a
noise first: errors of a velocity count late times, which say little of the class, as much as early ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from anytime_cls.draws.keyed import normal
from anytime_cls.pixels.crops import scaled
from anytime_cls.scorers.base import Piece, Screen, Shape

Array = np.ndarray
Weighting = Sequence[tuple[float, float]]  # (t, w) in rising t from 0 to 1; between them log w is linear

EVEN: Weighting = ((0.0, 1.0), (1.0, 1.0))  # what diffusion-classifier's programs add up
CLARK_JAINI: Weighting = ((0.0, 1.0), (1.0, math.exp(-7.0)))  # exp(−7 t)
LOSSES = ("noise", "data")


class Network(Protocol):
    """Noisy latents [B, D, h, w], the network's own times [B] and classes int64 [B] → [B, D or more, h, w],
    of which the first D are the prediction (the others are a learned variance)."""

    def __call__(self, noisy: Tensor, told: Tensor, classes: Tensor, /) -> Tensor: ...


class Encoder(Protocol):
    """What makes latents of pixels."""

    @property
    def pixel_range(self) -> tuple[float, float]: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...
    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, S, S] in `pixel_range` → latents [B, *latent_shape], as the network reads them.

        noise, normal: latent noise, as `tokenizers.base.with_noise` takes them.
        """


class Path(Protocol):
    """From a latent (t = 0) to noise (t = 1). Times are float64 [B] on the CPU, all else is as latents."""

    def mix(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and s(t) of z_t = a z + s ε: float64 [B] each."""

    def told(self, t: Tensor) -> Tensor:
        """What the network is told of t: [B]."""

    def noise(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """ε̂ of what the network predicted from z_t."""


@dataclass(frozen=True)
class Straight:
    """A straight line, z_t = (1 − t) z + t ε, of whose velocity ε − z the network is taught."""

    def mix(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def told(self, t: Tensor) -> Tensor:
        return t

    def noise(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        return noisy + _rows(1 - t, noisy) * predicted


@dataclass(frozen=True)
class SiTPath:
    """The same line with SiT's clock: 1 is the latent, 0 is noise, and the velocity is z − ε.

    Ma et al., *SiT*, ECCV 2024, https://arxiv.org/abs/2401.08740 (`transport/path.py`, `ICPlan`). The
    network is told a real number in [0, 1]; rounded to whole ones, every time would be 0.
    """

    def mix(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def told(self, t: Tensor) -> Tensor:
        return 1 - t

    def noise(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        return noisy - _rows(1 - t, noisy) * predicted


@dataclass(frozen=True)
class Ddpm:
    """Ho et al., *DDPM*, NeurIPS 2020: `steps` whole times whose β rise linearly; the network predicts ε.

    Time t in [0, 1) is the whole one ⌊t · steps⌋, which the network is told. z_t = √ᾱ z + √(1 − ᾱ) ε.
    """

    steps: int = 1000
    first: float = 0.0001  # β
    last: float = 0.02

    def mix(self, t: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.from_numpy(_kept(self.steps, self.first, self.last))[self.told(t)]
        return kept.sqrt(), (1 - kept).sqrt()

    def told(self, t: Tensor) -> Tensor:
        # 1e-6 of a step: k / steps · steps may fall short of k
        return (t * self.steps + 1e-6).long().clamp(0, self.steps - 1)

    def noise(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        return predicted


@lru_cache(maxsize=8)
def _kept(steps: int, first: float, last: float) -> Array:
    """ᾱ, the share of the latent's variance that is left: float64 [steps]."""
    return np.cumprod(1 - np.linspace(first, last, steps))


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, 1, 1], in the other's dtype and on its device."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def weight_at(weighting: Weighting, t: Array) -> Array:
    """w(t): float64, shaped as t."""
    times, weights = np.asarray(weighting, np.float64).T
    found: Array = np.exp(np.interp(t, times, np.log(weights)))
    return found


def errors(
    network: Network,
    path: Path,
    clean: Tensor,
    t: Tensor,
    noise: Tensor,
    classes: Tensor,
    loss: str = "noise",
) -> Tensor:
    """Squared errors, summed over a latent: float32 [B].

    clean, noise : float32 [B, D, h, w]. t : float64 [B] in [0, 1), on the CPU. classes : int64 [B]
    loss : of the noise, ‖ε − ε̂‖², or of the data, ‖z − ẑ‖² = (s / a)² ‖ε − ε̂‖²
    """
    a, s = path.mix(t)
    noisy = _rows(a, clean) * clean + _rows(s, clean) * noise
    told = path.told(t)
    told = (told.float() if told.is_floating_point() else told).to(clean.device)
    predicted = network(noisy, told, classes)[:, : clean.shape[1]].float()
    found = (path.noise(noisy, predicted, t) - noise).square().flatten(1).sum(1)
    return found * ((s / a) ** 2).to(found) if loss == "data" else found


@final
class LatentDiffusion:
    """A network and its encoder as a scorer. An `Encoded` is a latent float32 [D, h, w] on the CPU.

    weighting, loss : w(t), and of what error. positions : of the network's sequence, if not every place of a
    latent is one. Raises ValueError for a loss that there is not.
    """

    def __init__(
        self,
        network: Network,
        encoder: Encoder,
        path: Path,
        shape: Shape,
        weighting: Weighting = EVEN,
        loss: str = "noise",
        device: str = "cpu",
        dtype: str = "float32",
        positions: int | None = None,
    ):
        if loss not in LOSSES:
            raise ValueError(f"no loss {loss!r}: choose from {', '.join(LOSSES)}")
        self.network, self.encoder, self.path, self.shape = network, encoder, path, shape
        self.weighting, self.loss, self.device, self.dtype = weighting, loss, device, dtype
        _, height, width = encoder.latent_shape
        self._positions = positions or height * width
        self.screens: Mapping[str, Screen] = {}

    def width(self, steps: int) -> int:
        return self._positions

    @torch.inference_mode()
    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[Array]:
        """Latents of uint8 [I, S, S, 3], one image at a time: no bit depends on a batch."""
        found = []
        for i, crop in enumerate(crops):
            pixels = torch.from_numpy(scaled(crop, self.encoder.pixel_range))[None].to(self.device)
            drawn = torch.from_numpy(normal(keys[i], self.encoder.latent_shape))[None] if noise > 0 else None
            found.append(self.encoder.encode(pixels, noise, drawn)[0].float().cpu().numpy())
        return found

    @torch.inference_mode()
    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """−w(t) times the error, once for every number of steps asked: a draw has one."""
        sizes = [len(piece.classes) for piece in pieces]
        rows = torch.from_numpy(np.repeat(np.arange(len(pieces)), sizes))
        times = np.repeat([float(piece.draw.what[0]) for piece in pieces], sizes)
        clean, noise = (
            torch.from_numpy(np.stack(parts)).to(self.device)[rows.to(self.device)]
            for parts in ([p.encoded for p in pieces], [p.draw.what[1] for p in pieces])
        )
        classes = torch.from_numpy(np.concatenate([piece.classes for piece in pieces])).to(self.device)
        t = torch.from_numpy(times)
        wrong = errors(self.network, self.path, clean, t, noise, classes, self.loss).cpu().numpy()
        scores = -wrong.astype(np.float64) * weight_at(self.weighting, times)
        kept = scores.astype(np.float32).astype(np.float64)[:, None].repeat(len(at), axis=1)
        return np.split(kept, np.cumsum(sizes)[:-1])
