"""The embedded model's tokenizer: a small residual encoder with finite scalar quantisation.

Finite scalar quantisation (FSQ): Mentzer et al., *Finite Scalar Quantization: VQ-VAE Made Simple*,
ICLR 2024, https://arxiv.org/abs/2309.15505. No codebook is learned: every channel of the encoder's
output is squashed and rounded to a few levels, and the token id is the mixed-radix number they spell.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anytime_cls.tokenizers.base import with_noise


@dataclass(frozen=True)
class FSQConfig:
    """Shape of an :class:`FSQTokenizer`; stored in a model's JSON."""

    image_size: int = 32  # pixels a side
    widths: tuple[int, ...] = (48, 96, 192)  # channels of each stage; every stage after the first halves
    blocks: tuple[int, ...] = (1, 1, 1)  # residual blocks of each stage
    levels: tuple[int, ...] = (8, 8, 8)  # quantisation levels of each code channel; vocabulary = product

    @property
    def vocab_size(self) -> int:
        return math.prod(self.levels)

    @property
    def grid(self) -> int:
        """Tokens a side."""
        found: int = self.image_size // 2 ** (len(self.widths) - 1)
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FSQConfig:
        return cls(
            image_size=int(fields["image_size"]),
            widths=tuple(fields["widths"]),
            blocks=tuple(fields["blocks"]),
            levels=tuple(fields["levels"]),
        )


def _conv_norm(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(n_out)
    )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm and an identity shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.first = _conv_norm(width, width)
        self.second = _conv_norm(width, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, width, H, W] -> same
        return F.relu(x + self.second(F.relu(self.first(x), inplace=True)), inplace=True)


class FSQTokenizer(nn.Module):
    """Pixels [B, 3, S, S] in [-1, 1] → token ids [B, (S/4)²] for three stages."""

    pixel_range = (-1.0, 1.0)
    levels: Tensor
    radix: Tensor

    def __init__(self, config: FSQConfig):
        super().__init__()
        self.config = config
        stages: list[nn.Module] = []
        n_in = 3
        for i, (width, n_blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            stages += [_conv_norm(n_in, width, stride=2 if i else 1), nn.ReLU(inplace=True)]
            stages += [ResidualBlock(width) for _ in range(n_blocks)]
            n_in = width
        self.encoder = nn.Sequential(*stages)
        self.to_code = nn.Conv2d(n_in, len(config.levels), 1)
        levels = torch.tensor(config.levels, dtype=torch.float32)
        # radix i is the product of the levels before it
        radix = torch.cumprod(torch.cat([torch.ones(1), levels[:-1]]), 0)
        self.register_buffer("levels", levels.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("radix", radix.long().view(1, -1, 1, 1), persistent=False)

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def n_tokens(self) -> int:
        return self.config.grid**2

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[n_codes, g, g] of what is squashed and rounded."""
        return len(self.config.levels), self.config.grid, self.config.grid

    def folded(self) -> FSQTokenizer:
        """This tokenizer, in eval mode and faster, for tokenising only: every batch norm becomes part of its
        convolution. The weights are then others than a training run or a file has."""
        self.eval()
        for parent in [*self.encoder.modules()]:
            for name, pair in [*parent.named_children()]:
                if isinstance(pair, nn.Sequential) and isinstance(norm := pair[-1], nn.BatchNorm2d):
                    folded = fuse_conv_bn_eval(cast(nn.Conv2d, pair[0]), norm)
                    folded.weight.data = folded.weight.data.contiguous(memory_format=torch.channels_last)
                    setattr(parent, name, folded)
        return self

    def features(self, pixels: Tensor) -> Tensor:
        """Encoder output before it is squashed: pixels [B, 3, S, S] → float32 [B, n_codes, g, g]."""
        found: Tensor = self.to_code(self.encoder(pixels)).float()
        return found

    def bounded(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Encoder output squashed to [0, level − 1] a channel, before rounding: [B, n_codes, g, g].

        noise, normal: latent noise (`base.with_noise`) on the encoder's output, before it is squashed.
        """
        z = with_noise(self.features(pixels), noise, normal)
        return (torch.tanh(z) + 1) / 2 * (self.levels - 1)

    def quantise(self, pixels: Tensor) -> Tensor:
        """Codes in [-1, 1] with a straight-through gradient: [B, n_codes, g, g]."""
        z = self.bounded(pixels)
        rounded = z + (z.round() - z).detach()
        return rounded / (self.levels - 1) * 2 - 1

    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Token ids in raster order: pixels [B, 3, S, S] → [B, g²] int64. noise, normal: as `bounded`."""
        digits = self.bounded(pixels, noise, normal).round().long()
        return (digits * self.radix).sum(1).flatten(1)
