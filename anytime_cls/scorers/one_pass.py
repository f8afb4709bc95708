"""Discriminative models of pictures: one pass gives every class its log p(class | picture)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from anytime_cls.draws.keyed import normal
from anytime_cls.scorers.base import Piece, Screen
from anytime_cls.scorers.others import OnePassConfig

Array = np.ndarray


@final
class OnePass:
    """network: float32 [B, 3, S, S] as `prepare` made them of crops uint8 [S', S', 3] → logits [B, C]."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        prepare: Callable[[Array], Array],
        shape: OnePassConfig,
        device: str = "cpu",
        dtype: str = "float32",
    ):
        self.network, self.prepare, self.shape, self.device, self.dtype = (
            network, prepare, shape, device, dtype,
        )  # fmt: skip
        self.screens: Mapping[str, Screen] = {}

    def width(self, steps: int) -> int:
        return 1

    def encode(self, crops: Array, noise: float = 0.0, keys: Sequence[bytes] = ()) -> list[Array]:
        """What the network reads of each crop; noise is blended into that, (1 − noise) x + noise ε: there are
        no latents."""
        read = [self.prepare(crop) for crop in crops]
        if noise > 0:
            drawn = [normal(key, one.shape) for key, one in zip(keys, read, strict=True)]
            blend = np.float32(noise)
            read = [(1 - blend) * one + blend * more for one, more in zip(read, drawn, strict=True)]
        return read

    @torch.inference_mode()
    def score(self, pieces: Sequence[Piece], at: Sequence[int]) -> list[Array]:
        """log p(class | picture) over all of the model's classes, those that were asked for; one picture at a
        time, so that no bit depends on a batch."""
        found = []
        for piece in pieces:
            pixels = torch.from_numpy(piece.encoded)[None].to(self.device, getattr(torch, self.dtype))
            log_p = self.network(pixels)[0].float().log_softmax(0).cpu().numpy().astype(np.float64)
            found.append(log_p[piece.classes][:, None].repeat(len(at), axis=1))
        return found
