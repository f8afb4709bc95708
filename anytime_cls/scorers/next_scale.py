"""VAR: log p(codes of a scale | all coarser scales, class), ten scales of one picture.

Tian et al., *Visual Autoregressive Modeling*, NeurIPS 2024, https://arxiv.org/abs/2404.02905. All codes of a
scale are predicted at once, from what the coarser scales describe at its size; a position sees its own scale
and those before it. There is one such order, so its scales are the steps of the only draw; latent noise makes
more draws.

Modules carry the names of models/var.py and basic_var.py of github.com/FoundationVision/VAR (MIT).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.draws.keyed import normal
from anytime_cls.pixels.crops import scaled
from anytime_cls.scorers.base import Piece, Screen
from anytime_cls.scorers.others import ScaleConfig
from anytime_cls.scorers.transformer import score_tokens
from anytime_cls.tokenizers.multiscale import MultiScaleTokenizer

Array = np.ndarray
SHARPEST = math.log(100)  # of a head's learned log temperature
EPSILON = 1e-6


class SelfAttention(nn.Module):
    """Queries and keys of unit length, and a temperature for every head."""

    def __init__(self, dim: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, n_head, 1, 1), math.log(4.0)))
        self.mat_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, dim], mask bool [T, T] (True: may look) → [B, T, dim]."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.mat_qkv.weight, bias).unflatten(2, (3, self.n_head, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(SHARPEST).exp()
        y = F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, attn_mask=mask, scale=1.0)
        found: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    """Attention and a GELU network, each scaled, shifted and gated by the class."""

    def __init__(self, dim: int, n_head: int):
        super().__init__()
        self.attn = SelfAttention(dim, n_head)
        self.ffn = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, dim], condition [B, dim] → [B, T, dim]."""
        gate_a, gate_f, scale_a, scale_f, shift_a, shift_f = self.ada_lin(condition)[:, None].chunk(6, dim=2)
        x = x + gate_a * self.attn(_modulated(x, scale_a, shift_a), mask)
        y = self.ffn["fc2"](F.gelu(self.ffn["fc1"](_modulated(x, scale_f, shift_f)), approximate="tanh"))
        found: Tensor = x + gate_f * y
        return found


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale) + shift


@final
class VAR(nn.Module):
    """Codes, what is described before them, and classes in; log-probabilities out."""

    level: Tensor  # int64 [L], the scale of every position

    def __init__(self, config: ScaleConfig):
        super().__init__()
        self.config, dim = config, config.dim
        self.word_embed = nn.Linear(config.code_dim, dim)
        self.class_emb = nn.Embedding(config.n_classes + 1, dim)  # the last row is the null class
        self.pos_start = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_1LC = nn.Parameter(torch.zeros(1, config.positions(config.steps), dim))
        self.lvl_embed = nn.Embedding(config.steps, dim)
        self.blocks = nn.ModuleList(Block(dim, config.n_head) for _ in range(config.n_layer))
        self.head_nm = nn.ModuleDict({"ada_lin": nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))})
        self.head = nn.Linear(dim, config.vocab_size)
        level = torch.cat([torch.full((side * side,), k) for k, side in enumerate(config.sides)])
        self.register_buffer("level", level, persistent=False)

    def forward(self, codes: Tensor, seen: Tensor, classes: Tensor, scales: int | None = None) -> Tensor:
        """log p of the codes of the first scales, in nats: float32 [B, positions].

        codes : int64 [B, L]. seen : [B, L − 1, D], what is described before each code but the first.
        classes : int64 [B], 0 .. C (C is the null class). scales : all by default
        """
        n = self.config.positions(self.config.steps if scales is None else scales)
        condition = self.class_emb(classes)
        level = self.level[:n]
        first = condition[:, None] + self.pos_start
        x = torch.cat((first, self.word_embed(seen[:, : n - 1].to(first.dtype))), dim=1)
        x = x + self.lvl_embed(level) + self.pos_1LC[:, :n]
        mask = level[:, None] >= level
        for block in self.blocks:
            x = block(x, condition, mask)
        scale, shift = self.head_nm["ada_lin"](condition)[:, None].chunk(2, dim=2)
        x = _modulated(x, scale, shift)
        order = torch.arange(n, device=codes.device).expand(len(codes), -1)
        return score_tokens(self.head, x, codes, order)


class Encoded(NamedTuple):
    """A picture: codes int64 [L], and float32 [L − 1, D] of what is described before each but the first."""

    codes: Array
    seen: Array


@final
class NextScale:
    """A VAR and its tokenizer as a scorer, in eval mode on their device."""

    def __init__(self, model: VAR, tokenizer: MultiScaleTokenizer):
        self.model, self.tokenizer, self.shape = model, tokenizer, model.config
        self._weight = model.head.weight
        self.screens: Mapping[str, Screen] = {}

    @property
    def device(self) -> str:
        return str(self._weight.device)

    @property
    def dtype(self) -> str:
        return str(self._weight.dtype).removeprefix("torch.")

    def width(self, steps: int) -> int:
        return self.shape.positions(steps)

    @torch.inference_mode()
    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[Encoded]:
        """Codes of uint8 [I, S, S, 3], one image at a time: rounding cannot depend on a batch."""
        found = []
        for i, crop in enumerate(crops):
            pixels = torch.from_numpy(scaled(crop, self.tokenizer.pixel_range))[None].to(self._weight.device)
            drawn = None
            if noise > 0:
                drawn = torch.from_numpy(normal(keys[i], self.tokenizer.latent_shape))[None]
            codes, seen = self.tokenizer.encode(pixels, noise, drawn)
            found.append(Encoded(codes[0].cpu().numpy(), seen[0].cpu().numpy()))
        return found

    @torch.inference_mode()
    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """Running log-likelihoods in nats after so many scales, as `AnyOrder.score` sums them."""
        sizes = [len(piece.classes) for piece in pieces]
        device = self._weight.device
        rows = torch.from_numpy(np.repeat(np.arange(len(pieces)), sizes)).to(device)
        codes, seen = (
            torch.from_numpy(np.stack(parts)).to(device)[rows]
            for parts in zip(*(piece.encoded for piece in pieces), strict=True)
        )
        classes = torch.from_numpy(np.concatenate([piece.classes for piece in pieces])).to(device)
        log_p = self.model(codes, seen, classes, at[-1]).float().cpu().numpy()
        sums = np.cumsum(log_p, axis=1, dtype=np.float64).astype(np.float32).astype(np.float64)
        ends = np.array([self.shape.positions(steps) - 1 for steps in at])
        return np.split(sums[:, ends], np.cumsum(sizes)[:-1])
