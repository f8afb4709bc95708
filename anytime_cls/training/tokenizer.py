"""Fit a tokenizer to images."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.tokenizers.fsq import FSQTokenizer
from anytime_cls.tokenizers.manifold import ManifoldTokenizer
from anytime_cls.training.loop import _loop, batch_at, reading, writing
from anytime_cls.training.manifold import fit_manifold
from anytime_cls.training.nets import (
    ClassHead,
    PixelDecoder,
    augment,
    to_range,
)
from anytime_cls.training.recipe import ImageSet, Recipe, Report, TrainedTokenizer
from anytime_cls.training.selfsupervised import fit_selfsupervised


def fit_tokenizer(
    data: ImageSet, recipe: Recipe, checkpoint: Path, device: torch.device, report: Report
) -> TrainedTokenizer:
    """Stage 1. Returns the tokenizer in eval mode; a manifold's stays on the CPU."""
    if recipe.tokens == "selfsupervised":
        names = {
            name: checkpoint.with_name(f"checkpoint-{name}.pt")
            for name in ("tokenizer", "teacher", "distillation")
        }
        return fit_selfsupervised(data.images, recipe, names, device, report)
    if recipe.tokens != "manifold":
        return fit_fsq(data, recipe, checkpoint, device, report)
    tokenizer = ManifoldTokenizer(recipe.manifold_config())
    if checkpoint.exists():
        with reading(checkpoint) as saved:
            tokenizer.load_state_dict(saved)
        return tokenizer.eval()
    fit_manifold(tokenizer, data.images, recipe.seed, report)
    writing(checkpoint, tokenizer.state_dict())
    return tokenizer.eval()


def fit_fsq(
    data: ImageSet, recipe: Recipe, checkpoint: Path, device: torch.device, report: Report
) -> FSQTokenizer:
    """SGD with Nesterov momentum, warm-up and linear decay."""
    torch.manual_seed(recipe.seed)
    config = recipe.fsq_config()
    tokenizer = FSQTokenizer(config)
    nets = nn.ModuleDict(
        {
            "tokenizer": tokenizer,
            "decoder": PixelDecoder(config),
            "head": ClassHead(config, len(data.dataset.labels)),
        }
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    decoder, head = nets["decoder"], nets["head"]
    matrices = [p for p in nets.parameters() if p.ndim > 1]
    vectors = [p for p in nets.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=recipe.tokenizer_lr, momentum=0.9, nesterov=True)
    steps = max(1, recipe.tokenizer_min_steps, int(recipe.tokenizer_epochs * len(data) / recipe.batch_size))
    warmup = min(400, steps // 5)

    def loss_of(step: int) -> Tensor:
        index, generator = batch_at(step, len(data), recipe, stage=1)
        pixels = to_range(augment(data.images[index], generator)).to(device)
        codes = tokenizer.quantise(pixels)
        loss = 2 * F.mse_loss(decoder(codes).float(), pixels)
        if recipe.tokens == "labels":
            logits = head(codes).float()
            loss = loss + F.cross_entropy(logits, data.labels[index].to(device), label_smoothing=0.1)
        return loss

    def rate_at(step: int) -> float:
        decay = 1 - max(0, step - warmup) / max(1, steps - warmup)
        return recipe.tokenizer_lr * min(1, (step + 1) / max(1, warmup)) * decay

    nets.train()
    _loop("tokenizer", nets, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report)
    nets.eval()
    return tokenizer
