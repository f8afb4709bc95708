"""A single-stream any-order transformer: half the positions of RandAR for the same log p(x | order, class).

Pannatier, Courdier & Fleuret, *σ-GPTs: A New Approach to Autoregressive Models*, 2024,
https://arxiv.org/abs/2404.09562: one position both reads the last token and is told where the next one is,

    [(begin → π_1), (x_π1 → π_2), ..., (x_π(N−1) → π_N)],

so an order costs N positions where RandAR's interleaved layout costs 2N. Here the class is added to every
position, and rotary attention compares places: a query turns with the place that is predicted, a key with
the place of the token that was read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.raster import RasterGPT
from anytime_cls.scorers.shapes import SigmaConfig, check_config
from anytime_cls.scorers.transformer import (
    Block,
    RMSNorm,
    Rotary,
    check_state,
    class_vectors,
    init_weights,
    rotary_table,
    run_layers,
    score_tokens,
)


class SigmaGPT(nn.Module):
    """Class-conditional any-order model with :class:`~anytime_cls.scorers.randar.RandAR`'s interface."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: SigmaConfig):
        super().__init__()
        grid = check_config(config)
        self.config = config
        self.cls_embedding = nn.Embedding(config.n_classes + 1, config.dim)  # the last row is the null class
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.read_positions = nn.Embedding(config.n_tokens + 1, config.dim)  # the last row stands for "begin"
        self.next_positions = nn.Embedding(config.n_tokens, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        cos, sin = rotary_table(grid, config.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)  # [N + 1, head_dim / 2]; the last row, all
        self.register_buffer("sin", sin, persistent=False)  # zero, is the key's that has read nothing
        init_weights(self, self.output)

    def hidden(self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None) -> Tensor:
        """Final states, one a predicted token: [B, m, dim]. Arguments as RandAR's."""
        m = self.config.n_tokens if prefix is None else prefix
        if not 1 <= m <= self.config.n_tokens:
            raise ValueError(f"prefix must be 1 to {self.config.n_tokens}, got {prefix}")
        begin = orders.new_full((len(orders), 1), self.config.n_tokens)
        following = orders[:, :m]
        read = torch.cat((begin, following[:, :-1]), dim=1)
        x = (
            self.next_positions(following)
            + self.read_positions(read)
            + class_vectors(self.cls_embedding, classes)[:, None]
        )
        seen = self.tok_embeddings(tokens.gather(1, following[:, :-1]))
        x = torch.cat((x[:, :1], x[:, 1:] + seen), dim=1)
        angle = torch.stack((following, read), dim=2)  # [B, m, 2]
        rotary = Rotary(self.cos[angle].unsqueeze(3), self.sin[angle].unsqueeze(3))
        found: Tensor = self.norm(run_layers(self.layers, x, rotary, None, self.config))
        return found

    def token_log_probs(
        self, tokens: Tensor, classes: Tensor, orders: Tensor, prefix: int | None = None
    ) -> Tensor:
        """log p(x_π(t) | x_π(<t), class) for t = 1 .. m, in nats: float32 [B, m]."""
        return score_tokens(self.output, self.hidden(tokens, classes, orders, prefix), tokens, orders)

    forward = token_log_probs

    def reference_state(self) -> dict[str, Tensor]:
        """The weights, as they are stored."""
        return {key: value.detach() for key, value in self.state_dict().items()}

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Load stored weights. Raises ValueError naming what is wrong."""
        expected = self.reference_state()
        check_state(expected, state)
        self.load_state_dict({key: state[key].to(value.dtype) for key, value in expected.items()})


Transformer = RandAR | SigmaGPT | RasterGPT
