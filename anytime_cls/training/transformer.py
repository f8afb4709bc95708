"""Fit a transformer to tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.fsq import FSQTokenizer
from anytime_cls.training.loop import _loop, _mix, batch_at
from anytime_cls.training.nets import augment, to_range
from anytime_cls.training.recipe import ImageSet, Recipe, Report


def fit_transformer(
    tokenizer: FSQTokenizer,
    data: ImageSet,
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    report: Report,
) -> Transformer:
    """Stage 2: AdamW on −log p(x | order, class), a new random order an image a step, cosine decay."""
    torch.manual_seed(recipe.seed + 1)
    model = recipe.new_model(len(data.dataset.labels)).to(device)
    config = model.config
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95))
    per_epoch = max(1, len(data) // recipe.batch_size)
    steps = max(1, int(recipe.epochs * per_epoch))
    ends = np.cumsum([share for share, _ in recipe.prefixes]) * steps
    views: dict[int, Tensor] = {}

    def tokens_of(epoch: int) -> Tensor:
        """Tokens int32 [n, N] of an epoch's augmented view of every image."""
        view = epoch % recipe.views
        if view not in views:
            generator = torch.Generator().manual_seed(_mix(recipe.seed, 3, view))
            with torch.inference_mode():
                chunks = [
                    tokenizer.encode(to_range(augment(chunk, generator)).to(device)).cpu().int()
                    for chunk in data.images.split(500)
                ]
            views[view] = torch.cat(chunks)
        return views[view]

    def loss_of(step: int) -> Tensor:
        index, generator = batch_at(step, len(data), recipe, stage=2)
        tokens = tokens_of(step // per_epoch)[index].long()
        classes = data.labels[index].clone()
        classes[torch.rand(len(classes), generator=generator) < recipe.class_dropout] = config.n_classes
        orders = torch.rand(tokens.shape, generator=generator).argsort(dim=1)
        stage = min(int(np.searchsorted(ends, step, side="right")), len(ends) - 1)
        prefix = max(1, round(recipe.prefixes[stage][1] * config.n_tokens))
        log_p: Tensor = model(tokens.to(device), classes.to(device), orders.to(device), prefix)
        return -log_p.mean()

    def rate_at(step: int) -> float:
        warmup = min(200, steps // 10)
        if step < warmup:
            return recipe.lr * (step + 1) / warmup
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    model.train()
    _loop("transformer", model, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report)
    return model.eval()
