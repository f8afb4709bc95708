"""Train an embedded model on an image folder: a tokenizer, a transformer on its tokens, their calibration.

Three stages, each resumable from `checkpoint-*.pt` in the output directory:

1. tokenizer: reconstruction, and (unless `tokenizer_labels` is off) a class head on the quantised map;
2. transformer: class-conditional next-token likelihood under uniformly random orders, on tokens of
   freshly augmented images; most steps see only a prefix of each order, which costs its share;
3. calibration on images held out of both: temperature and variance priors.

Every step's data depend on (seed, step) alone, so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytime_cls.bounds import VariancePrior
from anytime_cls.calibrate import calibrate, full_scores, measure
from anytime_cls.engine import Engine
from anytime_cls.files import replacing
from anytime_cls.fsq import FSQConfig, FSQTokenizer
from anytime_cls.image import ImageError, center_crop, content_key, decode
from anytime_cls.inputs import EXTENSIONS
from anytime_cls.labels import read_table
from anytime_cls.sigma import Transformer
from anytime_cls.train_tokenizer import ClassHead, PixelDecoder, augment, to_range
from anytime_cls.zoo import ModelCard, build_transformer, save_model


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
    layout: str = "sigma"  # zoo.LAYOUTS: what the transformer reads at each position
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


def train(
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: torch.device,
    resume: bool = False,
    limit: int | None = None,
    report: Report,
) -> tuple[FSQTokenizer, Transformer, ImageSet, ImageSet | None]:
    """Stages 1 and 2. Returns tokenizer, model, the held-out images and the test images (if any).

    `holdout.txt` in `out` lists the held-out images for `sweep --ids`, to record a trace for `calibrate`.

    Raises
    ------
    ValueError : bad data, or checkpoints in `out` that this run may not continue
    """
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe, resume)
    train_dir, test_dir = find_splits(data)
    everything = load_folder(train_dir, recipe.image_size, limit)
    keep, held = split_holdout(everything.labels, recipe.holdout, recipe.seed)
    fitting, held_out = everything.subset(keep), everything.subset(held)
    (out / "holdout.txt").write_text("\n".join(held_out.ids) + "\n", encoding="utf-8")
    test = load_folder(test_dir, recipe.image_size, limit and max(limit // 4, 100)) if test_dir else None
    if test is not None and test.classes != everything.classes:
        raise ValueError(f"{test_dir}: its classes differ from {train_dir}'s")
    tokenizer = fit_tokenizer(fitting, recipe, out / "checkpoint-tokenizer.pt", device, report)
    model = fit_transformer(tokenizer, fitting, recipe, out / "checkpoint-transformer.pt", device, report)
    return tokenizer, model, held_out, test


def _claim(out: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to overwrite another run; remember this one's recipe."""
    marker = out / "recipe.json"
    text = json.dumps(dataclasses.asdict(recipe), indent=1)
    if marker.exists():
        if not resume:
            raise ValueError(f"{out} holds a run already: add --resume to go on, or choose another --out")
        if json.loads(marker.read_text()) != json.loads(text):
            raise ValueError(f"{out} was started with another recipe: see {marker}")
    marker.write_text(text)


def mixed_precision(device: torch.device) -> bool:
    """bf16 autocast pays where the hardware multiplies bf16: GPUs and CPUs with AMX or AVX-512 BF16."""
    if device.type == "cpu":
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return device.type == "cuda"


