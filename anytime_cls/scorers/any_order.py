"""Any-order autoregressive models as a scorer: log p(x | π, c) of token ids, RandAR's and σ-GPT's alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from anytime_cls.draws.keyed import normal
from anytime_cls.pixels.crops import scaled
from anytime_cls.scorers.base import Piece, Screen
from anytime_cls.scorers.screens import screens_of
from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.base import Tokenizer

Array = np.ndarray


@torch.inference_mode()
def token_ids(
    tokenizer: Tokenizer, device: torch.device, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()
) -> list[Array]:
    """Token ids int64 [N] in raster order of each of uint8 [I, S, S, 3], one image at a time."""
    ids = []
    for i, crop in enumerate(crops):
        pixels = torch.from_numpy(scaled(crop, tokenizer.pixel_range))[None]
        drawn = normal(keys[i], tokenizer.latent_shape) if noise > 0 else None
        given = None if drawn is None else torch.from_numpy(drawn)[None]
        ids.append(tokenizer.encode(pixels.to(device), noise, given)[0])
    return [one.cpu().numpy() for one in ids]


class AnyOrder:
    """A transformer and its tokenizer, in eval mode on their device.

    An `Encoded` is token ids int64 [N] in raster order, a draw's `what` one order int64 [N].
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self._weight = model.output.weight

    @property
    def shape(self) -> RandARConfig:
        """The transformer's."""
        return self.model.config

    @property
    def device(self) -> str:
        return str(self._weight.device)

    @property
    def dtype(self) -> str:
        return str(self._weight.dtype).removeprefix("torch.")

    @cached_property
    def screens(self) -> Mapping[str, Screen]:
        return screens_of(self.model)

    def width(self, steps: int) -> int:
        """Positions of a row. Those of σ-GPT are half as many, but its tiles, and with them its last bits,
        are cut as RandAR's."""
        return 2 * steps

    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[Array]:
        """Token ids of uint8 [I, S, S, 3], one image at a time: rounding cannot depend on a batch."""
        return token_ids(self.tokenizer, self._weight.device, crops, noise, keys)

    @torch.inference_mode()
    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """Running log-likelihoods in nats, summed token by token in float64 and rounded to float32, so that a
        trace stores them exactly and a sum depends on nothing but its own row."""
        sizes = [len(piece.classes) for piece in pieces]
        device, steps = self._weight.device, at[-1]
        rows = torch.from_numpy(np.repeat(np.arange(len(pieces)), sizes)).to(device)
        tokens = torch.from_numpy(np.stack([piece.encoded for piece in pieces])).to(device)
        orders = torch.from_numpy(np.stack([piece.draw.what[0] for piece in pieces])).to(device)
        classes = torch.from_numpy(np.concatenate([piece.classes for piece in pieces])).to(device)
        prefix = None if steps == self.shape.n_tokens else steps
        log_p = self.model(tokens[rows], classes, orders[rows], prefix).float().cpu().numpy()
        sums = np.cumsum(log_p, axis=1, dtype=np.float64).astype(np.float32).astype(np.float64)
        return np.split(sums[:, np.asarray(at) - 1], np.cumsum(sizes)[:-1])
