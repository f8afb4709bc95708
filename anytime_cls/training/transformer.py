"""Fit a transformer to tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytime_cls.scorers.sigma import Transformer
from anytime_cls.training.loop import _loop, batch_at, generator_on
from anytime_cls.training.recipe import ImageSet, Recipe, Report


def fit_transformer(
    view: Callable[[int], Tensor],
    data: ImageSet,
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    report: Report,
) -> Transformer:
    """Stage 2: AdamW on −log p(x | order, class), a new random order an image a step, cosine decay.

    view: number of an augmented view → its token ids int32 [n, N] (`views.views_of`).
    """
    torch.manual_seed(recipe.seed + 1)
    model = recipe.new_model(len(data.dataset.labels)).to(device)
    config = model.config
    optimiser = adamw(model, recipe.lr, recipe.weight_decay, recipe.class_rate)
    per_epoch = max(1, len(data) // recipe.batch_size)
    steps = max(1, recipe.min_steps, int(recipe.epochs * per_epoch))
    ends = np.cumsum([share for share, _ in recipe.prefixes]) * steps

    def loss_of(step: int) -> Tensor:
        index, generator = batch_at(step, len(data), recipe, stage=2)
        generator = generator_on(device, generator)
        tokens = view(step // per_epoch % recipe.views)[index].long().to(device)
        classes = data.labels[index].to(device, copy=True)
        dropped = torch.rand(len(classes), generator=generator, device=device) < recipe.class_dropout
        classes[dropped] = config.n_classes
        orders = torch.rand(tokens.shape, generator=generator, device=device).argsort(dim=1)
        stage = min(int(np.searchsorted(ends, step, side="right")), len(ends) - 1)
        prefix = max(1, round(recipe.prefixes[stage][1] * config.n_tokens))
        log_p: Tensor = model(tokens, classes, orders, prefix)
        return -log_p.mean()

    def rate_at(step: int) -> float:
        warmup = min(200, steps // 10)
        if step < warmup:
            return recipe.lr * (step + 1) / warmup
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    model.train()
    _loop(
        "transformer", model, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report,
        averaging=recipe.averaging,
    )  # fmt: skip
    return model.eval()


def adamw(model: nn.Module, rate: float, weight_decay: float, class_rate: float = 1.0) -> torch.optim.AdamW:
    """Only matrices decay, and class vectors only at the rate of the other weights.

    class_rate: of class vectors (`cls_embedding`), times `rate`: "times" of their group, for `loop._loop`.
    """
    vectors = [] if class_rate == 1 else [model.get_parameter("cls_embedding.weight")]
    rest = [p for p in model.parameters() if all(p is not vector for vector in vectors)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if vectors:  # checkpoints from before there was a rate have two groups
        groups.append({"params": vectors, "weight_decay": 0.0, "times": class_rate})
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=next(model.parameters()).is_cuda)
