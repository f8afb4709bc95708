"""Fit the models that an any-order one is compared with: on the same tokens or latents, by one loop.

It is not `loop._loop`, which counts its steps beforehand: here FLOPs or the clock may end a training, and the
learning rate falls by the share of it that is over. All data are tensors on the device, and no step asks the
host for anything: with 1.2 M parameters a GPU would otherwise wait for Python. Every step's images, orders
and noise depend on (seed, step) alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.scorers.dit import DiT
from anytime_cls.scorers.peers import DiscriminativeConfig, DiTConfig, HeadConfig, RasterConfig
from anytime_cls.scorers.reader import Discriminative, Head
from anytime_cls.scorers.sigma import SigmaGPT
from anytime_cls.training.loop import _mix, _resumed, mixed_precision, save_checkpoint
from anytime_cls.training.recipe import Report
from anytime_cls.training.transformer import adamw

Net = TypeVar("Net", bound=nn.Module)
BACKWARD = 3  # a step's FLOPs over its forward pass's, as they are usually counted
ASKED = 16  # steps between two looks at the clock and the loss: a look waits for the device


@dataclass(frozen=True)
class Limit:
    """When training ends: at the first of these that is reached. Raises ValueError if there is none.

    steps : of the optimiser. flops : multiply-adds × 2 of all forward and backward passes. seconds : of the
    clock; the learning rate then falls by the clock, too.
    """

    steps: int | None = None
    flops: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not any((self.steps, self.flops, self.seconds)):
            raise ValueError("training needs a limit: steps, flops or seconds, above 0")

    def steps_of(self, a_step: float) -> int | None:
        """Steps that are allowed, of so many FLOPs each; None where only the clock ends it."""
        found = [] if self.steps is None else [self.steps]
        if self.flops is not None:
            found.append(max(1, round(self.flops / a_step)))
        return min(found) if found else None


@dataclass(frozen=True)
class Schedule:
    """How the loop goes about it.

    report : as other stages' (`recipe.Report`); its steps are an estimate where only the clock ends the
    training. compile : by torch, which costs up to a minute and then is faster.
    """

    limit: Limit
    batch_size: int = 1024
    lr: float = 2e-3
    weight_decay: float = 0.05
    class_rate: float = 1.0  # of class vectors, times lr: `transformer.adamw`
    averaging: float = 0.998  # of the weights' moving average, what a step leaves of it
    warmup: float = 0.03  # share of the training
    seed: int = 0
    compile: bool = False
    report: Report | None = None
    checkpoint: Path | None = None  # gone on with if there; written every minute


def fit(
    stage: str,
    net: Net,
    n: int,
    flops: float,
    loss_of: Callable[[nn.Module, Tensor, torch.Generator], Tensor],
    schedule: Schedule,
) -> Net:
    """AdamW with warm-up and cosine decay on batches of n examples; the net ends as its moving average.

    net : on the device of the data. flops : of an example's forward pass. loss_of : of the net (or its
    compiled self), an index int64 [B] into the examples, and a generator on the device. Raises ValueError
    for a loss that is not finite.
    """
    device = next(net.parameters()).device
    batch = min(schedule.batch_size, n)
    last = schedule.limit.steps_of(BACKWARD * flops * batch)
    optimiser = adamw(net, schedule.lr, schedule.weight_decay, schedule.class_rate)
    mean = copy.deepcopy(net).requires_grad_(False)  # torch's AveragedModel waits for the device every step
    saved, step = schedule.checkpoint, 0
    if saved is not None and saved.exists():
        step = _resumed(saved, net, optimiser, last or 1 << 62, mean)
    called: nn.Module = torch.compile(net) if schedule.compile else net  # type: ignore[assignment]
    amp, first, done = mixed_precision(device), step, 0.0
    began = written = time.monotonic()
    batches = _batches(n, batch, schedule.seed, step, device)
    net.train()
    while done < 1 and (last is None or step < last):
        done = _share(step, last, time.monotonic() - began, schedule.limit)
        for group in optimiser.param_groups:
            rate = schedule.lr * min(1.0, (done + 1e-3) / schedule.warmup) * _cosine(done)
            group["lr"] = rate * group.get("times", 1.0)
        generator = torch.Generator(device).manual_seed(_mix(schedule.seed, 31, step))
        index = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = loss_of(called, index, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        _average(mean, net, min(schedule.averaging, (1 + step) / (10 + step)))
        step += 1
        if step % ASKED == 0 or step == last:
            _look(stage, loss, step, first, last, batch, done, began, schedule.report)
            if saved is not None and (step == last or time.monotonic() - written > 60):
                save_checkpoint(saved, net, optimiser, step, mean)
                written = time.monotonic()
    net.load_state_dict(mean.state_dict())
    return net.eval()


def _share(step: int, last: int | None, seconds: float, limit: Limit) -> float:
    """How much of the training is over, 0 to 1."""
    by_step = 0.0 if last is None else step / last
    by_clock = 0.0 if limit.seconds is None else seconds / limit.seconds
    return min(1.0, max(by_step, by_clock))


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _look(
    stage: str, loss: Tensor, step: int, first: int, last: int | None, batch: int, done: float, began: float,
    report: Report | None,
) -> None:  # fmt: skip
    """Waits for the device, so that the clock is its; says how it goes."""
    value = loss.item()
    if not math.isfinite(value):
        raise ValueError(f"{stage}: the loss became {value} at step {step}; try a lower learning rate")
    if report is not None:
        total = last or max(step, round(step / max(done, 1e-3)))
        report(stage, step, total, value, (step - first) * batch / (time.monotonic() - began))


def _batches(n: int, batch: int, seed: int, step: int, device: torch.device) -> Iterator[Tensor]:
    """Examples of this step and those after it: an epoch is a fresh permutation, made on the device."""
    epoch, at = divmod(step, max(1, n // batch))
    while True:
        shuffle = torch.Generator(device).manual_seed(_mix(seed, 30, epoch))
        every = torch.randperm(n, generator=shuffle, device=device)
        yield from every.split(batch)[at : max(1, n // batch)]
        epoch, at = epoch + 1, 0


@torch.no_grad()
def _average(mean: nn.Module, net: nn.Module, kept: float) -> None:
    """Exponential; its first steps are a plain mean, so that initial weights count for little."""
    torch._foreach_lerp_([*mean.parameters()], [*net.parameters()], 1 - kept)


def _seen(views: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of each image: [V, n, ...], int64 [B] → [B, ...]."""
    which = torch.randint(len(views), index.shape, generator=generator, device=index.device)
    return views[which, index]


