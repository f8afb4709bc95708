"""`anytime-cls models`: what there is, fetching the paper's models, converting weights of others."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anytime_cls.stats.wording import percent_interval

from .errors import FAILED, Refused, complain, explained, readable
from .help import App

if TYPE_CHECKING:
    from anytime_cls.models.card import ModelCard

app = App(help="The models that can be raced: list, fetch, convert, measure.")


@app.command("ls")
def _ls(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODELS", help="Also these folders and files.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False,
) -> int:
    """List the embedded and the pulled models: classes, size, accuracy, licence."""
    return ls(models or [], json)


@app.command("info")
def info(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODELS", help="As --model takes them; none: all."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False,
) -> int:
    """Say what a model is: classes, what a draw costs, licence, and what it takes to have it here.

    Names of published models are known before they are fetched. Exit code 1 if one that was named cannot be
    used as it is.

    \b
    Example: anytime-cls models info dit-xl-2
    """
    from anytime_cls.models import hub
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.others.names import PUBLISHED
    from anytime_cls.models.zoo import embedded_names, read_card

    from .show.model import about_published, costs, print_about
    from .show.output import print_json

    names = [*hub.MODELS, *PUBLISHED]
    code = 0
    for name in models or [*embedded_names(), *names]:
        try:
            card = read_card(name)
            row = describe(card) | costs(card)
        except (ModelError, OSError) as error:
            line = explained(error) if isinstance(error, OSError) else str(error)
            if models or name not in names:
                code = complain(line, FAILED)
            if name not in names:
                continue
            row = about_published(name) | {"here": line}
        print_json(row) if json else print_about(row, every_class=len(models or ()) == 1)
    return code


@app.command("pull")
def pull(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAMES",
            show_default=False,
            help="randar-l, randar-l-maskgit, randar-xl; dit-xl-2 and others ('models info' lists them); "
            "llamagen-vq16, maskgit-vqgan, sd-vae-ft-ema (tokenizers alone); or hf:owner/repo/file.",
        ),
    ],
) -> int:
    """Fetch models, with the tokenizers that belong to them, from the Hugging Face Hub.

    Files go to its cache (HF_HOME) and are checked against its checksums; an interrupted download goes on
    where it was. HF_TOKEN opens private files, HF_HUB_OFFLINE checks what is there. Needs pip install
    huggingface_hub. Exit code 1 if something could not be fetched.

    \b
    Example: anytime-cls models pull randar-l
             anytime-cls classify photo.jpg --model randar-l
    """
    from anytime_cls.models import hub
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.others.names import ENCODERS, PUBLISHED, is_other
    from anytime_cls.models.zoo import fetch_model, fetch_other

    known = hub.MODELS | hub.TOKENIZERS
    others = [name for name in dict.fromkeys(names) if is_other(name)]
    try:
        files = {name: known.get(name) or hub.parse(name) for name in names if name not in others}
        hub.require()
    except ModelError as error:
        raise Refused(f"{error}; names are {', '.join([*known, *PUBLISHED, *ENCODERS])}") from None
    code = 0
    for name in others:
        try:
            print(fetch_other(name, say))
        except ModelError as error:
            code = complain(str(error), FAILED)
    for name, file in files.items():
        try:
            if name in hub.TOKENIZERS:
                path = hub.pull(file, say)
                print(f"{name}: {path}")
            else:
                card = fetch_model(name, file, say)
                print(f"{name}: ready, --model {name} ({shape(card)})")
        except ModelError as error:
            code = complain(str(error), FAILED)
    return code


@app.command("convert")
def convert(
    source: Annotated[
        str,
        typer.Argument(show_default=False, help="A RandAR transformer: .pt, .safetensors, a pulled name."),
    ],
    out: Annotated[
        Path, typer.Argument(show_default=False, help="A new .safetensors file, or a new model folder.")
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The model's name; the output's by default.")
    ] = "",
    heads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", show_default=False, help="Attention heads; width / 64 by default."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", show_default=False, help="Tokens an image; 256 by default."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Class names, one a line; for 1,000 classes ImageNet's."
        ),
    ] = None,
) -> int:
    """Convert weights of a RandAR transformer once, to load fast and safely from then on.

    A .safetensors file gets the model's shape into its metadata, and still loads in the reference code. A
    folder gets the tokenizer too, and is what 'calibrate --write-model' can write to. The numbers stay as
    they are.

    \b
    Example: anytime-cls models convert checkpoint.pt randar-l.safetensors
             anytime-cls models convert randar-l runs/randar-l
    """
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.checkpoints import Checkpoint
    from anytime_cls.models.convert import convert as write
    from anytime_cls.models.labels import LabelError, read_label_file

    try:
        given = None if labels is None else read_label_file(labels)
        found = list(given.values()) if isinstance(given, dict) else given
        done = write(source, out, name=name, n_head=heads, n_tokens=tokens, labels=found, say=say)
    except (ModelError, LabelError) as error:
        raise Refused(str(error)) from None
    if isinstance(done, Checkpoint):
        print(f"{out}: {numbers(done.shape)}, {done.parameters / 1e6:.1f} M numbers")
    else:
        print(f"{out}: {shape(done)}")
    return 0


@app.command("measure")
def measure(
    model: Annotated[str, typer.Argument(show_default=False, help="A model folder, or an embedded model.")],
    trace: Annotated[
        str,
        typer.Argument(metavar="FULL.h5", show_default=False, help="Test images, by 'sweep --rule fixed'."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", show_default=False,
            help="Write into a copy of the model there. Default: into the model's own folder, if it is named "
            "as a folder; an embedded model, part of the package, is measured and not written to.",
        ),
    ] = None,
) -> int:  # fmt: skip
    """Say how good a model is, from a full trace of labelled test images, and write it into its model.json.

    Accuracy at fixed K with intervals, every rule side by side at δ = 0.05, and the calibration error of its
    probabilities, for the orders and the prefix of the trace.
    """
    from anytime_cls.certify.measure import measure_trace
    from anytime_cls.certify.store import copy_model, write_json
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.zoo import embedded_names, read_card
    from anytime_cls.traces.read import Trace

    try:
        card = read_card(model)
        if card.files:
            raise Refused(f"{card.path} is a file: 'models convert {card.path} FOLDER' makes a model of it")
        with Trace.open(trace) as recorded:
            metrics = measure_trace(recorded, card)
    except ValueError as error:
        raise Refused(str(error)) from None
    folder = out or (None if model in embedded_names() else card.path)
    try:
        if folder is not None:
            if out is not None:
                copy_model(card, out)
            write_json(folder / "model.json", {**card.fields, "metrics": metrics})
    except ModelError as error:
        return complain(str(error), FAILED)
    for k, value in metrics["accuracy_at_k"].items():
        print(f"K = {k:>2}: {percent_interval(value['value'], value['low'], value['high'])}")
    print(f"{metrics['images']} images, expected calibration error {metrics['ece_at_decision']:.3f}")
    if folder is None:
        say(f"nothing written: {model} is part of the installed package; --out FOLDER writes a copy of it")
    else:
        say(f"{folder / 'model.json'}: metrics written")
    return 0


def say(line: str) -> None:
    """Progress, for people."""
    print(readable(line), file=sys.stderr, flush=True)


def shape(card: ModelCard) -> str:
    """What a model is, in a few words."""
    return f"{numbers(card.fields['model'])}, tokenizer {card.fields['tokenizer']['kind']}"


def numbers(model: Mapping[str, Any]) -> str:
    return (
        f"{model['n_layer']} layers × {model['dim']}, {model['n_classes']} classes, "
        f"{model['n_tokens']} tokens of {model['vocab_size']} codes"
    )


def ls(models: Sequence[str], as_json: bool) -> int:
    """Print the embedded models, those pulled, and then `models`. Exit code 1 if one cannot be read."""
    from anytime_cls.models import hub
    from anytime_cls.models.card import DEFAULT_MODEL, ModelError
    from anytime_cls.models.zoo import embedded_names, others_here, read_card

    from .show.output import print_json

    pulled = [name for name, file in hub.MODELS.items() if hub.cached(file)]
    rows, code = [], 0
    for name in [*embedded_names(), *pulled, *others_here(), *models]:
        try:
            card = read_card(name)
            row = describe(card) | {"default": name == DEFAULT_MODEL}
        except (ModelError, OSError) as error:
            code = complain(explained(error) if isinstance(error, OSError) else str(error), FAILED)
            continue
        for note in card.notes:
            say(note)
        if as_json:
            print_json(row)
        rows.append(row)
    if as_json:
        return code
    if rows:
        print_table(rows)
    elif not code:
        hint = "train one with 'anytime-cls train', or name model folders"
        print(f"no embedded models here: {hint}", file=sys.stderr)
    return code


def describe(card: ModelCard) -> dict[str, Any]:
    """What a model is, as plain data."""
    from anytime_cls.models.card import WEIGHTS

    fields = card.fields
    weights = list(dict.fromkeys(card.weights(name) for name in WEIGHTS))
    foreign = card.own_shape is not None
    folder = [] if foreign or card.files else card.path.iterdir()
    files = [path for path in (folder or weights) if path.is_file()]
    return {
        "name": card.name,
        "method": card.method,
        "path": str(card.path),
        "classes": len(card.labels),
        "labels": card.labels,
        "image_size": card.image_size,
        "tokens": fields["model"].get("n_tokens"),
        "parameters": fields.get("parameters") or sum(parameters(path) for path in weights),
        "accuracy": accuracy(fields.get("metrics")),
        "bytes": sum(path.stat().st_size for path in files),
        "licence": fields.get("licence") or fields.get("license"),
    }


def parameters(path: Path) -> int:
    """Numbers in a weights file; 0 if it cannot be read."""
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.checkpoints import entries

    try:
        return sum(math.prod(entry.shape) for entry in entries(path).tensors.values())
    except ModelError:
        return 0


def accuracy(metrics: Any) -> dict[str, Any] | None:
    """The model's top-1 with its 95 % interval: of the default rule, else of the most orders measured."""
    if not isinstance(metrics, Mapping):
        return None
    about = {"images": metrics.get("images"), "measured_on": metrics.get("measured_on")}
    for row in metrics.get("rules_at_delta_0.05") or ():
        if row.get("rule") == "paired" and "accuracy" in row:
            return {**row["accuracy"], "how": "rule paired, delta 0.05", **about}
    by_orders = metrics.get("accuracy_at_k") or {}
    if by_orders:
        most = max(by_orders, key=int)
        return {**by_orders[most], "how": f"{most} orders", **about}
    return None


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Two lines a model: how good it is, and what it knows."""
    from rich.console import Console
    from rich.text import Text

    from .show.output import knows

    console = Console(highlight=False, markup=False)
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else None
    names = [readable(row["name"]) + (" (default)" if row["default"] else "") for row in rows]
    room = max(map(len, names))
    for name, row in zip(names, rows, strict=True):
        got = row["accuracy"]
        shown = percent_interval(got["value"], got["low"], got["high"]) if got else "not measured"
        size = f"{row['bytes'] / 1e6:.1f} MB"
        classes = f"{row['classes']:,} classes"
        line = Text.assemble((f"{name:{room}}", "bold"), f"  {classes:>13}  {shown:22}  {size:>8}")
        about = knows(row["labels"])
        console.print(line, soft_wrap=True)
        for part in textwrap.wrap(about, width - 4) if width else [about]:
            console.print(Text(f"  {part}", style="dim"), soft_wrap=True)
    again = "accuracy with its 95 % interval; all about one: anytime-cls models info NAME"
    console.print(Text(again, style="dim"), soft_wrap=True)
