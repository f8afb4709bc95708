"""Small files of weights under the names that RandAR's and the VQ tokenizers' published files use."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.tokenizers.vq import LlamaGenTokenizer, MaskGITTokenizer, VQConfig


@cache
def transformer(vocab_size: int = 64, n_classes: int = 1000, dim: int = 64, n_layer: int = 2) -> RandAR:
    """A RandAR of 256 tokens with heads of 64 and random weights, its output head too."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = RandARConfig(dim, n_layer, math.ceil(dim / 64), vocab_size, 256, n_classes)
        model = RandAR(config)
        torch.nn.init.normal_(model.output.weight, std=0.1)
        return model.eval()


def state(**shape: int) -> dict[str, torch.Tensor]:
    """Its state dict as the reference code's state_dict() gives it."""
    return {name: tensor.clone() for name, tensor in transformer(**shape).reference_state().items()}


@cache
def _tokenizer(kind: str, vocab_size: int) -> LlamaGenTokenizer | MaskGITTokenizer:
    shape = VQConfig(widths=(32,) * 5, blocks=1, z_channels=32, vocab_size=vocab_size, code_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        if kind == "llamagen":
            return LlamaGenTokenizer(shape)
        return MaskGITTokenizer(
            VQConfig(256, shape.widths, shape.blocks, 32, vocab_size, shape.code_dim, l2_norm=False)
        )


def write_tokenizer(path: Path, vocab_size: int = 64, kind: str = "llamagen") -> Path:
    """A tokenizer's file: .safetensors, or as torch.save writes it, under "model"."""
    weights = {name: tensor.clone() for name, tensor in _tokenizer(kind, vocab_size).state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights}, path)
    return path
