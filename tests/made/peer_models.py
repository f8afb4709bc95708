"""Folders of raster, discriminative, head and diffusion models with random weights, whose classes differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from anytime_cls.models.load import save_model
from anytime_cls.scorers.dit import DiT
from anytime_cls.scorers.peers import DiscriminativeConfig, DiTConfig, HeadConfig, RasterConfig
from anytime_cls.scorers.reader import Discriminative, Head
from anytime_cls.scorers.shapes import SigmaConfig
from anytime_cls.scorers.sigma import SigmaGPT
from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer

LABELS = ["ant", "bee", "cat", "dog"]
BASE = "sigma"  # the any-order model that they are compared with
KINDS = ("raster", "discriminative", "head", "diffusion")


def network(kind: str, codes: int = 512, channels: int = 3, places: int = 64) -> nn.Module:
    """A small one with random weights, none of them zero."""
    sizes: dict[str, Any] = {"vocab_size": codes, "n_tokens": places, "n_classes": len(LABELS)}
    blocks = {"dim": 32, "n_layer": 2, "n_head": 2, "multiple_of": 32, **sizes}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made: dict[str, nn.Module] = {
            BASE: SigmaGPT(SigmaConfig(**blocks)),
            "raster": SigmaGPT(RasterConfig(**blocks)),
            "discriminative": Discriminative(DiscriminativeConfig(**blocks)),
            "head": Head(HeadConfig(16, **sizes)),
            "diffusion": DiT(DiTConfig(32, 2, 2, channels, places, len(LABELS))),
        }
        net = made[kind]
        for name, value in net.named_parameters():
            if value.ndim > 1:
                nn.init.normal_(value, std=1.0 if "cls_embedding" in name else 0.1)
        return net.eval()


def write(kind: str, path: Path) -> Path:
    """A model's folder, as `train --method` writes it."""
    net = network(kind)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = FSQTokenizer(FSQConfig(widths=(8, 8, 8), blocks=(1, 1, 1)))
        nn.init.normal_(tokenizer.to_code.weight, std=3.0)  # so that tokens differ
    state = net.reference_state() if isinstance(net, SigmaGPT) else net.state_dict()
    config: Any = net.config
    fields = {
        "name": f"tiny-{kind}", "labels": LABELS, "image_size": 32, "layout": kind,
        "tokenizer": {"kind": "fsq", **tokenizer.config.to_dict()}, "model": config.to_dict(),
    }  # fmt: skip
    if kind == "diffusion":
        fields["weighting"] = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.1]]
    save_model(path, fields, state, tokenizer.state_dict())
    return path