def fit_tokenizer(
    data: ImageSet, recipe: Recipe, checkpoint: Path, device: torch.device, report: Report
) -> FSQTokenizer:
    """Stage 1: SGD with Nesterov momentum, warm-up and linear decay. Returns the tokenizer in eval mode."""
    torch.manual_seed(recipe.seed)
    config = recipe.tokenizer_config()
    nets = nn.ModuleDict(
        {
            "tokenizer": FSQTokenizer(config),
            "decoder": PixelDecoder(config),
            "head": ClassHead(config, len(data.classes)),
        }
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    tokenizer, decoder, head = nets["tokenizer"], nets["decoder"], nets["head"]
    matrices = [p for p in nets.parameters() if p.ndim > 1]
    vectors = [p for p in nets.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=recipe.tokenizer_lr, momentum=0.9, nesterov=True)
    steps = max(1, int(recipe.tokenizer_epochs * len(data) / recipe.batch_size))
    warmup = min(400, steps // 5)

    def loss_of(step: int) -> Tensor:
        index, generator = batch_at(step, len(data), recipe, stage=1)
        pixels = to_range(augment(data.images[index], generator)).to(device)
        codes = tokenizer.quantise(pixels)
        loss = 2 * F.mse_loss(decoder(codes).float(), pixels)
        if recipe.tokenizer_labels:
            logits = head(codes).float()
            loss = loss + F.cross_entropy(logits, data.labels[index].to(device), label_smoothing=0.1)
        return loss

    def rate_at(step: int) -> float:
        decay = 1 - max(0, step - warmup) / max(1, steps - warmup)
        return recipe.tokenizer_lr * min(1, (step + 1) / max(1, warmup)) * decay

    nets.train()
    _loop("tokenizer", nets, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report)
    return nets.eval()["tokenizer"]


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
    model = recipe.new_model(len(data.classes)).to(device)
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
        log_p = model(tokens.to(device), classes.to(device), orders.to(device), prefix)
        return -log_p.mean()

    def rate_at(step: int) -> float:
        warmup = min(200, steps // 10)
        if step < warmup:
            return recipe.lr * (step + 1) / warmup
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    model.train()
    _loop("transformer", model, optimiser, steps, loss_of, rate_at, recipe, checkpoint, device, report)
    return model.eval()


def batch_at(step: int, n: int, recipe: Recipe, stage: int) -> tuple[Tensor, torch.Generator]:
    """The images of a step (an epoch is a fresh permutation) and its random generator."""
    per_epoch = max(1, n // recipe.batch_size)
    epoch, at = divmod(step, per_epoch)
    shuffle = torch.Generator().manual_seed(_mix(recipe.seed, 10 + stage, epoch))
    index = torch.randperm(n, generator=shuffle)[at * recipe.batch_size : (at + 1) * recipe.batch_size]
    return index, torch.Generator().manual_seed(_mix(recipe.seed, 20 + stage, step))


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
    every: float = 60.0,
) -> None:
    """Run `steps` optimiser steps from the checkpoint if there is one, saving every `every` seconds."""
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        net.load_state_dict(saved["net"])
        if saved["step"] < steps:
            optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    amp = mixed_precision(device)
    smooth, saved_at, started = None, time.monotonic(), time.monotonic()
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0 if stage == "tokenizer" else 1.0)
        optimiser.step()
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"{stage}: the loss became {value} at step {step}; try a lower learning rate")
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        rate = (step - first + 1) * recipe.batch_size / (time.monotonic() - started)
        report(stage, step + 1, steps, smooth, rate)
        if time.monotonic() - saved_at > every or step + 1 == steps:
            save_checkpoint(checkpoint, net, optimiser, step + 1)
            saved_at = time.monotonic()


def save_checkpoint(path: Path, net: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Write atomically: a run killed here keeps its last checkpoint."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, file)


def finish(
    tokenizer: FSQTokenizer,
    model: Transformer,
    held_out: ImageSet,
    test: ImageSet | None,
    recipe: Recipe,
    out: Path,
    *,
    name: str,
    labels: list[str],
    data: str,
    notes: dict[str, str],
    calibration_images: int,
    test_images: int,
    k_max: int = 32,
    progress: Callable[[str, int, int], None],
) -> ModelCard:
    """Stage 3: store the weights (transformer in float16), calibrate and measure them as stored.

    Held-out images give the priors and the temperature; test images (the held-out ones, and the metrics
    say so, where the data have no test folder) the accuracies at K = 1, 4, 16, 32 and the rules side by side.
    Without calibration images neither is done: a trace (`sweep`, `calibrate`) serves many classes better.
    labels: names of the classes, in the order of the folders.
    """
    stored = {key: value.half() for key, value in model.reference_state().items()}
    model.load_reference({key: value.float() for key, value in stored.items()})
    measured: dict[str, Any] = {}
    if calibration_images:
        chosen = stratified(held_out, calibration_images, recipe.seed)
        tests = None if test is None else stratified(test, test_images, recipe.seed)
        measured = evaluate(tokenizer, model, chosen, tests, recipe.seed, k_max, out, progress)
    config = tokenizer.config
    fields = {
        "name": name,
        "labels": labels,
        **({} if labels == held_out.classes else {"synsets": held_out.classes}),
        "image_size": config.image_size,
        "data": data,
        **notes,
        "tokenizer": {"kind": "fsq", "saw_labels": recipe.tokenizer_labels, **config.to_dict()},
        "layout": recipe.layout,
        "model": model.config.to_dict(),
        **measured,
        "recipe": dataclasses.asdict(recipe),
    }
    return save_model(out, fields, stored, tokenizer.state_dict())


def evaluate(
    tokenizer: FSQTokenizer,
    model: Transformer,
    held_out: ImageSet,
    test: ImageSet | None,
    seed: int,
    k_max: int,
    out: Path,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """`temperature`, `priors` and `metrics` of model.json; scores.npz in `out` keeps every score."""
    engine = Engine(model)

    def score(stage: str, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        pairs = images_to_tokens(tokenizer, images.images, engine.device)
        scores = full_scores(engine, pairs, k_max, seed, lambda done: progress(stage, done, len(images)))
        return scores, images.labels.numpy()

    held_scores, held_labels = score("calibration", held_out)
    fitted = calibrate(held_scores, held_labels)
    scores, truth = (held_scores, held_labels) if test is None else score("test", test)
    priors = {key: VariancePrior.from_dict(value) for key, value in fitted["priors"].items()}
    np.savez_compressed(  # every pass is kept, so that anything else can be fitted without a model
        out / "scores.npz",
        calibration=held_scores,
        calibration_labels=held_labels,
        test=scores,
        test_labels=truth,
    )
    measured_on = "held-out training images" if test is None else "test images"
    metrics = measure(scores, truth, priors, fitted["temperature"], measured_on)
    return {**fitted, "metrics": metrics}


def stratified(images: ImageSet, limit: int, seed: int) -> ImageSet:
    """About `limit` images, the same number of each class, chosen by the seed; all if there are fewer."""
    if limit >= len(images):
        return images
    return images.subset(split_holdout(images.labels, limit / len(images), seed)[1])


def images_to_tokens(
    tokenizer: FSQTokenizer, images: Tensor, device: torch.device
) -> Iterator[tuple[np.ndarray, bytes]]:
    """Token ids [N] and content key of each uint8 image, one at a time as the classifier does it."""
    with torch.inference_mode():
        for image in images:
            pixels = to_range(image[None]).to(device)
            yield tokenizer.encode(pixels)[0].cpu().numpy(), content_key(image.permute(1, 2, 0).numpy())
