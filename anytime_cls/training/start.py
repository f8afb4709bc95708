"""Begin from a model that is there: its tokenizer and its transformer stay, its classes are replaced.

A class is one vector that is added to what a transformer reads. So new classes are first fitted with all
else frozen, which a few pictures a class suffice for, and then all weights move a little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from anytime_cls.models.card import WEIGHTS, ModelCard
from anytime_cls.models.load import load_model, load_vq, verified
from anytime_cls.models.zoo import embedded_names, read_card
from anytime_cls.scorers.shapes import LAYOUTS
from anytime_cls.tokenizers.manifold import ManifoldTokenizer
from anytime_cls.training.loop import _loop, batch_at
from anytime_cls.training.recipe import ImageSet, Recipe, Report

if TYPE_CHECKING:
    from anytime_cls.scorers.sigma import Transformer
    from anytime_cls.tokenizers.base import Tokenizer


VECTORS = 10.0  # times the rate of the other weights, while all move
WARM_UP = 20  # steps
AVERAGING = 0.98  # of the moving average of the weights, what a step leaves: stages are short


@dataclass(frozen=True, eq=False)
class Start:
    """A model to begin from, on a device: its card, its tokenizer, and its transformer in float32."""

    card: ModelCard
    tokenizer: Tokenizer
    model: Transformer

    def tokenizer_state(self) -> Mapping[str, Tensor]:
        """The tokenizer's tensors as they are stored."""
        path = self.card.weights(WEIGHTS[1]) if self.card.files else verified(self.card, WEIGHTS[1])
        if path.suffix == ".safetensors":
            return load_file(path)
        return {key: value.contiguous() for key, value in load_vq(path).state_dict().items()}


def default_start() -> str:
    """The embedded model to begin from where nobody names one: of those whose tokens saw no labels the one
    that knows most classes, the more accurate of equals."""

    def worth(name: str) -> tuple[bool, int, float]:
        card = read_card(name)
        accuracy = (card.fields.get("metrics") or {}).get("accuracy_at_k", {})
        best = max((row["value"] for row in accuracy.values()), default=0.0)
        return not card.fields["tokenizer"].get("saw_labels", True), len(card.labels), float(best)

    return max(embedded_names(), key=worth)


def read_start(name: str) -> ModelCard:
    """The card of a model to begin from. Raises ModelError, or ValueError if it is none of ours."""
    card = read_card(name)
    if card.method not in LAYOUTS:
        raise ValueError(f"--from takes an any-order transformer, not {card.name!r} (method {card.method!r})")
    return card


def written(name: str, card: ModelCard) -> str:
    """What `Recipe.start` says of a model: its name, as typed, and a hash of its weights."""
    return f"{name} {card.identity[:16]}"


def named(start: str) -> str:
    """The name in what `written` gave."""
    return start.rpartition(" ")[0]


def load_start(card: ModelCard, device: torch.device) -> Start:
    """Its weights. Raises ModelError."""
    model, tokenizer = load_model(card, device, torch.float32)
    if isinstance(tokenizer, ManifoldTokenizer):
        tokenizer.cpu()  # as `views` has it
    return Start(card, tokenizer, model)


def fit_classes(
    start: Start,
    view: Callable[[int], Tensor],
    data: ImageSet,
    recipe: Recipe,
    checkpoints: tuple[Path, Path],
    device: torch.device,
    report: Report,
) -> Transformer:
    """The start's transformer, in eval mode, with the classes of these data in place of its own.

    Two stages of −log p(x | order, class), on parts of orders as `Recipe.prefixes` says: class vectors
    alone, begun at the mean of the model's own; then all weights, vectors faster than the rest. The null
    class stays.
    view: number of an augmented view → its token ids int32 [n, N].
    """
    torch.manual_seed(recipe.seed + 1)
    model = with_classes(start.model, len(data.dataset.labels))
    vectors = model.cls_embedding.weight
    rest = [p for p in model.parameters() if p is not vectors]
    for p in rest:
        p.requires_grad_(False)
    _fit("classes", model, [(vectors, 1.0)], recipe.class_steps, recipe.class_lr, view, data, recipe,
         checkpoints[0], device, report)  # fmt: skip
    for p in rest:
        p.requires_grad_(True)
    faster = [(vectors, VECTORS), *((p, 1.0) for p in rest)]
    _fit("tuning", model, faster, recipe.tune_steps, recipe.tune_lr, view, data, recipe, checkpoints[1],
         device, report)  # fmt: skip
    return model.eval()


def with_classes(model: Transformer, n_classes: int) -> Transformer:
    """The model itself, its class vectors replaced by `n_classes` of their mean, and the null class."""
    old = model.cls_embedding.weight.detach()
    new = nn.Embedding(n_classes + 1, old.shape[1], device=old.device)
    with torch.no_grad():
        new.weight.copy_(torch.cat((old[:-1].mean(0).expand(n_classes, -1), old[-1:])))
    model.cls_embedding = new
    model.config = replace(model.config, n_classes=n_classes)
    return model.requires_grad_(True)


def _fit(
    stage: str,
    model: Transformer,
    moving: list[tuple[Tensor, float]],
    steps: int,
    peak: float,
    view: Callable[[int], Tensor],
    data: ImageSet,
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    report: Report,
) -> None:
    """AdamW on the parameters that move, each with times of the learning rate."""
    if not steps:
        return
    config, vectors, decay = model.config, model.cls_embedding.weight, recipe.weight_decay
    per_epoch = max(1, len(data) // recipe.batch_size)
    ends = np.cumsum([share for share, _ in recipe.prefixes])
    number = 3 + (stage == "tuning")

    def loss_of(step: int) -> Tensor:
        index, generator = batch_at(step, len(data), recipe, stage=number)
        tokens = view(step // per_epoch % recipe.views)[index].long()
        orders = torch.rand(tokens.shape, generator=generator).argsort(dim=1)
        drawn = float(torch.rand(1, generator=generator))  # short parts all along: none is forgotten
        part = recipe.prefixes[min(int(np.searchsorted(ends, drawn)), len(ends) - 1)][1]
        prefix = max(1, round(part * config.n_tokens))
        log_p: Tensor = model(tokens.to(device), data.labels[index].to(device), orders.to(device), prefix)
        return -log_p.mean()

    def rate_at(step: int) -> float:
        warmup = min(1.0, (step + 1) / WARM_UP)
        return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / steps))

    groups = [
        {"params": [p], "times": times, "weight_decay": decay * (p is not vectors and p.ndim > 1)}
        for p, times in moving
    ]
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    model.train()
    _loop(
        stage, model, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report,
        averaging=AVERAGING,
    )  # fmt: skip
