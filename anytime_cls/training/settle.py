"""What a training is to do where nobody says: by how many pictures there are, and what it begins from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from anytime_cls.models.card import ModelCard
from anytime_cls.training.outlook import FROM_NOTHING, Outlook
from anytime_cls.training.recipe import Recipe
from anytime_cls.training.start import default_start, written

NOTHING = "none"  # in place of a model's name: tokens and network are trained from nothing
#: Settings that are a start's own
OF_START = ("image_size", "tokens", "codes", "levels", "tokenizer_epochs", "epochs", "prefixes", "layout",
            "dim", "n_layer")  # fmt: skip
SMALL_BATCH = 64
CODED = 40  # places of the pictures that a code of the manifold's stands for, at least
TUNED_EACH, TUNED = 1.7, (100, 3000)  # steps a picture in which a start's weights move; at least, at most
CLASS_RATE = 13.0  # of class vectors, times the rate of the other weights: measured, docs/train.md
TOKENIZER_STEPS, STEPS = 1000, 1500  # from nothing, however few the pictures


def chosen_start(seen: Outlook, asked: str, typed: Mapping[str, Any]) -> str:
    """The model to begin from, "" for none. asked: what was typed, "" for nothing. typed: fields of `Recipe`.

    Few pictures make a better model out of one that is there than out of nothing (docs/train.md). Raises
    ValueError for settings that are not free where a model is begun from.
    """
    own = [name for name in OF_START if name in typed]
    if asked == NOTHING:
        return ""
    if asked:
        if own:
            raise ValueError(
                f"--from keeps {asked}'s tokens, sizes and schedule: leave {own[0]} out, or --from {NOTHING}"
            )
        return asked
    return "" if own or seen.images >= FROM_NOTHING else default_start()


def settled(seen: Outlook, typed: Mapping[str, Any], name: str, start: ModelCard | None) -> Recipe:
    """The recipe: what was typed, else what suits so many pictures. Raises ValueError as `Recipe`.

    name, start : of the model that is begun from, and its card; "" and None for none.
    """
    images = seen.images - seen.held
    few = images < FROM_NOTHING
    chosen: dict[str, Any] = {"holdout": seen.share, "tokens": "manifold"}
    if few:
        chosen["batch_size"] = SMALL_BATCH
    if start is not None:
        shape = start.fields["model"]
        chosen |= {
            "start": written(name, start), "image_size": start.image_size, "layout": start.method,
            "tokens": start.fields["tokenizer"]["kind"], "views": 16 if few else 4,
            "dim": shape["dim"], "n_layer": shape["n_layer"], "n_head": shape["n_head"],
            "prefixes": ((0.8, 0.25), (0.15, 0.5), (0.05, 1.0)),
            "tune_steps": min(TUNED[1], max(TUNED[0], round(TUNED_EACH * images))),
        }  # fmt: skip
        return Recipe(**{**chosen, **typed})
    chosen["class_rate"] = CLASS_RATE
    size = int(typed.get("image_size", Recipe.image_size))
    places = images * (size // 4) ** 2
    chosen["codes"] = min(Recipe.codes, 1 << max(5, int(math.log2(max(1, places // CODED)))))
    if "tokenizer_epochs" not in typed:
        chosen["tokenizer_min_steps"] = TOKENIZER_STEPS
    if "epochs" not in typed:
        chosen["min_steps"] = STEPS
    return Recipe(**{**chosen, **typed})
