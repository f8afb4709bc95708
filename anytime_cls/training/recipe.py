"""How a model is trained: the recipe, the images, and how they are split."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from anytime_cls.models.labels import read_table
from anytime_cls.models.load import build_transformer
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import EXTENSIONS, ImageError, decode
from anytime_cls.scorers.sigma import Transformer
from anytime_cls.tokenizers.fsq import FSQConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, with the data; stored in the model's JSON."""

    image_size: int = 32
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 2)
    levels: tuple[int, ...] = (8, 8, 8)
    tokenizer_labels: bool = True  # the class head: tokens then carry label information
    tokenizer_epochs: float = 12
    tokenizer_lr: float = 0.1
    layout: str = "sigma"  # shapes.LAYOUTS: what the transformer reads at each position
    dim: int = 128
    n_layer: int = 4
    n_head: int = 4
    epochs: float = 12
    views: int = 4  # augmented, tokenised views of every image, seen in turn
    # (share of the steps, share of each order they train on): a prefix costs its share, and says most
    prefixes: tuple[tuple[float, float], ...] = ((0.4, 0.25), (0.4, 0.5), (0.2, 1.0))
    lr: float = 2e-3
    weight_decay: float = 0.05
    class_dropout: float = 0.1
    batch_size: int = 256
    holdout: float = 0.04  # share of the training images kept for calibration
    seed: int = 0

    def tokenizer_config(self) -> FSQConfig:
        return FSQConfig(self.image_size, self.widths, self.blocks, self.levels)

    def new_model(self, n_classes: int) -> Transformer:
        tokenizer = self.tokenizer_config()
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
    """Receives a stage's progress: (stage, step, steps, loss, images per second)."""

    def __call__(self, stage: str, step: int, steps: int, loss: float, rate: float) -> None: ...


@dataclass(frozen=True)
class ImageSet:
    """Decoded, cropped images with labels."""

    images: Tensor  # uint8 [n, 3, S, S]
    labels: Tensor  # int64 [n]
    classes: list[str]  # the folders' names
    ids: list[str]  # class/file, as `sweep` knows the images

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray) -> ImageSet:
        at = torch.from_numpy(index)
        return ImageSet(self.images[at], self.labels[at], self.classes, [self.ids[i] for i in index])


def load_folder(root: Path, size: int, limit: int | None = None) -> ImageSet:
    """Read `root/<class>/*.jpg` (any format Pillow reads), cropped to `size`.

    `limit` keeps that many images, evenly over classes. Raises ValueError when there are fewer than two
    classes, or naming the first file that is not an image.
    """
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = {
        name: sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in EXTENSIONS)
        for name in classes
    }
    classes = [name for name in classes if files[name]]
    if len(classes) < 2:
        raise ValueError(f"{root}: expected a folder for each of two or more classes, found {len(classes)}")
    per_class = None if limit is None else max(1, limit // len(classes))
    jobs = [(f, i) for i, name in enumerate(classes) for f in files[name][:per_class]]

    def read(file: Path) -> np.ndarray:
        try:
            return np.asarray(center_crop(decode(file), size))
        except ImageError as error:
            raise ValueError(f"{file}: {error}") from None

    with ThreadPoolExecutor() as pool:
        stack = np.stack(list(pool.map(read, (f for f, _ in jobs), chunksize=64)))
    images = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()
    ids = [file.relative_to(root).as_posix() for file, _ in jobs]
    return ImageSet(images, torch.tensor([i for _, i in jobs]), classes, ids)


def class_names(root: Path, folders: list[str]) -> list[str]:
    """What people call the classes: from the data set's classes.tsv (folder, tab, names), else its folders.

    Of several names, separated by commas, the first, unless two classes share it.
    """
    table = read_table(root / "classes.tsv") if (root / "classes.tsv").is_file() else {}
    full = [table.get(folder, folder) for folder in folders]
    short = [name.split(",")[0].strip() for name in full]
    count = Counter(name.casefold() for name in short)
    return [a if count[a.casefold()] == 1 else b for a, b in zip(short, full, strict=True)]


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """The training folder of a data set and its test folder, if it has one."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected class folders, or train/ and test/ of them")
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    return (train, test) if train.is_dir() else (root, None)


def split_holdout(labels: Tensor, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices kept for training and held out, stratified by class."""
    rng = np.random.default_rng(seed)
    labels_np = labels.numpy()
    held = []
    for c in np.unique(labels_np):
        members = np.flatnonzero(labels_np == c)
        held.append(rng.choice(members, max(1, round(share * len(members))), replace=False))
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels_np)), held_out), held_out
