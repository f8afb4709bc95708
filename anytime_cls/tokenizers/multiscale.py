"""VAR's tokenizer: the same residual described at ten resolutions, each by a grid of codes.

Tian et al., *Visual Autoregressive Modeling*, NeurIPS 2024, https://arxiv.org/abs/2404.02905. What the scales
before have not described is averaged to a scale's grid, every place takes its nearest code, and the codes,
enlarged and smoothed (φ), are what that scale describes.

Architecture: models/vqvae.py, quant.py and basic_vae.py of github.com/FoundationVision/VAR (MIT). Its
encoder is LlamaGen's under other names (:func:`renamed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.tokenizers.base import with_noise
from anytime_cls.tokenizers.vq import Encoder, VQConfig, nearest_code

SMOOTHED = 0.5  # share of φ's convolution in what a scale describes; the rest are the codes


class Scales(NamedTuple):
    """A picture in codes. codes : int64 [B, L], coarse scales first, each in raster order. seen : float32
    [B, L − 1, D], what is described before each code but the first, at its place and its scale's size."""

    codes: Tensor
    seen: Tensor


@final
class MultiScaleTokenizer(nn.Module):
    """Pixels [B, 3, S, S] in [-1, 1] → codes at `sides`, of which the last is S / 16 (published sizes)."""

    pixel_range = (-1.0, 1.0)

    def __init__(self, config: VQConfig, sides: Sequence[int], n_phi: int):
        super().__init__()
        self.config, self.sides = config, tuple(sides)
        self.encoder = Encoder(config, maskgit=False)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_dim, 3, padding=1)
        self.embedding = nn.Embedding(config.vocab_size, config.code_dim)
        self.phi = nn.ModuleList(
            nn.Conv2d(config.code_dim, config.code_dim, 3, padding=1) for _ in range(n_phi)
        )
        # the reference shares few φ among the scales: the one whose tick is nearest to the scale's share
        first = 1 / (3 if n_phi == 4 else 2) / n_phi
        ticks = np.linspace(first, 1 - first, n_phi)
        last = max(1, len(self.sides) - 1)
        self._phi_of = [int(np.argmin(np.abs(ticks - k / last))) for k in range(len(self.sides))]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[D, h, w] of what is described."""
        return self.config.code_dim, self.sides[-1], self.sides[-1]

    @torch.no_grad()
    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Scales:
        """Pixels [B, 3, S, S] → codes. noise, normal: latent noise (`base.with_noise`), before any of it."""
        rest = with_noise(self.quant_conv(self.encoder(pixels.float())), noise, normal)
        described = torch.zeros_like(rest)
        codes, seen = [], []
        for k, side in enumerate(self.sides):
            if k:
                seen.append(F.interpolate(described, size=(side, side), mode="area").flatten(2).mT)
            small = rest if k == len(self.sides) - 1 else F.interpolate(rest, size=(side, side), mode="area")
            rows = small.permute(0, 2, 3, 1).flatten(0, 2)
            found = nearest_code(rows, self.embedding.weight).view(len(pixels), side * side)
            codes.append(found)
            part = self._described(found, k)
            described, rest = described + part, rest - part
        return Scales(torch.cat(codes, dim=1), torch.cat(seen, dim=1))

    def _described(self, codes: Tensor, k: int) -> Tensor:
        """What a scale's codes describe: int64 [B, side²] → [B, D, h, w]."""
        side, whole = self.sides[k], self.sides[-1]
        grid = self.embedding(codes).mT.unflatten(2, (side, side))
        if k < len(self.sides) - 1:
            grid = F.interpolate(grid, size=(whole, whole), mode="bicubic")
        smooth: Tensor = self.phi[self._phi_of[k]](grid)
        described: Tensor = (1 - SMOOTHED) * grid + SMOOTHED * smooth
        return described


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoding part of a state dict with VAR's names, under ours."""
    found = {}
    for name, value in state.items():
        if name.startswith(("encoder.", "quant_conv.")):
            ours = name.replace("encoder.down.", "encoder.conv_blocks.").replace(".block.", ".res.")
            for i, part in enumerate(("block_1", "attn_1", "block_2")):
                ours = ours.replace(f"encoder.mid.{part}.", f"encoder.mid.{i}.")
            if ".qkv." in ours:
                for letter, rows in zip("qkv", value.chunk(3), strict=True):
                    found[ours.replace(".qkv.", f".{letter}.")] = rows
            else:
                found[ours] = value
        elif name == "quantize.embedding.weight":
            found["embedding.weight"] = value
        elif name.startswith("quantize.quant_resi.qresi_ls."):
            found[name.replace("quantize.quant_resi.qresi_ls.", "phi.")] = value
    return found