def _dropped(labels: Tensor, null: int, share: float, generator: torch.Generator) -> Tensor:
    """Classes of which a share is the null class."""
    gone = torch.rand(labels.shape, generator=generator, device=labels.device) < share
    return labels.masked_fill(gone, null)


# ---- one of each kind


def fit_autoregressive(
    tokens: Tensor,
    labels: Tensor,
    config: RasterConfig,
    schedule: Schedule,
    class_dropout: float = 0.1,
) -> SigmaGPT:
    """−log p(x | raster order, class) of tokens int [V, n, N] (V views), labels int64 [n], on one device."""
    torch.manual_seed(schedule.seed + 1)
    net = SigmaGPT(config).to(tokens.device)
    raster = torch.arange(config.n_tokens, device=tokens.device)

    def loss_of(model: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        seen = _seen(tokens, index, generator).long()
        classes = _dropped(labels[index], config.n_classes, class_dropout, generator)
        log_p: Tensor = model(seen, classes, raster.expand(len(index), -1))
        return -log_p.mean()

    return fit("raster", net, len(labels), config.flops(), loss_of, schedule)


def fit_discriminative(
    tokens: Tensor,
    labels: Tensor,
    config: DiscriminativeConfig,
    schedule: Schedule,
    part: float = 0.5,
    smoothing: float = 0.1,
) -> Discriminative:
    """Cross entropy of the class, from a random part of every image's tokens: int [V, n, N], int64 [n].

    What is left out keeps the net from learning images by heart; it is given all of them afterwards.
    """
    torch.manual_seed(schedule.seed + 1)
    net = Discriminative(config).to(tokens.device)
    m = max(1, round(part * config.n_tokens))

    def loss_of(model: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        seen = _seen(tokens, index, generator).long()
        keys = torch.rand(seen.shape, generator=generator, device=seen.device)
        places = keys.argsort(dim=1)[:, :m]
        logits: Tensor = model(seen.gather(1, places), places)
        return F.cross_entropy(logits.float(), labels[index], label_smoothing=smoothing)

    return fit("discriminative", net, len(labels), config.of_tokens(m), loss_of, schedule)


def fit_head(
    tokens: Tensor, labels: Tensor, config: HeadConfig, schedule: Schedule, smoothing: float = 0.1
) -> Head:
    """Cross entropy of the class, of tokens int [V, n, N], labels int64 [n]."""
    torch.manual_seed(schedule.seed + 1)
    net = Head(config).to(tokens.device)

    def loss_of(model: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        logits: Tensor = model(_seen(tokens, index, generator).long())
        return F.cross_entropy(logits.float(), labels[index], label_smoothing=smoothing)

    return fit("head", net, len(labels), config.flops(), loss_of, schedule)


def fit_dit(
    latents: Tensor,
    labels: Tensor,
    config: DiTConfig,
    schedule: Schedule,
    class_dropout: float = 0.1,
) -> DiT:
    """‖v − v̂‖² at logit-normal times, of latents float [V, n, D, g, g] (half precision will do), int64 [n].

    Their mean and deviation a channel become part of the net. Times near the middle, where classes differ
    most, are drawn more often (Esser et al., 2024, https://arxiv.org/abs/2403.03206).
    """
    torch.manual_seed(schedule.seed + 1)
    net = DiT(config).to(latents.device)
    deviation, mean = torch.std_mean(latents[0].float(), dim=(0, 2, 3), keepdim=True)
    net.mean.copy_(mean[0])
    net.deviation.copy_(deviation[0].clamp(min=1e-6))

    def loss_of(model: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        clean = net.standardised(_seen(latents, index, generator).float())
        classes = _dropped(labels[index], config.n_classes, class_dropout, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        t = torch.randn(len(clean), generator=generator, device=clean.device).sigmoid()
        at = t[:, None, None, None]
        found: Tensor = model((1 - at) * clean + at * noise, t, classes)
        return (found.float() - (noise - clean)).square().mean()

    return fit("dit", net, len(labels), config.flops(), loss_of, schedule)
