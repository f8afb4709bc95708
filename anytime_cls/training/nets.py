"""Fit an :class:`~anytime_cls.tokenizers.fsq.FSQTokenizer`: reconstruction, and optionally a class head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.tokenizers.fsq import FSQConfig


class PixelDecoder(nn.Module):
    """One small pixel-shuffle decoder: codes [B, n_codes, g, g] → pixels [B, 3, S, S]."""

    def __init__(self, config: FSQConfig, width: int = 64):
        super().__init__()
        scale = config.image_size // config.grid
        self.net = nn.Sequential(
            nn.Conv2d(len(config.levels), width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 3 * scale**2, 1),
            nn.PixelShuffle(scale),
        )

    def forward(self, codes: Tensor) -> Tensor:
        pixels: Tensor = self.net(codes)
        return pixels


class ClassHead(nn.Module):
    """A small head on the quantised map; it is thrown away after training.

    It sees each token through a small per-token network and averages, so that the class signal it
    asks for ends up in single tokens, where the transformer can use it: codes → logits [B, C].
    """

    def __init__(self, config: FSQConfig, n_classes: int, width: int = 256):
        super().__init__()
        self.token = nn.Sequential(
            nn.Conv2d(len(config.levels), width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.out = nn.Linear(width, n_classes)

    def forward(self, codes: Tensor) -> Tensor:
        logits: Tensor = self.out(self.token(codes).mean((2, 3)))
        return logits


def augment(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Random crop after reflect padding, and horizontal flip: uint8 [B, 3, S, S] → same."""
    b, _, s, _ = images.shape
    at = images.device  # the generator's
    padded = F.pad(images.float(), (pad,) * 4, mode="reflect").to(torch.uint8)
    dy, dx = torch.randint(0, 2 * pad + 1, (2, b), generator=generator, device=at)
    flip = torch.rand(b, generator=generator, device=at) < 0.5
    cols = torch.arange(s, device=at).expand(b, s)
    cols = torch.where(flip[:, None], s - 1 - cols, cols) + dx[:, None]
    rows = torch.arange(s, device=at).expand(b, s) + dy[:, None]
    batch = torch.arange(b, device=at)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def to_range(images: Tensor, pixel_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """uint8 [B, 3, S, S] → float in `pixel_range`, channels last."""
    low, high = pixel_range
    return (images.float() / (255 / (high - low)) + low).contiguous(memory_format=torch.channels_last)
