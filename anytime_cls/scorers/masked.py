"""An any-order model evaluated as masked diffusion: some tokens are revealed, the others scored in a burst.

The two objectives agree (e.g. Ou et al., *Your Absorbing Discrete Diffusion Secretly Models the Conditional
Distributions of Clean Data*, ICLR 2025, https://arxiv.org/abs/2406.03736): with an order π, and a number m of
revealed tokens that is uniform on 0 .. N − 1,

    E N / (N − m) · Σ_{j > m} log p(x_π(j) | x_π(≤m), class)  =  E Σ_t log p(x_π(t) | x_π(<t), class),

so both estimate the same number. A burst does it with far more noise, since its tokens do not see each other:
the paper's ablation, with nothing trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from anytime_cls.scorers.any_order import token_ids
from anytime_cls.scorers.base import Piece, Screen
from anytime_cls.scorers.peers import MaskedConfig
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.reader import attend
from anytime_cls.scorers.sigma import SigmaGPT, Transformer
from anytime_cls.scorers.transformer import Block, Rotary, score_tokens
from anytime_cls.tokenizers.base import Tokenizer

Array = np.ndarray


def burst(model: Transformer, tokens: Tensor, classes: Tensor, orders: Tensor, revealed: Tensor) -> Tensor:
    """log p(x_π(j) | x_π(1) .. x_π(min(m, j − 1)), class) for j = 1 .. N, in nats: float32 [B, N].

    tokens int64 [B, N], classes int64 [B], orders int64 [B, N] and m int64 [B], from 0 to N − 1: the first m
    tokens are scored one after another, the others all from these m.
    """
    inputs = _of_sigma if isinstance(model, SigmaGPT) else _of_randar
    x, rotary, seen = inputs(model, tokens, classes, orders, revealed)  # type: ignore[arg-type]
    for layer in model.layers:
        assert isinstance(layer, Block)
        x = attend(layer, x, rotary, seen[:, None])
    hidden = model.norm(x if isinstance(model, SigmaGPT) else x[:, 1::2])
    return score_tokens(model.output, hidden, tokens, orders)


def _of_sigma(
    model: SigmaGPT, tokens: Tensor, classes: Tensor, orders: Tensor, revealed: Tensor
) -> tuple[Tensor, Rotary, Tensor]:
    """Position j reads the last token that its prediction may know, and is told where the next one is."""
    n = model.config.n_tokens
    at = torch.arange(n, device=tokens.device)
    last = torch.minimum(at, revealed[:, None])  # how many tokens position j knows
    begin = orders.new_full((len(orders), 1), n)
    read = torch.cat((begin, orders), dim=1).gather(1, last)  # the last of them; N stands for none
    x = model.next_positions(orders) + model.read_positions(read) + model.cls_embedding(classes)[:, None]
    seen = model.tok_embeddings(tokens.gather(1, read.clamp(max=n - 1)))
    x = x + seen * (read < n)[:, :, None]
    angle = torch.stack((orders, read), dim=2)
    rotary = Rotary(model.cos[angle].unsqueeze(3), model.sin[angle].unsqueeze(3))
    # position i holds what i tokens say: the context are positions 0 .. last − 1, and each sees itself
    mask = (at < last[:, :, None]) | (at[:, None] == at)
    return x, rotary, mask


def _of_randar(
    model: RandAR, tokens: Tensor, classes: Tensor, orders: Tensor, revealed: Tensor
) -> tuple[Tensor, Rotary, Tensor]:
    """[class, p_1, x_1, .. p_N]: every p sees the class, the revealed pairs before it, and itself."""
    n, b = model.config.n_tokens, len(tokens)
    images = model.tok_embeddings(tokens.gather(1, orders))
    positions = model.position_tokens()[orders].type_as(images)
    pairs = torch.stack((positions, images), dim=2).flatten(1, 2)[:, :-1]
    x = torch.cat((model.cls_embedding(classes)[:, None], pairs), dim=1)
    angle = orders.repeat_interleave(2, dim=1)[:, :-1]
    angle = torch.cat((angle.new_full((b, 1), n), angle), dim=1)
    rotary = Rotary(model.cos[angle][:, :, None, None], model.sin[angle][:, :, None, None])
    at = torch.arange(2 * n, device=tokens.device)
    context = at < 2 * revealed[:, None, None] + 1  # the class, p_1, x_1, .. x_m
    mask = (context & (at <= at[:, None])) | (at[:, None] == at)
    return x, rotary, mask


@final
class Masked:
    """An any-order model and its tokenizer as a scorer of bursts. An `Encoded` is token ids int64 [N]."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self._weight = model.output.weight
        self.shape = MaskedConfig(model.config)
        self.screens: Mapping[str, Screen] = {}

    @property
    def device(self) -> str:
        return str(self._weight.device)

    @property
    def dtype(self) -> str:
        return str(self._weight.dtype).removeprefix("torch.")

    def width(self, steps: int) -> int:
        """Positions of a row."""
        return 2 * self.model.config.n_tokens

    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[Array]:
        """Token ids of uint8 [I, S, S, 3]."""
        return token_ids(self.tokenizer, self._weight.device, crops, noise, keys)

    @torch.inference_mode()
    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """N / (N − m) times the burst's log-likelihoods, in nats: each an estimate of the whole image's."""
        sizes, device = [len(piece.classes) for piece in pieces], self._weight.device
        rows = torch.from_numpy(np.repeat(np.arange(len(pieces)), sizes)).to(device)
        tokens, orders, revealed = (
            torch.from_numpy(np.stack(part)).to(device)[rows]
            for part in (
                [piece.encoded for piece in pieces],
                [piece.draw.what[0] for piece in pieces],
                [piece.draw.what[1] for piece in pieces],
            )
        )
        classes = torch.from_numpy(np.concatenate([piece.classes for piece in pieces])).to(device)
        log_p = burst(self.model, tokens, classes, orders, revealed).cpu().numpy().astype(np.float64)
        n, shown = log_p.shape[1], revealed.cpu().numpy()
        hidden = np.arange(n) >= shown[:, None]
        scores = (log_p * hidden).sum(axis=1) * (n / (n - shown))
        kept = scores.astype(np.float32).astype(np.float64)[:, None].repeat(len(at), axis=1)
        return np.split(kept, np.cumsum(sizes)[:-1])
