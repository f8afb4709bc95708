"""Steps, batches and checkpoints: what fitting a tokenizer and fitting a transformer share."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from anytime_cls.files import replace_file
from anytime_cls.models.pickles import unpickled
from anytime_cls.training.recipe import Recipe, Report


def mixed_precision(device: torch.device) -> bool:
    """bf16 autocast pays where the hardware multiplies bf16: GPUs and CPUs with AMX or AVX-512 BF16."""
    if device.type == "cpu":
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return device.type == "cuda"


def batch_at(step: int, n: int, recipe: Recipe, stage: int) -> tuple[Tensor, torch.Generator]:
    """The images of a step (an epoch is a fresh permutation) and its random generator."""
    per_epoch = max(1, n // recipe.batch_size)
    epoch, at = divmod(step, per_epoch)
    shuffle = torch.Generator().manual_seed(_mix(recipe.seed, 10 + stage, epoch))
    index = torch.randperm(n, generator=shuffle)[at * recipe.batch_size : (at + 1) * recipe.batch_size]
    return index, torch.Generator().manual_seed(_mix(recipe.seed, 20 + stage, step))


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A step's generator on the CPU, else one of the device's that it seeds: other numbers."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(1 << 62, (), generator=generator)))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _loop(
    stage: str,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    steps: int,
    loss_of: Callable[[int], Tensor],
    rate_at: Callable[[int], float],
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    report: Report,
    averaging: float = 0.0,
    every: float = 60.0,
) -> None:
    """Run `steps` optimiser steps from the checkpoint if there is one, saving every `every` seconds.

    averaging: of the moving average of the weights, what a step leaves of it; the net ends as that average.
    """
    every_mean = 1 if device.type == "cpu" else 8  # steps: each waits for what is under way
    mean = AveragedModel(net, multi_avg_fn=_moving_average(averaging**every_mean)) if averaging else None
    first = _resumed(checkpoint, net, optimiser, steps, mean) if checkpoint.exists() else 0
    amp = mixed_precision(device)
    smooth, saved_at, started = None, time.monotonic(), time.monotonic()
    looks = (
        1 if device.type == "cpu" else 20
    )  # steps between readings of the loss, each of which waits for it
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step) * group.get("times", 1.0)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0 if stage == "tokenizer" else 1.0)
        optimiser.step()
        if mean is not None and (step + 1) % every_mean == 0:
            mean.update_parameters(net)
        if (step + 1) % looks and step + 1 < steps:
            continue
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"{stage}: the loss became {value} at step {step}; try a lower learning rate")
        smooth = value if smooth is None else smooth + 0.02 * looks * (value - smooth)
        rate = (step - first + 1) * recipe.batch_size / (time.monotonic() - started)
        report(stage, step + 1, steps, smooth, rate)
        if time.monotonic() - saved_at > every or step + 1 == steps:
            save_checkpoint(checkpoint, net, optimiser, step + 1, mean)
            saved_at = time.monotonic()
    if mean is not None:
        net.load_state_dict(mean.module.state_dict())


def _moving_average(kept: float) -> Callable[..., None]:
    """Exponential, its first steps a plain mean: initial weights count for little in short runs."""

    def update(mean: list[Tensor], now: list[Tensor], step: Tensor) -> None:
        torch._foreach_lerp_(mean, now, 1 - min(kept, (1 + int(step)) / (10 + int(step))))

    return update


def _resumed(
    checkpoint: Path, net: nn.Module, optimiser: torch.optim.Optimizer, steps: int, mean: nn.Module | None
) -> int:
    """Takes over what a checkpoint holds; the steps that were done. Raises ValueError if it is damaged."""
    with reading(checkpoint) as saved:
        step = saved["step"]
        if not isinstance(step, int) or not 0 <= step <= steps:
            raise ValueError(f"step {step!r} of {steps}")
        net.load_state_dict(saved["net"])
        if step < steps:
            optimiser.load_state_dict(saved["optimiser"])
        if mean is not None:
            mean.load_state_dict(saved["mean"])
    return step


@contextmanager
def reading(checkpoint: Path) -> Iterator[Any]:
    """What a checkpoint holds. Raises ValueError, naming the file, if the block cannot use it."""
    try:
        yield unpickled(checkpoint)
    except Exception as error:  # what PyTorch raises for damaged files and states has many types
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{checkpoint} is damaged ({why}): delete it, and those of later stages, and --resume trains anew"
        ) from None


def writing(checkpoint: Path, state: object) -> None:
    """Whole or not at all: a run killed here keeps its last checkpoint. Raises OSError, naming the file."""
    content = io.BytesIO()  # written through PyTorch, a full disk would be an error without a name
    torch.save(state, content)
    replace_file(checkpoint, content.getbuffer())


def save_checkpoint(
    path: Path,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    mean: nn.Module | None = None,
) -> None:
    """A stage's state after `step` steps, as `_resumed` takes it over."""
    state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    writing(path, state if mean is None else {**state, "mean": mean.state_dict()})
