"""`anytime-cls train`: a model of one's own classes, from a folder of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import INTERRUPTED, Refused, complain
from .preset import typed
from .train_fields import fields_of

if TYPE_CHECKING:
    from anytime_cls.training.finish import Scoring
    from anytime_cls.training.outlook import Outlook

    from .show.train import Bars

TOKENS, NETWORK, HELD = "Tokens, from nothing", "Network", "Held-out and test images"


def train(
    context: typer.Context,
    dataset: Annotated[
        Path,
        typer.Argument(help="Folder of class folders, or of train/ and test/ (or val/) with class folders."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory for checkpoints and the finished model.")
    ],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MODEL",
            show_default=False,
            help="Keep this model's tokens and network, and replace its classes: for few pictures, in some "
            "minutes. none: train from nothing. Default: an embedded model for less than 2,000 pictures, "
            "none for more.",
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="any-order, or a model to compare such a one with, on the tokens of --from MODEL and of its "
            "size: raster (one order), dit (diffusion on its latents), discriminative (its transformer with "
            "a class output), head (a small read-out).",
        ),
    ] = "any-order",
    name: Annotated[str, typer.Option(help="The model's name; the output folder's by default.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoints in --out.")] = False,
    preset: Annotated[
        str,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="cpu, or gpu: self-supervised tokens, learnt from a larger network, and many more steps; "
            "about ten minutes of a large GPU for 50,000 pictures. Typed options change either.",
        ),
    ] = "cpu",
    teacher_epochs: Annotated[
        float,
        typer.Option(
            rich_help_panel=TOKENS,
            min=0,
            help="Of --tokens selfsupervised: passes over the data for a larger network that the tokenizer "
            "then learns from; 0: it learns by itself.",
        ),
    ] = 0,
    distil_epochs: Annotated[
        float,
        typer.Option(rich_help_panel=TOKENS, min=0.01, help="Passes in which it learns from that network."),
    ] = 12,
    image_size: Annotated[
        int, typer.Option(rich_help_panel=TOKENS, help="Pixels a side; a token covers 4 × 4 of them.")
    ] = 32,
    tokens: Annotated[
        str,
        typer.Option(
            rich_help_panel=TOKENS,
            metavar="NAME",
            help="How the tokenizer is made: manifold (co-occurring patches, in closed form), selfsupervised "
            "(two views of a picture agree; with --teacher-epochs learnt from a larger network: for a GPU), "
            "reconstruction, or labels (reconstruction and a class head). Only the last sees labels.",
        ),
    ] = "manifold",
    codes: Annotated[
        int,
        typer.Option(
            rich_help_panel=TOKENS,
            min=2,
            max=1 << 15,
            help="Vocabulary of --tokens manifold; of few pictures less.",
        ),
    ] = 1024,
    levels: Annotated[
        str,
        typer.Option(
            rich_help_panel=TOKENS,
            metavar="L,L,...",
            help="Quantisation levels of a token's code channels; their product is the vocabulary. Many "
            "small ones suit many classes: 3,3,3,3,3,3.",
        ),
    ] = "8,8,8",
    tokenizer_epochs: Annotated[
        float,
        typer.Option(
            rich_help_panel=TOKENS,
            help="Passes over the data for the tokenizer; untyped, 1,000 steps at least.",
        ),
    ] = 12,
    epochs: Annotated[
        float,
        typer.Option(
            rich_help_panel=NETWORK,
            help="Passes over the data for the transformer; untyped, 1,500 steps at least.",
        ),
    ] = 12,
    stages: Annotated[
        str,
        typer.Option(
            rich_help_panel=NETWORK,
            metavar="PART:STEPS,...",
            help="The transformer's training in stages: the part of every order that is scored, and the "
            "share of the steps; short ones are cheap.",
        ),
    ] = "0.25:0.4,0.5:0.4,1:0.2",
    views: Annotated[
        int,
        typer.Option(
            rich_help_panel=NETWORK, min=1, help="Shifted and mirrored views of every image, seen in turn."
        ),
    ] = 4,
    contrast_epochs: Annotated[
        float,
        typer.Option(
            rich_help_panel=NETWORK,
            min=0,
            help="Passes over the data in which classes are told apart, after the others.",
        ),
    ] = 0,
    contrast_part: Annotated[
        float,
        typer.Option(
            rich_help_panel=NETWORK, min=0.001, max=1, help="Part of every order that they are told apart by."
        ),
    ] = 0.5,
    rivals: Annotated[
        int,
        typer.Option(
            rich_help_panel=NETWORK,
            min=1,
            help="Other classes that an image's own is then told from, a step.",
        ),
    ] = 1,
    layout: Annotated[
        str,
        typer.Option(
            rich_help_panel=NETWORK, help="sigma (one position a token) or randar (two, as in the paper)."
        ),
    ] = "sigma",
    dim: Annotated[
        int, typer.Option(rich_help_panel=NETWORK, help="Transformer width, a multiple of 32.")
    ] = 128,
    layers: Annotated[int, typer.Option(rich_help_panel=NETWORK, min=1, help="Transformer layers.")] = 4,
    batch_size: Annotated[
        int, typer.Option(rich_help_panel=NETWORK, min=1, help="Images a step; of few pictures 64.")
    ] = 256,
    limit: Annotated[int, typer.Option(min=0, help="Use only this many training images (0: all).")] = 0,
    calibration_images: Annotated[
        int,
        typer.Option(
            rich_help_panel=HELD,
            min=0,
            help="Held-out images scored in full to choose and calibrate a race; 0: none is.",
        ),
    ] = 500,
    test_images: Annotated[
        int,
        typer.Option(
            rich_help_panel=HELD, min=1, help="Test images scored in full for the reported accuracy."
        ),
    ] = 1000,
    max_orders: Annotated[
        int,
        typer.Option(
            rich_help_panel=HELD,
            min=2,
            max=65535,
            help="Orders that those images are scored on at most, for every class.",
        ),
    ] = 32,
    license: Annotated[
        str, typer.Option(help="Licence of the weights, stated in model.json.")
    ] = "not stated",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Decides initial weights, data order and held-out images.")] = 0,
) -> int:
    """Train a model on a folder of images, and choose and calibrate its race.

    Of few pictures it keeps an embedded model's tokens and network, and learns your classes (--from).
    Writes a model folder that --model takes. Interrupted runs go on with --resume.

    \b
    Example: anytime-cls train photos --out runs/photos
             anytime-cls train data/cifar10 --out runs/cifar10 --epochs 20
    """
    from anytime_cls.training.outlook import outlook
    from anytime_cls.training.place import check_place

    try:
        check_place(out)
        seen = outlook(dataset, limit or None, seed)
        seen.check(calibrates=bool(calibration_images))
    except ValueError as error:  # before torch is imported
        raise Refused(str(error)) from None

    from rich.console import Console

    from anytime_cls.engine.device import choose_device
    from anytime_cls.training.finish import Scoring, finish
    from anytime_cls.training.folder import begun_recipe, check_recipe, is_finished
    from anytime_cls.training.forecast import forecast
    from anytime_cls.training.recipe import class_names
    from anytime_cls.training.settle import chosen_start, settled
    from anytime_cls.training.start import load_start, named, read_start, written
    from anytime_cls.training.train import train as fit

    from .show import train as show

    fields = fields_of(context, preset, layout, tokens, image_size, dim, levels, stages)
    scoring = Scoring(calibration_images, test_images, max_orders)
    bars = show.Bars(Console(stderr=True))
    if method != "any-order":
        notes, typed_fields = (
            {"license": license},
            fields | ({"seed": seed} if typed(context, "seed") else {}),
        )
        what = (dataset, out, method, start, typed_fields, name, notes, scoring)
        return _peer(bars, *what, device, resume, limit or None)
    try:
        before = begun_recipe(out, fields | {"seed": seed}) if resume else None
        chosen = named(before.start) if before and not start else chosen_start(seen, start, fields)
        begun = read_start(chosen) if chosen else None
        recipe = before or settled(seen, fields | {"seed": seed}, chosen, begun)
        recipe = replace(recipe, start=written(chosen, begun) if begun else "")
        check_recipe(out, recipe, resume)
        if is_finished(out):
            bars.say(f"{out} is finished: its model is left as it is")
            return _tell(out, seen, scoring, bars)
        where = choose_device(device)
        loaded = None if begun is None else load_start(begun, where)
        for line in show.before(seen, chosen, start, forecast(seen, recipe, scoring, where, loaded)):
            bars.say(line)
        with bars.progress:
            fitted = fit(
                dataset, out, recipe, device=where, resume=resume, limit=limit or None, start=loaded,
                report=bars.report, say=bars.say,
            )  # fmt: skip
            finish(
                *fitted, recipe, out,
                name=name or out.resolve().name,
                labels=class_names(dataset, fitted[2].labels),
                data=f"{dataset.resolve().name}, {len(fitted[2].labels)} classes",
                notes={"license": license},
                scoring=scoring,
                start=loaded,
                progress=lambda stage, done, total: bars.show(stage, done, total, "images scored in full"),
            )  # fmt: skip
    except ValueError as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:
        bars.progress.stop()
        return complain(f"interrupted: the same command with --resume goes on from {out}", INTERRUPTED)
    return _tell(out, seen, scoring, bars)


def _peer(
    bars: Any, dataset: Path, out: Path, method: str, start: str, fields: dict[str, Any], name: str,
    notes: dict[str, str], scoring: Any, device: str, resume: bool, limit: int | None,
) -> int:  # fmt: skip
    """Train a model to compare an any-order one with."""
    from anytime_cls.engine.device import choose_device
    from anytime_cls.models.card import DEFAULT_MODEL
    from anytime_cls.training.peer_model import METHODS, peer_recipe, train_peer
    from anytime_cls.training.recipe import class_names
    from anytime_cls.training.settle import OF_START
    from anytime_cls.training.start import load_start, read_start

    from .show.train import after_peer

    if method not in METHODS:
        raise Refused(f"unknown --method {method!r}: choose from any-order, {', '.join(METHODS)}")
    if own := sorted(({*OF_START} - {"epochs"}) & fields.keys()):
        raise Refused(f"--method {method} has the sizes of --from MODEL: leave {own[0]} out")
    try:
        begun = read_start(start or DEFAULT_MODEL)
        recipe, where = peer_recipe(begun, fields), choose_device(device)
        bars.say(f"{method} on the tokens of {begun.name}, of its size and with its training FLOPs")
        with bars.progress:
            card = train_peer(
                dataset, out, method, load_start(begun, where), recipe, name=name or out.resolve().name,
                labels=lambda folders: class_names(dataset, folders), notes=notes, scoring=scoring,
                device=where, resume=resume, limit=limit, report=bars.report,
                progress=lambda stage, done, total: bars.show(stage, done, total, "images scored in full"),
            )  # fmt: skip
    except ValueError as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:
        bars.progress.stop()
        return complain(f"interrupted: the same command with --resume goes on from {out}", INTERRUPTED)
    for line in after_peer(card, out):
        bars.say(line)
    return 0


def _tell(out: Path, seen: Outlook, scoring: Scoring, bars: Bars) -> int:
    """The last lines, of a finished model; a picture that it has not seen is in them."""
    from anytime_cls.models.zoo import read_card

    from .show.train import after

    card = read_card(out)
    each = seen.certified_from(len(scoring.designs(card.tokens)))
    held = (out / "holdout.txt").read_text(encoding="utf-8").partition("\n")[0]
    photo = seen.example if seen.tested else str(Path(seen.root) / held)
    for line in after(card, out, seen.chance, f"{each} pictures a class", photo):
        bars.say(line)
    return 0
