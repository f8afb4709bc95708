"""How a model is trained: the recipe, the images, and how they are split."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from anytime_cls.datasets.base import Dataset, Sample
from anytime_cls.datasets.layouts import Listing, own_names
from anytime_cls.models.load import build_transformer
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import ImageError, decode
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.fsq import FSQConfig, FSQTokenizer
from anytime_cls.tokenizers.manifold import ManifoldConfig, ManifoldTokenizer
from anytime_cls.training.outlook import dataset_of

# by reconstruction and a class head, by reconstruction alone, in closed form, by agreement of two views: the
# last three see no labels
TOKENS = ("labels", "reconstruction", "manifold", "selfsupervised")
TrainedTokenizer = FSQTokenizer | ManifoldTokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, with the data; stored in the model's JSON."""

    image_size: int = 32
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 2)
    levels: tuple[int, ...] = (8, 8, 8)
    tokens: str = "labels"  # one of TOKENS
    words: int = 2048  # of the manifold's dictionary
    word_width: int = 128  # of a word's embedding
    codes: int = 1024  # vocabulary of the manifold
    tokenizer_epochs: float = 12
    tokenizer_lr: float = 0.1
    teacher_epochs: float = 0  # of selfsupervised tokens: 0, they learn by agreement alone
    teacher_width: int = 64
    distil_epochs: float = 12
    layout: str = "sigma"  # shapes.LAYOUTS: what the transformer reads at each position
    dim: int = 128
    n_layer: int = 4
    n_head: int = 4
    epochs: float = 12
    views: int = 4  # augmented, tokenised views of every image, seen in turn
    # (share of the steps, share of each order they train on): a prefix costs its share, and says most
    prefixes: tuple[tuple[float, float], ...] = ((0.4, 0.25), (0.4, 0.5), (0.2, 1.0))
    averaging: float = 0.998  # of the weights' moving average, what a step leaves of it
    contrast_epochs: float = 0  # in which classes are told apart, after the others
    contrast_part: float = 0.5  # of every order, that they are told apart by
    rivals: int = 1  # classes that an image's own is told from
    lr: float = 2e-3
    contrast_lr: float = 5e-4
    class_rate: float = 1.0  # of class vectors, times that of the other weights; but for 1 they do not decay
    weight_decay: float = 0.05
    class_dropout: float = 0.1
    batch_size: int = 256
    holdout: float = 0.04  # share of the training images kept for calibration
    tokenizer_min_steps: int = 0  # however few the images are
    min_steps: int = 0  # of the transformer, likewise
    start: str = ""  # the model that was begun from (`start.identity`); then tokens and sizes are its own
    class_steps: int = 100  # in which its classes are replaced
    tune_steps: int = 1000  # in which all its weights move after that
    class_lr: float = 3e-2
    tune_lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "dim",
            "n_layer",
            "n_head",
            "views",
            "batch_size",
            "words",
            "word_width",
            "codes",
            "rivals",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {getattr(self, name)}")
        for name in (
            "tokenizer_epochs",
            "epochs",
            "tokenizer_lr",
            "lr",
            "contrast_lr",
            "class_rate",
            "class_lr",
            "tune_lr",
        ):
            if not 0 < getattr(self, name) < math.inf:  # NaN is not, either
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("tokenizer_min_steps", "min_steps", "class_steps", "tune_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be a whole number from 0, got {getattr(self, name)}")
        if not 0 <= self.contrast_epochs < math.inf:
            raise ValueError(f"contrast_epochs must be a number from 0, got {self.contrast_epochs}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed}")

    def fsq_config(self) -> FSQConfig:
        return FSQConfig(self.image_size, self.widths, self.blocks, self.levels)

    def manifold_config(self) -> ManifoldConfig:
        return ManifoldConfig(self.image_size, self.words, self.word_width, self.codes)

    def new_model(self, n_classes: int) -> Transformer:
        manifold = self.tokens == "manifold"
        tokenizer = self.manifold_config() if manifold else self.fsq_config()
        return build_transformer(
            self.layout,
            {
                "dim": self.dim,
                "n_layer": self.n_layer,
                "n_head": self.n_head,
                "vocab_size": tokenizer.vocab_size,
                "n_tokens": tokenizer.grid**2,
                "n_classes": n_classes,
                "multiple_of": 64,
            },
        )


class Report(Protocol):
    """Receives a stage's progress: (stage, step, steps, loss, images per second); None: has no loss."""

    def __call__(self, stage: str, step: int, steps: int, loss: float | None, rate: float) -> None: ...


# `train --recipe NAME`: what a CPU can do in an hour, and a GPU in ten minutes
RECIPES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "tokens": "selfsupervised", "widths": (48, 96, 160), "blocks": (1, 1, 2), "levels": (2,) * 10,
        "tokenizer_epochs": 150.0, "tokenizer_lr": 0.3, "teacher_epochs": 100.0, "distil_epochs": 50.0,
        "dim": 128, "n_layer": 5, "n_head": 4, "epochs": 60.0, "views": 32, "batch_size": 1024,
        "prefixes": ((0.3, 0.25), (0.3, 0.5), (0.4, 1.0)), "averaging": 0.999, "weight_decay": 0.1,
    },
}  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """The images of a data set, decoded and cropped."""

    images: Tensor  # uint8 [n, 3, S, S]
    labels: Tensor  # int64 [n]
    dataset: Dataset  # by the folders' names

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, device: torch.device) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, index: np.ndarray) -> ImageSet:
        at, samples = torch.from_numpy(index), [self.dataset.samples[i] for i in index]
        return ImageSet(self.images[at], self.labels[at], replace(self.dataset, samples=samples))


def load_images(
    listing: Listing, size: int, limit: int | None = None, seed: int = 0, classes: list[str] | None = None
) -> ImageSet:
    """The images of `dataset_of` (any format Pillow reads), cropped to `size`.

    Raises ValueError as it does, or naming the first file that is not an image.
    """
    dataset = dataset_of(listing, limit, seed, classes)

    def read(sample: Sample) -> np.ndarray:
        try:
            return np.asarray(center_crop(decode(sample.load()), size))
        except ImageError as error:
            raise ValueError(f"{sample.path}: {error}") from None

    with ThreadPoolExecutor() as pool:
        stack = np.stack(list(pool.map(read, dataset.samples, chunksize=64)))
    images = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor([sample.label for sample in dataset.samples]), dataset)


def class_names(root: Path, folders: list[str]) -> list[str]:
    """What people call the classes: by the data set's own table of folders and names, else its folders.

    Of several names, separated by commas, the first, unless two classes share it.
    """
    table = own_names(root, root)
    full = [table.get(folder, folder) for folder in folders]
    short = [name.split(",")[0].strip() for name in full]
    count = Counter(name.casefold() for name in short)
    return [a if count[a.casefold()] == 1 else b for a, b in zip(short, full, strict=True)]


def split_holdout(data: ImageSet, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices kept for training and held out, stratified by class.

    Raises ValueError, naming it, for a class of one image: there is none left to train on.
    """
    rng = np.random.default_rng(seed)
    labels = data.labels.numpy()
    held = []
    for c, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < 2:
            raise ValueError(
                f"{data.dataset.root}: class {data.dataset.labels[c]!r} has one image, and needs two: one to "
                "train on and one to hold out"
            )
        held.append(rng.choice(np.flatnonzero(labels == c), max(1, round(share * count)), replace=False))
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
