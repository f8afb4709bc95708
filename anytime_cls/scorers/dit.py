"""A small diffusion transformer (DiT) on a tokenizer's continuous latents: a velocity for every class.

Peebles & Xie, *Scalable Diffusion Models with Transformers*, ICCV 2023, https://arxiv.org/abs/2212.09748:
blocks whose norms are scaled, shifted and gated by (t, class), all gates 0 at first (adaLN-zero). It is
trained on straight paths, as SiT is (Ma et al., ECCV 2024, https://arxiv.org/abs/2401.08740):

    z_t = (1 − t) z + t ε,    velocity v = ε − z,    t from 0 (data) to 1 (noise)

so that ẑ = z_t − t v̂ (`scorers.diffusion.Straight`).
"""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.scorers.peers import FREQUENCIES, DiTConfig
from anytime_cls.tokenizers.base import Tokenizer, with_noise

LOSS = "data"  # scores are of the latent that the velocity leads back to (`scorers.diffusion.LOSSES`)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B, T, dim] normalised, times 1 + scale, plus shift ([B, dim] each)."""
    normal = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normal * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Attention and a GELU network, each modulated and gated by the condition."""

    def __init__(self, dim: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.modulation = nn.Linear(dim, 6 * dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, T, dim], condition [B, dim] (after SiLU) → [B, T, dim]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).chunk(6, dim=1)
        b, t, dim = x.shape
        qkv = self.qkv(_modulate(x, shift_a, scale_a)).view(b, t, 3, self.n_head, dim // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate_a[:, None] * self.proj(y)
        y = self.fc2(F.gelu(self.fc1(_modulate(x, shift_m, scale_m)), approximate="tanh"))
        found: Tensor = x + gate_m[:, None] * y
        return found


@final
class DiT(nn.Module):
    """Latents on their way to noise, times and classes in, velocities out.

    Latents [B, D, g, g] are as the tokenizer gives them: `standardised` makes every channel's mean 0 and its
    deviation 1 first, by numbers that are part of the weights.
    """

    mean: Tensor  # [D, 1, 1], of the latents that it was trained on
    deviation: Tensor  # [D, 1, 1]
    places: Tensor  # [N, dim], sines and cosines of row and column

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config, dim = config, config.dim
        grid = config.grid
        self.embed = nn.Linear(config.channels, dim)
        self.time1 = nn.Linear(FREQUENCIES, dim)
        self.time2 = nn.Linear(dim, dim)
        self.cls_embedding = nn.Embedding(config.n_classes + 1, dim)  # the last row is the null class
        self.layers = nn.ModuleList(DiTBlock(dim, config.n_head) for _ in range(config.n_layer))
        self.modulation = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, config.channels)
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(config.channels, 1, 1))
        self.register_buffer("places", sines(grid, dim), persistent=False)
        self._init()

    def _init(self) -> None:
        """As the reference begins: Xavier, gates and output 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for normal in (self.cls_embedding, self.time1, self.time2):
            nn.init.normal_(normal.weight, std=0.02)
        for layer in (*self.layers, self):
            nn.init.zeros_(layer.modulation.weight)
        nn.init.zeros_(self.output.weight)

    def standardised(self, latents: Tensor) -> Tensor:
        """Of mean 0 and deviation 1 a channel: [B, D, g, g] → same."""
        return (latents - self.mean) / self.deviation

    def forward(self, noisy: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """Velocities: standardised z_t [B, D, g, g], t [B] in [0, 1], classes int64 [B] → [B, D, g, g]."""
        dtype = self.embed.weight.dtype
        x = self.embed(noisy.flatten(2).mT.to(dtype)) + self.places
        steps = self.time2(F.silu(self.time1(frequencies(t).to(dtype))))
        condition = F.silu(steps + self.cls_embedding(classes))
        for layer in self.layers:
            x = layer(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        found: Tensor = self.output(_modulate(x, shift, scale)).mT.unflatten(2, noisy.shape[2:])
        return found


@final
class Latents:
    """A tokenizer's continuous latents, standardised, for `scorers.diffusion.LatentDiffusion`."""

    def __init__(self, tokenizer: Tokenizer, net: DiT):
        self.tokenizer = tokenizer
        self._mean, self._deviation = net.mean.float(), net.deviation.float()

    @property
    def pixel_range(self) -> tuple[float, float]:
        return self.tokenizer.pixel_range

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.tokenizer.latent_shape

    def encode(self, pixels: Tensor, noise: float = 0.0, normal: Tensor | None = None) -> Tensor:
        """Pixels [B, 3, S, S] → float32 [B, *latent_shape]. noise, normal: as `with_noise` takes them."""
        latents = with_noise(self.tokenizer.features(pixels), noise, normal)
        return (latents - self._mean) / self._deviation


def frequencies(t: Tensor) -> Tensor:
    """Cosines and sines of 1000 t: float [B] → float32 [B, FREQUENCIES], as DiT's."""
    half = FREQUENCIES // 2
    rates = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = 1000.0 * t.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def sines(grid: int, dim: int) -> Tensor:
    """Sines and cosines of every place's column and row: float32 [grid², dim], as DiT's."""
    quarter = dim // 4
    rates = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.outer(torch.arange(grid, dtype=torch.float64), rates)
    parts = torch.cat((angles.sin(), angles.cos()), dim=1)  # [grid, dim / 2]
    columns = parts[None].expand(grid, grid, -1)
    rows = parts[:, None].expand(grid, grid, -1)
    return torch.cat((columns, rows), dim=2).flatten(0, 1).float()
