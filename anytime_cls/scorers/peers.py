"""The shapes of the models that any-order ones are compared with: draws, FLOPs, tensors. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from anytime_cls.draws.levels import LevelSampler, Once
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.scorers.shapes import RandARConfig, SigmaConfig

FREQUENCIES = 256  # numbers that a diffusion transformer is told the time by
Weighting = tuple[tuple[float, float], ...]  # (t, w) in rising t; between them log w is linear
UNFITTED = 7.0  # w(t) = exp(−7 t) of ‖z − ẑ‖²: Clark & Jaini, NeurIPS 2023, https://arxiv.org/abs/2303.15233


@dataclass(frozen=True)
class RasterConfig(SigmaConfig):
    """Shape of a :class:`~anytime_cls.scorers.sigma.SigmaGPT` that has read images in raster order only."""

    def draws(self, name: str, steps: int) -> OrderSampler:
        """Its only order, under either name. Raises ValueError for others, which it was never trained on."""
        if name not in ("uniform", "raster"):
            raise ValueError(f"this model reads images in raster order only, not {name!r}")
        return OrderSampler("raster", self.n_tokens, prefix=steps)

    @property
    def screens(self) -> Mapping[str, tuple[float, float]]:
        """None: both of an any-order model's read tokens out of turn."""
        return {}


@dataclass(frozen=True)
class _Reader:
    """What is common to models that give all classes in one pass."""

    screens: ClassVar[Mapping[str, tuple[float, float]]] = {}
    steps: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    joint: ClassVar[bool] = True

    def draws(self, name: str, steps: int) -> Once:
        """The only one there is, whatever its name."""
        return Once(name)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**fields)


@dataclass(frozen=True)
class DiscriminativeConfig(_Reader):
    """Shape of a :class:`~anytime_cls.scorers.reader.Discriminative`; the fields are RandAR's."""

    dim: int
    n_layer: int
    n_head: int
    vocab_size: int
    n_tokens: int
    n_classes: int
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    multiple_of: int = 256

    @property
    def blocks(self) -> RandARConfig:
        """The shape of its transformer's blocks."""
        return RandARConfig(**asdict(self))

    def flops(self, steps: int = 1, classes: int = 1) -> float:
        """Multiply-adds × 2 of the pass, whatever the classes."""
        return self.of_tokens(self.n_tokens)

    def of_tokens(self, m: int) -> float:
        """Of a pass that reads m of the tokens."""
        per_position = 2 * (4 * self.dim**2 + 3 * self.dim * self.blocks.hidden_dim)
        attention = 2 * 2 * self.dim * m
        return m * self.n_layer * (per_position + attention) + 2 * self.dim * self.n_classes


@dataclass(frozen=True)
class HeadConfig(_Reader):
    """Shape of a :class:`~anytime_cls.scorers.reader.Head`, a small network beside the tokenizer."""

    width: int
    vocab_size: int
    n_tokens: int
    n_classes: int

    def flops(self, steps: int = 1, classes: int = 1) -> float:
        """Multiply-adds × 2 of the pass, whatever the classes."""
        return self.n_tokens * 2 * 2 * 9.0 * self.width**2 + 2 * self.width * self.n_classes


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a :class:`~anytime_cls.scorers.dit.DiT`. A draw is a time and a noise."""

    dim: int
    n_layer: int
    n_head: int
    channels: int  # D of the latents
    n_tokens: int  # their places, a square
    n_classes: int  # row C of the class embedding is the null class

    screens: ClassVar[Mapping[str, tuple[float, float]]] = {}
    steps: ClassVar[int] = 1
    unit: ClassVar[str] = "loss"
    joint: ClassVar[bool] = False

    @property
    def grid(self) -> int:
        """Places a side. Raises ValueError for what is no square."""
        side = math.isqrt(self.n_tokens)
        if side * side != self.n_tokens:
            raise ValueError(f"n_tokens must be a square, got {self.n_tokens}")
        return side

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**fields)

    def draws(self, name: str, steps: int) -> LevelSampler:
        """Times and noises by this sampler. Raises ValueError."""
        return LevelSampler(name, (self.channels, self.grid, self.grid))

    def flops(self, steps: int = 1, classes: int = 1) -> float:
        """Multiply-adds × 2 of one draw, for each class."""
        dim, n = self.dim, self.n_tokens
        block = n * (24 * dim**2 + 2 * 2 * dim * n) + 2 * 6 * dim**2
        ends = n * 2 * 2 * dim * self.channels + 2 * dim * (FREQUENCIES + dim + 2 * dim)
        return classes * float(self.n_layer * block + ends)
