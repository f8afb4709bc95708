"""Discriminative models on the same tokens: one pass gives every class its log p(class | tokens)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.scorers.any_order import token_ids
from anytime_cls.scorers.base import Piece, Screen
from anytime_cls.scorers.peers import DiscriminativeConfig, HeadConfig
from anytime_cls.scorers.shapes import check_config
from anytime_cls.scorers.transformer import Block, RMSNorm, Rotary, init_weights, rotary_table
from anytime_cls.tokenizers.base import Tokenizer

Array = np.ndarray


def attend(layer: Block, x: Tensor, rotary: Rotary, mask: Tensor | None = None) -> Tensor:
    """A block in which every position sees those that the mask says (True: may look), or all.

    x [B, T, dim], mask bool, broadcast to [B, H, T, T] → [B, T, dim].
    """
    attention = layer.attention
    qkv = attention.wqkv(layer.attention_norm(x)).unflatten(-1, (3, attention.n_head, attention.head_dim))
    turned = rotary(qkv[:, :, :2]).type_as(qkv)
    q, k, v = (part.transpose(1, 2) for part in (turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    x = x + attention.wo(y)
    found: Tensor = x + layer.feed_forward(layer.ffn_norm(x))
    return found


@final
class Discriminative(nn.Module):
    """The any-order models' blocks, every position seeing all, with a class output on their mean."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: DiscriminativeConfig):
        super().__init__()
        blocks = config.blocks
        grid = check_config(blocks)
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.n_tokens, config.dim)
        self.layers = nn.ModuleList(Block(blocks) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.n_classes, bias=False)
        cos, sin = rotary_table(grid, blocks.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        init_weights(self, self.output)

    def forward(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """Token ids int64 [B, m] at places int64 [B, m], all N in raster order by default → logits [B, C]."""
        if places is None:
            places = torch.arange(self.config.n_tokens, device=tokens.device).expand(len(tokens), -1)
        x = self.tok_embeddings(tokens) + self.positions(places)
        rotary = Rotary(self.cos[places][:, :, None, None], self.sin[places][:, :, None, None])
        for layer in self.layers:
            assert isinstance(layer, Block)
            x = attend(layer, x, rotary)
        found: Tensor = self.output(self.norm(x).mean(dim=1))
        return found


@final
class Head(nn.Module):
    """A small read-out beside a tokenizer: two 3 × 3 convolutions over its tokens, a mean, a class output."""

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config, width = config, config.width
        self.tok_embeddings = nn.Embedding(config.vocab_size, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.output = nn.Linear(width, config.n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids int64 [B, N] → logits [B, C]."""
        side = round(self.config.n_tokens**0.5)
        x = self.tok_embeddings(tokens).mT.unflatten(2, (side, side))
        x = F.relu(self.first(x)) + x
        x = F.relu(self.second(x)) + x
        found: Tensor = self.output(x.mean((2, 3)))
        return found


@final
class Reader:
    """Either of the two and its tokenizer as a scorer. An `Encoded` is token ids int64 [N], raster order."""

    def __init__(self, net: Discriminative | Head, tokenizer: Tokenizer):
        self.net, self.tokenizer = net, tokenizer
        self._weight = net.output.weight
        self.screens: Mapping[str, Screen] = {}

    @property
    def shape(self) -> DiscriminativeConfig | HeadConfig:
        """The net's."""
        return self.net.config

    @property
    def device(self) -> str:
        return str(self._weight.device)

    @property
    def dtype(self) -> str:
        return str(self._weight.dtype).removeprefix("torch.")

    def width(self, steps: int) -> int:
        """Tokens of an image."""
        return self.net.config.n_tokens

    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[Array]:
        """Token ids of uint8 [I, S, S, 3]."""
        return token_ids(self.tokenizer, self._weight.device, crops, noise, keys)

    @torch.inference_mode()
    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """log p(class | tokens) among all of the model's classes, of those that were asked for: one image at
        a time, so that no bit depends on a batch."""
        found = []
        for piece in pieces:
            tokens = torch.from_numpy(piece.encoded)[None].to(self._weight.device)
            log_p = self.net(tokens)[0].float().log_softmax(0).cpu().numpy().astype(np.float64)
            found.append(log_p[piece.classes][:, None].repeat(len(at), axis=1))
        return found
