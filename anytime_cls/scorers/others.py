"""The shapes of other people's models. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from anytime_cls.draws.levels import LevelSampler, Once
from anytime_cls.scorers.peers import DiTConfig


@dataclass(frozen=True)
class LatentConfig:
    """A diffusion transformer on an autoencoder's latents. XL/2 for 256 pixels: dim 1152, 28 layers, 16
    heads, patches of 2 in latents [4, 32, 32]."""

    dim: int
    n_layer: int
    n_head: int
    patch: int  # places a side of what one position reads
    size: int  # places a side of a latent
    channels: int  # of a latent
    predicted: int  # channels of the output: those of a latent, or twice as many
    n_classes: int

    screens: ClassVar[Mapping[str, tuple[float, float]]] = {}
    steps: ClassVar[int] = 1
    unit: ClassVar[str] = "loss"
    joint: ClassVar[bool] = False

    @property
    def positions(self) -> int:
        """Patches of a latent."""
        return (self.size // self.patch) ** 2

    def draws(self, name: str, steps: int) -> LevelSampler:
        """Times and noises by this sampler. Raises ValueError."""
        return LevelSampler(name, (self.channels, self.size, self.size))

    def flops(self, steps: int = 1, classes: int = 1) -> float:
        """Multiply-adds × 2 of one draw, for each class."""
        in_and_out = self.patch**2 * (self.channels + self.predicted)
        own = DiTConfig(self.dim, self.n_layer, self.n_head, 1, self.positions, self.n_classes)
        return own.flops(steps, classes) + classes * self.positions * 2.0 * self.dim * (in_and_out - 2)


@dataclass(frozen=True)
class OnePassConfig:
    """Shape of a network that reads a picture once. of_pass: multiply-adds × 2 of that."""

    of_pass: float
    n_classes: int

    screens: ClassVar[Mapping[str, tuple[float, float]]] = {}
    steps: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    joint: ClassVar[bool] = True

    def draws(self, name: str, steps: int) -> Once:
        """The only one there is, whatever its name."""
        return Once(name)

    def flops(self, steps: int = 1, classes: int = 1) -> float:
        """Of the pass, whatever the classes."""
        return self.of_pass


@dataclass(frozen=True)
class ScaleConfig:
    """Shape of a :class:`~anytime_cls.scorers.next_scale.VAR`. d16: dim 1024, 16 layers, 16 heads."""

    dim: int
    n_layer: int
    n_head: int
    vocab_size: int
    code_dim: int
    sides: tuple[int, ...]  # places a side of every scale
    n_classes: int

    screens: ClassVar[Mapping[str, tuple[float, float]]] = {}
    unit: ClassVar[str] = "nats"
    joint: ClassVar[bool] = False

    @property
    def steps(self) -> int:
        """Scales of a picture."""
        return len(self.sides)

    def positions(self, steps: int) -> int:
        """Codes of the first scales."""
        return sum(side * side for side in self.sides[:steps])

    def draws(self, name: str, steps: int) -> Once:
        """From coarse to fine, once. Raises ValueError for an order that it was never trained on."""
        if name not in ("uniform", "raster"):
            raise ValueError(f"this model reads scales from coarse to fine only, not in {name!r} orders")
        return Once(name, steps)

    def flops(self, steps: int | None = None, classes: int = 1) -> float:
        """Multiply-adds × 2 of the first scales, for each class; of attention only what is looked at."""
        sides = self.sides[: self.steps if steps is None else steps]
        n, looks = self.positions(len(sides)), 0
        for k, side in enumerate(sides):
            looks += side * side * self.positions(k + 1)
        block = n * 24 * self.dim**2 + 4 * self.dim * looks + 12 * self.dim**2
        ends = 2 * n * self.dim * (self.vocab_size + self.code_dim) + 4 * self.dim**2
        return classes * float(self.n_layer * block + ends)
