"""Fit a tokenizer that tells pictures apart and has seen no labels.

1. *Agreement*: two views of a picture agree, as in SimCLR (Chen, Kornblith, Norouzi & Hinton, ICML 2020,
   https://arxiv.org/abs/2002.05709), through a quantiser: what is compared is read off the tokens alone.
2. *Teacher*: the same of a network too large to ship, without a quantiser. Small networks learn little by
   agreement, and much from a large one that has.
3. *Distillation*: the tokenizer of 1 goes on; from its tokens the teacher's features are told, of the picture
   and of each of its quarters' quarters, by direction (after Navaneet, Koohpayegani, Tejankar & Pirsiavash,
   *SimReg*, BMVC 2021, https://arxiv.org/abs/2201.05131).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer
from anytime_cls.training.distort import distorted
from anytime_cls.training.loop import _loop, _mix, batch_at, generator_on
from anytime_cls.training.nets import to_range
from anytime_cls.training.recipe import Recipe, Report

TEMPERATURE = 0.3  # of the soft-max over a batch: between 0.2 and 0.5 at 32 × 32 pixels
WEIGHT_DECAY = 5e-4
PLAIN = 50  # batches of plain pictures that the norms are taken from at the end
OF_PLACES = 0.5  # weight of the parts' features beside the picture's


def conv_norm(n_in: int, n_out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


def projector(width: int, out: int) -> nn.Sequential:
    """What is between features and what is compared; thrown away after training."""
    return nn.Sequential(
        nn.Linear(width, 2 * width, bias=False),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(inplace=True),
        nn.Linear(2 * width, out),
    )


class TokenReader(nn.Module):
    """Codes [B, n_codes, g, g] → features [B, width, g, g], a place read with its eight neighbours.

    Places are averaged after it: tokens have to say something each, and together with those around them.
    """

    def __init__(self, config: FSQConfig, width: int = 512):
        super().__init__()
        self.net = nn.Sequential(conv_norm(len(config.levels), width // 2), conv_norm(width // 2, width, 1))

    def forward(self, codes: Tensor) -> Tensor:
        found: Tensor = self.net(codes)
        return found


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(conv_norm(width, width), conv_norm(width, width))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.net(x)
        return found


class Teacher(nn.Module):
    """A residual network of nine layers: pixels [B, 3, S, S] in [-1, 1] → features [B, 8 w, S/8, S/8]."""

    def __init__(self, width: int):
        super().__init__()
        self.features = 8 * width
        w = width
        self.net = nn.Sequential(
            conv_norm(3, w),
            conv_norm(w, 2 * w), nn.MaxPool2d(2), Residual(2 * w),
            conv_norm(2 * w, 4 * w), nn.MaxPool2d(2), Residual(4 * w),
            conv_norm(4 * w, 8 * w), nn.MaxPool2d(2), Residual(8 * w),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.net(pixels)
        return found


class Tokens(nn.Module):
    """A tokenizer while it is trained: pixels → codes in [-1, 1] with a straight-through gradient."""

    def __init__(self, config: FSQConfig):
        super().__init__()
        self.tokenizer = FSQTokenizer(config)
        # every code channel is centred before it is rounded: none is ever the same for all pictures
        norm = nn.BatchNorm2d(len(config.levels), affine=False)
        self.tokenizer.to_code = nn.Sequential(self.tokenizer.to_code, norm)  # type: ignore[assignment]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tokenizer.quantise(pixels)

    def finished(self) -> FSQTokenizer:
        """A tokenizer of its own, in eval mode, the last norm in its convolution."""
        found = FSQTokenizer(self.tokenizer.config).to(next(self.parameters()).device)
        conv, norm = self.tokenizer.to_code.eval().children()
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        found.encoder.load_state_dict(self.tokenizer.encoder.state_dict())
        found.to_code.load_state_dict(fuse_conv_bn_eval(conv, norm).state_dict())
        return found.eval()


def fit_selfsupervised(
    images: Tensor, recipe: Recipe, checkpoints: dict[str, Path], device: torch.device, report: Report
) -> FSQTokenizer:
    """All three parts, the last two if there are epochs for a teacher. Returns the tokenizer in eval mode.

    images : uint8 [n, 3, S, S], on the CPU or the device. checkpoints: of "tokenizer", "teacher" and
    "distillation".
    """
    tokens = fit_agreement(images, recipe, checkpoints["tokenizer"], device, report)
    if recipe.teacher_epochs:
        teacher = fit_teacher(images, recipe, checkpoints["teacher"], device, report)
        distil(tokens, teacher, images, recipe, checkpoints["distillation"], device, report)
    _renorm(tokens, images, recipe, device)
    return tokens.finished()


def fit_agreement(
    images: Tensor, recipe: Recipe, checkpoint: Path, device: torch.device, report: Report
) -> Tokens:
    """Part 1."""
    torch.manual_seed(recipe.seed)
    tokens, reader = Tokens(recipe.fsq_config()), TokenReader(recipe.fsq_config())
    nets = nn.ModuleDict({"tokens": tokens, "reader": reader, "projector": projector(512, 128)})
    _fit(
        "tokenizer", nets, lambda pixels: reader(tokens(pixels)), images, recipe, recipe.tokenizer_epochs,
        checkpoint, device, report,
    )  # fmt: skip
    return tokens


def fit_teacher(
    images: Tensor, recipe: Recipe, checkpoint: Path, device: torch.device, report: Report
) -> Teacher:
    """Part 2."""
    torch.manual_seed(recipe.seed + 3)
    teacher = Teacher(recipe.teacher_width)
    nets = nn.ModuleDict({"teacher": teacher, "projector": projector(teacher.features, 128)})
    _fit("teacher", nets, teacher, images, recipe, recipe.teacher_epochs, checkpoint, device, report)
    return teacher.eval()


def _fit(
    stage: str, nets: nn.ModuleDict, features: Callable[[Tensor], Tensor], images: Tensor, recipe: Recipe,
    epochs: float, checkpoint: Path, device: torch.device, report: Report,
) -> None:  # fmt: skip
    """Two views of a picture agree in the mean of their features, projected."""
    _placed(nets, device)

    def loss_of(step: int) -> Tensor:
        pixels, generator = _batch(images, step, recipe, device)
        with torch.autocast(device.type, enabled=False):
            both = torch.cat([distorted(pixels, generator), distorted(pixels, generator)])
        found = nets["projector"](features(both).mean((2, 3)))
        with torch.autocast(device.type, enabled=False):
            return agreement(F.normalize(found.float(), dim=1), TEMPERATURE)

    _run(stage, nets, [nets], loss_of, len(images), recipe, epochs, checkpoint, device, report)


def distil(
    tokens: Tokens, teacher: Teacher, images: Tensor, recipe: Recipe, checkpoint: Path, device: torch.device,
    report: Report,
) -> None:  # fmt: skip
    """Part 3: `tokens` goes on, in place."""
    torch.manual_seed(recipe.seed + 4)
    n = teacher.features
    nets = nn.ModuleDict(
        {
            "tokens": tokens,
            "reader": TokenReader(recipe.fsq_config()),
            "whole": projector(512, n),
            "places": nn.Conv2d(512, n, 1),
            # the teacher's features are compared by direction, each centred and scaled: none outweighs others
            "of_whole": nn.BatchNorm1d(n, affine=False),
            "of_places": nn.BatchNorm2d(n, affine=False),
        }
    )
    _placed(nets, device)
    teacher.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def loss_of(step: int) -> Tensor:
        pixels, generator = _batch(images, step, recipe, device)
        with torch.autocast(device.type, enabled=False):
            view = distorted(pixels, generator, smallest=0.35)
        with torch.no_grad():
            wanted = teacher(view)
            whole, places = nets["of_whole"](wanted.mean((2, 3)).float()), nets["of_places"](wanted.float())
        read = nets["reader"](tokens(view))
        told = nets["whole"](read.mean((2, 3)))
        parts = nets["places"](F.adaptive_avg_pool2d(read, places.shape[-2:]))
        return _apart(told, whole) + OF_PLACES * _apart(parts, places)

    trained = [nets[name] for name in ("tokens", "reader", "whole", "places")]
    _run(
        "distillation", nets, trained, loss_of, len(images), recipe, recipe.distil_epochs, checkpoint,
        device, report,
    )  # fmt: skip


def _apart(told: Tensor, wanted: Tensor) -> Tensor:
    """Mean 1 − cosine along dimension 1."""
    return 1 - F.cosine_similarity(told.float(), wanted, dim=1).mean()


def _placed(nets: nn.ModuleDict, device: torch.device) -> None:
    nets.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    nets.train()


def _batch(images: Tensor, step: int, recipe: Recipe, device: torch.device) -> tuple[Tensor, torch.Generator]:
    index, generator = batch_at(step, len(images), recipe, stage=1)
    return images[index].to(device), generator_on(device, generator)


def _run(
    stage: str, nets: nn.ModuleDict, trained: list[nn.Module], loss_of: Callable[[int], Tensor], n: int,
    recipe: Recipe, epochs: float, checkpoint: Path, device: torch.device, report: Report,
) -> None:  # fmt: skip
    """SGD with Nesterov momentum, warm-up and cosine decay. n: images."""
    parameters = [p for net in trained for p in net.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = recipe.tokenizer_lr
    optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, fused=device.type == "cuda")
    steps = max(1, recipe.tokenizer_min_steps, int(epochs * n / recipe.batch_size))
    warmup = max(1, min(500, steps // 10))

    def rate_at(step: int) -> float:
        if step < warmup:
            return rate * (step + 1) / warmup
        return rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    _loop(stage, nets, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report)


def agreement(z: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (equation 1): unit vectors [2B, D], row i and row i + B of one picture → nats, scalar."""
    n = len(z)
    similar = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similar, torch.arange(n, device=z.device).roll(n // 2))


@torch.no_grad()
def _renorm(tokens: Tokens, images: Tensor, recipe: Recipe, device: torch.device) -> None:
    """Takes the norms' means and variances anew, from plain pictures: those are what is tokenised."""
    for module in tokens.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over what follows
    tokens.train()
    generator = torch.Generator().manual_seed(_mix(recipe.seed, 4))
    for index in torch.randperm(len(images), generator=generator).split(recipe.batch_size)[:PLAIN]:
        if len(index) > 1:
            tokens(to_range(images[index].to(device)))
