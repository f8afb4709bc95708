"""LlamaGen's GPT: log p(x | class), token by token, left to right and top to bottom.

Sun et al., *Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation*, 2024,
https://arxiv.org/abs/2406.06525. The sequence is [class, x_1, ..., x_(N−1)], attention is causal, and x_n is
predicted where x_(n−1) is read. A token's queries and keys turn with its place, the class's vanish.

State dicts use the keys of `autoregressive/models/gpt.py` of github.com/FoundationVision/LlamaGen (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from anytime_cls.scorers.layout import from_reference, to_reference
from anytime_cls.scorers.peers import RasterConfig
from anytime_cls.scorers.shapes import check_config
from anytime_cls.scorers.transformer import (
    Block,
    RMSNorm,
    Rotary,
    class_vectors,
    init_weights,
    rotary_table,
    run_layers,
    score_tokens,
)


@final
class RasterGPT(nn.Module):
    """Class-conditional raster-order model with :class:`~anytime_cls.scorers.randar.RandAR`'s interface."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: RasterConfig):
        super().__init__()
        grid = check_config(config)
        self.config = config
        self.cls_embedding = nn.Embedding(config.n_classes + 1, config.dim)  # the last row is the null class
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        cos, sin = rotary_table(grid, config.head_dim, config.rope_base)
        self.register_buffer(
            "cos", cos.roll(1, 0), persistent=False
        )  # [1 + N, head_dim / 2], the class's first
        self.register_buffer("sin", sin.roll(1, 0), persistent=False)
        init_weights(self, self.output)

    def hidden(self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None) -> Tensor:
        """Final states, one a predicted token: [B, m, dim], m = prefix or N. Arguments as for `forward`."""
        m = self.config.n_tokens if prefix is None else prefix
        if not 1 <= m <= self.config.n_tokens:
            raise ValueError(f"prefix must be 1 to {self.config.n_tokens}, got {prefix}")
        first = class_vectors(self.cls_embedding, classes)[:, None]
        x = torch.cat((first, self.tok_embeddings(tokens[:, : m - 1])), dim=1)
        angle = (slice(None, m), None, None)
        rotary = Rotary(*(part[angle].expand(len(x), -1, -1, -1, -1) for part in (self.cos, self.sin)))
        found: Tensor = self.norm(run_layers(self.layers, x, rotary, None, self.config))
        return found

    def token_log_probs(
        self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None
    ) -> Tensor:
        """log p(x_t | x_<t, class) for t = 1 .. m, in nats: float32 [B, m].

        tokens : int64 [B, N], ids in raster order. classes : int64 [B], 0 .. C (C is the null class).
        orders : int64 [B, N], 0 .. N − 1 in every row, the only one there is. prefix : m; N by default
        """
        return score_tokens(self.output, self.hidden(tokens, classes, orders, prefix), tokens, orders)

    forward = token_log_probs

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with LlamaGen's keys. Raises ValueError naming what is wrong."""
        self.load_state_dict(from_reference(self.reference_state(), state, self.config))

    def reference_state(self) -> dict[str, Tensor]:
        """The weights under LlamaGen's keys and layout."""
        return to_reference(self.state_dict(), self.config)
