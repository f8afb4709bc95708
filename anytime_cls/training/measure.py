"""How often a model is right on tokens, without a race: a look during training."""

from __future__ import annotations

import torch
from torch import Tensor

from anytime_cls.scorers.sigma import Transformer

ROWS = {"cpu": 512, "cuda": 16384}  # of one pass


@torch.inference_mode()
def log_likelihoods(
    model: Transformer, tokens: Tensor, orders: int, prefix: int, device: torch.device, seed: int = 0
) -> Tensor:
    """Mean log p(x | order, class) over random orders of which `prefix` tokens are read, all classes.

    tokens int [n, N] → float32 [n, C] on the CPU, nats.
    """
    n_classes = model.config.n_classes
    at_once = max(1, ROWS.get(device.type, 512) // n_classes)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for part in tokens.long().split(at_once):
        part = part.to(device)
        rows = part.repeat_interleave(n_classes, 0)
        classes = torch.arange(n_classes, device=device).repeat(len(part))
        total = torch.zeros(len(part), n_classes, device=device)
        for _ in range(orders):
            drawn = torch.rand(part.shape, generator=generator).argsort(1).to(device)
            log_p = model(rows, classes, drawn.repeat_interleave(n_classes, 0), prefix)
            total += log_p.float().sum(1).view(len(part), n_classes)
        found.append(total / orders)
    return torch.cat(found).cpu()


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Share of the rows [n, C] with the label [n] among the `top` highest."""
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return float((best == labels.cpu()[:, None]).any(1).double().mean())
