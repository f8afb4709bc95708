"""LlamaGen's GPT by name or file: the card, from tensors' shapes. No torch.

Its files are read as RandAR's are (`models.checkpoints`), and its tokenizer is found as theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

from anytime_cls.models.card import ModelCard, ModelError
from anytime_cls.models.checkpoints import Checkpoint, inspect, read_state
from anytime_cls.models.others.common import card_of, source_of, split
from anytime_cls.models.others.names import PUBLISHED, cached_weights
from anytime_cls.scorers.peers import RasterConfig

if TYPE_CHECKING:
    from anytime_cls.scorers.any_order import AnyOrder

HEADS = {3200: 32}  # of 3B; all others' are 64 wide
TOKENS = 256  # 16 × 16, of 256 pixels; the files for 384 pixels have 576


@dataclass(frozen=True)
class _LlamaGen:
    """The method of these models (`scorers.base.Method`)."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """source: a name of `PUBLISHED`, or a file, and ",tokens=576" where it was trained on 384 pixels."""
        from anytime_cls.models.zoo import find_tokenizer

        found = _inspected(source)
        tokenizer, vq = find_tokenizer(found)
        shape = RasterConfig.from_dict(found.shape)
        size = isqrt(shape.n_tokens) * vq.stride
        return card_of("llamagen", source, shape.n_classes, size, shape, [[found.path], [tokenizer]])

    def load(self, card: ModelCard, device: str, dtype: str) -> AnyOrder:
        """Its weights on a device; the tokenizer stays in float32. Raises ModelError."""
        import torch

        from anytime_cls.models.card import WEIGHTS
        from anytime_cls.models.load import load_vq, no_init
        from anytime_cls.scorers.any_order import AnyOrder
        from anytime_cls.scorers.raster import RasterGPT

        found = _inspected(source_of(card))
        where = torch.device(device)
        if where.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # token ids are roundings: keep the encoder exact
        with no_init():
            model = RasterGPT(RasterConfig.from_dict(found.shape))
        try:
            model.load_reference(read_state(found))
            tokenizer = load_vq(card.weights(WEIGHTS[1]), card.image_size)
        except ModelError:
            raise
        except ValueError as error:
            raise ModelError(str(error)) from None
        model.to(where, getattr(torch, dtype)).eval().requires_grad_(False)
        return AnyOrder(model, tokenizer.to(where).eval())


llamagen = _LlamaGen()


def _inspected(source: str) -> Checkpoint:
    """What is in the file that a source means. Raises ModelError."""
    name, options = split(source, "llamagen", ("tokens",))
    path = cached_weights(name) if name in PUBLISHED else Path(name)
    text = options.get("tokens", str(TOKENS))
    if not text.isdecimal():
        raise ModelError(f"llamagen:{source}: tokens must be a number, not {text!r}")
    found = inspect(path, n_tokens=int(text), layout="llamagen")
    heads = HEADS.get(found.shape["dim"])
    return found if heads is None else inspect(path, heads, int(text), "llamagen")
