"""The shapes of the models that any-order ones are compared with: draws, FLOPs, tensors. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from anytime_cls.draws.levels import ContextSampler, LevelSampler, Once
from anytime_cls.draws.orders import OrderSampler
from anytime_cls.scorers.shapes import LAYOUTS, RandARConfig, SigmaConfig, check_config, transformer_config

FREQUENCIES = 256  # numbers that a diffusion transformer is told the time by


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
class MaskedConfig:
    """An any-order model's shape, evaluated as masked diffusion (`scorers.masked`)."""

    base: RandARConfig

    screens: ClassVar[Mapping[str, tuple[float, float]]] = {}
    steps: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    joint: ClassVar[bool] = False

    def draws(self, name: str, steps: int) -> ContextSampler:
        """Contexts by this sampler. Raises ValueError."""
        return ContextSampler(name, self.base.n_tokens)

    def flops(self, steps: int = 1, classes: int = 1) -> float:
        """Of one burst: as a pass over a whole order, whatever is revealed."""
        return self.base.flops(None, classes)


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


PEERS = {
    "raster": RasterConfig,
    "discriminative": DiscriminativeConfig,
    "head": HeadConfig,
    "diffusion": DiTConfig,
}
FOLDERS = (*LAYOUTS, *PEERS)  # what a model's folder may hold: `layout` of its model.json
PeerConfig = RasterConfig | DiscriminativeConfig | HeadConfig | DiTConfig


def shape_of(layout: str, fields: Mapping[str, Any]) -> RandARConfig | PeerConfig:
    """The shape of a model in a folder. Raises ValueError for an unknown layout, TypeError for fields that
    such a shape has not."""
    if layout in PEERS:
        found: PeerConfig = PEERS[layout].from_dict(fields)  # type: ignore[attr-defined]
        return found
    return transformer_config(layout, fields)


def check_shape(shape: RandARConfig | PeerConfig) -> None:
    """Raises ValueError for one that cannot be built."""
    if isinstance(shape, DiscriminativeConfig):
        shape = shape.blocks
    if isinstance(shape, RandARConfig):
        check_config(shape)
    elif isinstance(shape, DiTConfig) and (shape.dim % shape.n_head or shape.dim % 4 or not shape.grid):
        raise ValueError(
            f"dim {shape.dim} must be n_head {shape.n_head} × a whole number, and a multiple of 4"
        )
    elif isinstance(shape, HeadConfig) and math.isqrt(shape.n_tokens) ** 2 != shape.n_tokens:
        raise ValueError(f"n_tokens must be a square, got {shape.n_tokens}")
