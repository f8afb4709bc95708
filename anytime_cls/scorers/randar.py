"""The any-order autoregressive transformer (RandAR): log p(x | order, class), token by token.

Pang et al., *RandAR: Decoder-only Autoregressive Visual Generation in Random Orders*, CVPR 2025,
https://arxiv.org/abs/2412.01827. The sequence interleaves position tokens and image tokens,

    [class, p_1, x_1, p_2, x_2, ..., p_N, x_N],

attention is causal, and the prediction of x_n is read at p_n, which knows *where* the next token is
but not *what* it is. x_N predicts nothing, so it is never fed.

State dicts use the reference's keys. Inside, two weights are laid out for speed (see `scorers.layout`).

On a CPU without gradients the layers write over what they read (`Block.overwrite`): fresh memory for every
product costs page faults, and every pass over it a trip to main memory (measured in docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from anytime_cls.scorers.layout import from_reference, to_reference
from anytime_cls.scorers.shapes import RandARConfig, check_config
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


class RandAR(nn.Module):
    """Class-conditional any-order model: tokens, classes and orders in, log-probabilities out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: RandARConfig):
        super().__init__()
        grid = check_config(config)
        self.config = config
        self.cls_embedding = nn.Embedding(config.n_classes + 1, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.pos_instruct_embeddings = nn.Parameter(torch.randn(1, config.dim) * 0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        cos, sin = rotary_table(grid, config.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)  # [N + 1, head_dim / 2]; the last row is
        self.register_buffer("sin", sin, persistent=False)  # the class token's, all zero
        init_weights(self, self.output)

    def position_tokens(self) -> Tensor:
        """The learned position vector turned to each of the N places: [N, dim]."""
        cfg = self.config
        pairs = self.pos_instruct_embeddings.view(1, cfg.n_head, cfg.head_dim // 2, 2)
        a, b = pairs.unbind(-1)
        cos, sin = self.cos[:-1, None], self.sin[:-1, None]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(1)

    def hidden(self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None) -> Tensor:
        """Final states at the position tokens.

        Parameters
        ----------
        tokens : int64 [B, N], token ids in raster order
        classes : int64 [B], 0 .. C (C is the null class); or float [B, dim], embeddings in their place
        orders : int64 [B, N], each row a permutation of 0 .. N−1
        prefix : score only the first `prefix` tokens of each order

        Returns
        -------
        Tensor [B, m, dim], m = prefix or N
        """
        m = self.config.n_tokens if prefix is None else prefix
        if not 1 <= m <= self.config.n_tokens:
            raise ValueError(f"prefix must be 1 to {self.config.n_tokens}, got {prefix}")
        b = tokens.shape[0]
        orders = orders[:, :m]
        images = self.tok_embeddings(tokens.gather(1, orders))  # [B, m, dim]
        positions = self.position_tokens()[orders].type_as(images)
        pairs = torch.stack((positions, images), dim=2).flatten(1, 2)  # p_1, x_1, p_2, x_2, ...
        x = torch.cat(
            (class_vectors(self.cls_embedding, classes)[:, None], pairs[:, :-1]), dim=1
        )  # [B, 2m, dim]

        # a position token and the image token it announces share an angle; the class token has none
        angle = orders.repeat_interleave(2, dim=1)[:, :-1]
        angle = torch.cat((angle.new_full((b, 1), self.config.n_tokens), angle), dim=1)
        rotary = Rotary(self.cos[angle][:, :, None, None], self.sin[angle][:, :, None, None])
        # nothing reads the last layer's image tokens: its queries are the position tokens alone
        key = torch.arange(2 * m, device=x.device)
        found: Tensor = self.norm(
            run_layers(self.layers, x, rotary, key[None, :] <= key[1::2, None], self.config)
        )
        return found

    def token_log_probs(
        self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None
    ) -> Tensor:
        """log p(x_π(t) | x_π(<t), class) for t = 1 .. m, in nats: float32 [B, m].

        Arguments as for :meth:`hidden`.
        """
        return score_tokens(self.output, self.hidden(tokens, classes, orders, prefix), tokens, orders)

    forward = token_log_probs

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with the reference's keys. Raises ValueError naming what is wrong."""
        self.load_state_dict(from_reference(self.reference_state(), state, self.config))

    def reference_state(self) -> dict[str, Tensor]:
        """The weights under the reference's keys and layout."""
        return to_reference(self.state_dict(), self.config)
