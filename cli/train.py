"""`anytime-cls train`: fit an embedded model on a folder of images."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from .errors import INTERRUPTED, Refused, complain


def train(
    dataset: Annotated[
        Path,
        typer.Argument(help="Folder of class folders, or of train/ and test/ (or val/) with class folders."),
    ],
    out: Annotated[Path, typer.Option(help="Directory for checkpoints and the finished model.")],
    name: Annotated[str, typer.Option(help="The model's name; the output folder's by default.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --out.")] = False,
    image_size: Annotated[int, typer.Option(help="Pixels a side; a token covers 4 × 4 of them.")] = 32,
    tokens: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How the tokenizer is made: labels (reconstruction and a class head), reconstruction "
            "(alone) or manifold (co-occurring patches, in closed form). The last two see no label.",
        ),
    ] = "labels",
    codes: Annotated[int, typer.Option(min=2, max=1 << 15, help="Vocabulary of --tokens manifold.")] = 1024,
    levels: Annotated[
        str,
        typer.Option(
            metavar="L,L,...",
            help="Quantisation levels of a token's code channels; their product is the vocabulary. Many "
            "small ones suit many classes: 3,3,3,3,3,3.",
        ),
    ] = "8,8,8",
    tokenizer_epochs: Annotated[float, typer.Option(help="Passes over the data for the tokenizer.")] = 12,
    epochs: Annotated[float, typer.Option(help="Passes over the data for the transformer.")] = 12,
    stages: Annotated[
        str,
        typer.Option(
            metavar="PART:STEPS,...",
            help="The transformer's training in stages: the part of every order that is scored, and the "
            "share of the steps; short ones are cheap.",
        ),
    ] = "0.25:0.4,0.5:0.4,1:0.2",
    views: Annotated[
        int, typer.Option(min=1, help="Shifted and mirrored views of every image, seen in turn.")
    ] = 4,
    contrast_epochs: Annotated[
        float,
        typer.Option(min=0, help="Passes over the data in which classes are told apart, after the others."),
    ] = 0,
    contrast_part: Annotated[
        float, typer.Option(min=0.001, max=1, help="Part of every order that they are told apart by.")
    ] = 0.5,
    rivals: Annotated[
        int, typer.Option(min=1, help="Other classes that an image's own is then told from, a step.")
    ] = 1,
    layout: Annotated[
        str, typer.Option(help="sigma (one position a token) or randar (two, as in the paper).")
    ] = "sigma",
    dim: Annotated[int, typer.Option(help="Transformer width, a multiple of 32.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Transformer layers.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 256,
    limit: Annotated[int, typer.Option(min=0, help="Use only this many training images (0: all).")] = 0,
    calibration_images: Annotated[
        int,
        typer.Option(
            min=0, help="Held-out images scored in full for calibration; 0 leaves it to 'calibrate'."
        ),
    ] = 500,
    test_images: Annotated[
        int, typer.Option(min=1, help="Test images scored in full for the reported accuracy.")
    ] = 1000,
    max_orders: Annotated[
        int, typer.Option(min=2, max=65535, help="Orders that those images are scored on, for every class.")
    ] = 32,
    license: Annotated[
        str, typer.Option(help="Licence of the weights, stated in model.json.")
    ] = "not stated",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Decides initial weights, data order and held-out images.")] = 0,
) -> int:
    """Train a tokenizer and an any-order transformer on a folder of images, and calibrate them.

    Writes a model directory that --model takes. Interrupted runs go on with --resume.

    Example: anytime-cls train data/cifar10 --out runs/cifar10
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from anytime_cls.engine.device import choose_device
    from anytime_cls.scorers.shapes import LAYOUTS
    from anytime_cls.training.recipe import TOKENS, Recipe, class_names
    from anytime_cls.training.train import finish
    from anytime_cls.training.train import train as fit

    console = Console(stderr=True)
    if dim % 32 or dim < 32:
        raise Refused(f"--dim must be a multiple of 32, got {dim}")
    if image_size % 4 or image_size < 8:
        raise Refused(f"--image-size must be a multiple of 4 from 8, got {image_size}")
    if layout not in LAYOUTS:
        raise Refused(f"unknown --layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    if tokens not in TOKENS:
        raise Refused(f"unknown --tokens {tokens!r}: choose from {', '.join(TOKENS)}")
    try:
        code_levels = tuple(int(level) for level in levels.split(","))
        pairs = [stage.split(":") for stage in stages.split(",")]
        prefixes = tuple((float(steps), float(part)) for part, steps in pairs)
    except ValueError:
        raise Refused("--levels are whole numbers, as 8,8,8, and --stages PART:STEPS pairs, as 1:1") from None
    if min(code_levels) < 2 or math.prod(code_levels) > 1 << 16:
        raise Refused(f"--levels must be 2 or more, and make at most 65536 codes, got {levels}")
    if abs(sum(steps for steps, _ in prefixes) - 1) > 1e-6 or not all(0 < part <= 1 for _, part in prefixes):
        raise Refused(f"--stages: parts lie between 0 and 1 and steps add up to 1, got {stages}")
    try:
        recipe = Recipe(
            image_size=image_size,
            levels=code_levels,
            prefixes=prefixes,
            tokens=tokens,
            codes=codes,
            views=views,
            contrast_epochs=contrast_epochs,
            contrast_part=contrast_part,
            rivals=rivals,
            tokenizer_epochs=tokenizer_epochs,
            layout=layout,
            dim=dim,
            n_layer=layers,
            n_head=dim // 32,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
        )
    except ValueError as error:
        raise Refused(str(error)) from None
    with Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        tasks: dict[str, object] = {}
        spoken = 0.0

        def show(stage: str, done: int, total: int, note: str) -> None:
            nonlocal spoken
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, note="")
            bar.update(tasks[stage], completed=done, note=note)  # type: ignore[arg-type]
            if not console.is_terminal and (time.monotonic() - spoken > 30 or done == total):
                spoken = time.monotonic()
                console.print(f"{stage} {done}/{total} {note}", highlight=False)

        def report(stage: str, step: int, steps: int, loss: float | None, rate: float) -> None:
            said = "" if loss is None else f"loss {loss:.4f}, "
            show(stage, step, steps, f"{said}{rate:.0f} images/s")

        try:
            fitted = fit(
                dataset,
                out,
                recipe,
                device=choose_device(device),
                resume=resume,
                limit=limit or None,
                report=report,
                say=lambda line: console.print(line, highlight=False),
            )
            card = finish(
                *fitted, recipe, out,
                name=name or out.resolve().name,
                labels=class_names(dataset, fitted[2].labels),
                data=f"{dataset.resolve().name}, {len(fitted[2].labels)} classes",
                notes={"license": license},
                calibration_images=calibration_images,
                test_images=test_images,
                k_max=max_orders,
                progress=lambda stage, done, total: show(stage, done, total, "images scored in full"),
            )  # fmt: skip
        except ValueError as error:
            raise Refused(str(error)) from None
        except KeyboardInterrupt:
            bar.stop()
            return complain(f"interrupted: the same command with --resume goes on from {out}", INTERRUPTED)
    metrics = card.fields.get("metrics")
    if metrics is None:
        console.print(f"{out}: model {card.name!r}, not calibrated: sweep its holdout.txt, then 'calibrate'")
        return 0
    console.print(f"{out}: model {card.name!r}, accuracy on {metrics['images']} {metrics['measured_on']}:")
    for k, value in metrics["accuracy_at_k"].items():
        console.print(
            f"  K = {k:>2}: {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]", highlight=False
        )
    alone = card.fields["naive_bayes"]
    gain = 100 * (value["value"] - alone["value"])
    console.print(f"  {gain:+.1f} points over its tokens alone, {alone['value']:.3f}", highlight=False)
    return 0
