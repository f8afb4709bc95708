"""Options that several commands share, as types of their parameters."""

from __future__ import annotations

import os
from typing import Annotated

from typer import Option

from . import complete
from .help import MACHINE, MODEL, OUTPUT, RACE

Model = Annotated[
    str,
    Option(
        autocompletion=complete.models,
        rich_help_panel=MODEL,
        metavar="NAME",
        help="An embedded model (see 'models ls'), a model folder, a pulled name (randar-l), a .safetensors "
        "or .pt file, or hf:owner/repo/file.",
    ),
]
Rule = Annotated[
    str | None,
    Option(
        autocompletion=complete.rules,
        rich_help_panel=RACE,
        metavar="NAME",
        show_default=False,
        help="What drops classes: paired, strict, marginal, value, fixed (all orders, the paper's), funnel, "
        "clark-jaini, halving, calibrated (see 'calibrate'), or a screen alone: table, gradient. "
        "Without --rule, --orders, --prefix and --crops the "
        "race is the one that the model recommends; else paired.",
    ),
]
Delta = Annotated[
    float | None,
    Option(
        rich_help_panel=RACE,
        metavar="P",
        show_default=False,
        help="Probability of another answer than all orders would give, 0 < P < 1. Default: the model's, or "
        "0.05.",
    ),
]
MaxOrders = Annotated[
    int | None,
    Option(
        rich_help_panel=RACE,
        min=1, max=65535, metavar="K", show_default=False,
        help="Most orders of an image. Default: the model's, or 32.",
    ),
]  # fmt: skip
Orders = Annotated[
    str | None,
    Option(
        autocompletion=complete.orders,
        rich_help_panel=RACE,
        metavar="NAME",
        show_default=False,
        help="Orders: uniform, antithetic, stratified (with --prefix), raster or constant.",
    ),
]
Screen = Annotated[
    str | None,
    Option(
        autocompletion=complete.screens,
        rich_help_panel=RACE,
        metavar="NAME",
        show_default=False,
        help="Ranks every class before the first order: table, gradient or none. Default: the one that the "
        "model's race was calibrated with, if any.",
    ),
]
Prefix = Annotated[
    int | None,
    Option(
        rich_help_panel=RACE,
        min=1, metavar="M", show_default=False,
        help="A pass scores only the first M tokens of its order. Default: all of them.",
    ),
]  # fmt: skip
Classes = Annotated[
    str | None,
    Option(
        rich_help_panel=MODEL,
        metavar="A,B,...",
        show_default=False,
        help="Race only these classes, by name, synset or id.",
    ),
]
Preset = Annotated[
    str | None,
    Option(
        rich_help_panel=RACE,
        metavar="NAME", show_default=False,
        help="The paper's settings: paper (fixed, 20 uniform orders, mean of log p, float32), or its "
        "baselines of one order, paper-raster and paper-constant. Options given beside it win.",
    ),
]  # fmt: skip
Crops = Annotated[
    str | None,
    Option(
        autocompletion=complete.crops,
        rich_help_panel=RACE,
        metavar="NAME",
        help="center; or a new view an order: random (a crop of 0.8 to 1.0 of the image), resized (of other "
        "proportions too, half of them mirrored). Default: as the model recommends, else center.",
    ),
]
LatentNoise = Annotated[
    float,
    Option(
        rich_help_panel=RACE,
        metavar="T",
        help="Noise in the tokenizer's latents, 0 to 1, drawn anew for every order.",
    ),
]
Seed = Annotated[int, Option(rich_help_panel=RACE, metavar="N", min=0, help="Decides the random orders.")]
Device = Annotated[
    str, Option(rich_help_panel=MACHINE, metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
]
Dtype = Annotated[
    str, Option(rich_help_panel=MACHINE, metavar="NAME", help="The transformer's: float32, bf16 or fp16.")
]
Threads = Annotated[
    int | None,
    Option(
        rich_help_panel=MACHINE, min=1, max=1024, metavar="N", show_default=False,
        help="CPU threads. Default: one, half of the cores or all, whichever is faster now.",
    ),
]  # fmt: skip
BatchSize = Annotated[
    str,
    Option(rich_help_panel=MACHINE, metavar="ROWS", help="Most passes in a batch, or auto for the device."),
]
Abstain = Annotated[
    float | None,
    Option(
        rich_help_panel=OUTPUT,
        metavar="RISK",
        show_default=False,
        help="Answer 'none of these' where a picture has too little evidence for any class; at most this "
        "share of pictures like the model's own is answered so. The model must be calibrated for it.",
    ),
]
Quiet = Annotated[
    bool, Option("--quiet", "-q", rich_help_panel=OUTPUT, help="Nothing on standard error but errors.")
]


def batch_size(text: str) -> int | None:
    """--batch-size as a number, None for auto. Raises ValueError in one line."""
    word = text.strip().lower()
    size = int(word) if word.isdecimal() else None
    if size == 0 or (size is None and word != "auto"):
        raise ValueError(f"--batch-size is a number of passes from 1, or auto, not {text!r}")
    return size


def listed(text: str | None) -> tuple[str, ...]:
    """Names parted by commas, each once."""
    return tuple(dict.fromkeys(names(text) or ()))


def names(text: str | None) -> list[str] | None:
    """--classes as a list, None for all."""
    return None if text is None else [item.strip() for item in text.split(",") if item.strip()]


def _raise_max_pixels(value: int | None) -> int | None:
    """For this process and its workers."""
    if value is not None:
        os.environ["ANYTIME_CLS_MAX_PIXELS"] = str(value)
    return value


MaxPixels = Annotated[
    int | None,
    Option(
        rich_help_panel=MACHINE,
        min=1, metavar="N", show_default=False, callback=_raise_max_pixels,
        help="Largest 8-bit picture that is decoded (178,956,970); wider modes and slow formats have less.",
    ),
]  # fmt: skip
