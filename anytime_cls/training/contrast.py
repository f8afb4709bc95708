"""The last stage: an image's class is told from others that its tokens could be of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anytime_cls.scorers.sigma import Transformer
from anytime_cls.training.loop import _loop, batch_at
from anytime_cls.training.recipe import ImageSet, Recipe, Report
from anytime_cls.training.table import log_table, naive_bayes
from anytime_cls.training.transformer import adamw

Array = np.ndarray

SPREAD = 2.0  # standard deviation of the table's scores beside the Gumbels that rivals are drawn with


def fit_contrast(
    model: Transformer,
    view: Callable[[int], Tensor],
    data: ImageSet,
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    report: Report,
) -> Transformer:
    """Stage 3: cross entropy of the class among its rivals by log p(x | order, class), plus −log p(x | own).

    The first after a quarter, a half and all of the tokens that are read: a race decides after few, too.

    After condition contrastive alignment (Chen, Su, Zhu, Xie & Zhu, 2024, https://arxiv.org/abs/2410.09347),
    with classes in place of samples: rivals are drawn the likelier, the more the table of the tokens takes
    the image for theirs. A batch has as many rows as another stage's, and fewer images.
    """
    config = model.config
    rivals = min(recipe.rivals, config.n_classes - 1)
    smaller = replace(recipe, batch_size=max(1, recipe.batch_size // (1 + rivals)))
    per_epoch = max(1, len(data) // smaller.batch_size)
    steps = int(recipe.contrast_epochs * per_epoch)
    if not steps:
        return model
    counted = log_table(view(0).cpu().numpy(), data.labels.cpu().numpy(), config.vocab_size, config.n_classes)
    prefix = max(1, round(recipe.contrast_part * config.n_tokens))
    cuts = [max(1, prefix // 4) - 1, max(1, prefix // 2) - 1, prefix - 1]

    def loss_of(step: int) -> Tensor:
        index, generator = batch_at(step, len(data), smaller, stage=3)
        tokens, own = view(step // per_epoch % recipe.views)[index].long(), data.labels[index]
        if rivals == config.n_classes - 1:
            others = own[:, None] + torch.arange(1, config.n_classes, device=own.device)
            others %= config.n_classes
        else:
            scores = naive_bayes(tokens.cpu().numpy(), counted)
            others = drawn_rivals(scores, own.cpu(), rivals, generator).to(own.device)
        classes = torch.cat((own[:, None], others), dim=1)
        orders = torch.rand(tokens.shape, generator=generator).argsort(dim=1)
        rows = [x.to(device).repeat_interleave(1 + rivals, 0) for x in (tokens, orders)]
        log_p = (
            model(rows[0], classes.flatten().to(device), rows[1], prefix).float().unflatten(0, classes.shape)
        )
        sums = log_p.cumsum(2)[..., cuts]  # [B, 1 + rivals, 3]: a race decides after few tokens, too
        won = sums.log_softmax(1)[:, 0]
        loss: Tensor = -won.mean() - log_p[:, 0].mean()
        return loss

    def rate_at(step: int) -> float:
        return recipe.contrast_lr * min((step + 1) / 100, 1) * (1 - step / steps)

    torch.manual_seed(recipe.seed + 2)
    optimiser = adamw(model, recipe.contrast_lr, recipe.weight_decay, recipe.class_rate)
    model.train()
    _loop(
        "contrast", model, optimiser, steps, loss_of, rate_at, smaller, checkpoint, device, report,
        averaging=recipe.averaging,
    )  # fmt: skip
    return model.eval()


def drawn_rivals(scores: Array, own: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Other classes than its own, without replacement, an image's likelier ones more often.

    scores : float64 [B, C], any scale. own : int64 [B]. Returns int64 [B, n].
    """
    spread = torch.from_numpy(scores / (scores.std(1, keepdims=True) + 1e-6) * SPREAD)
    gumbel = -torch.log(-torch.log(torch.rand(spread.shape, generator=generator, dtype=spread.dtype)))
    return (spread + gumbel).scatter(1, own[:, None], -torch.inf).topk(n, dim=1).indices
