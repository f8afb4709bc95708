"""What `models info` says of a model: what it is, what a draw of it costs, what it needs to run here."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anytime_cls.stats.wording import percent_interval

from ..errors import readable

if TYPE_CHECKING:
    from anytime_cls.models.card import ModelCard


def costs(card: ModelCard) -> dict[str, Any]:
    """What one draw of a model takes, as its shape says."""
    shape = card.shape
    one, two = (shape.flops(shape.steps, classes) for classes in (1, 2))
    return {
        "unit": shape.unit,
        "joint": shape.joint,
        "steps": shape.steps,
        "flops_draw": 2 * one - two,
        "flops_class": two - one,
        "screens": sorted(shape.screens),
    }


def about_published(name: str) -> dict[str, Any]:
    """What is known of a published name whose weights are not here."""
    from anytime_cls.models.hub import MODELS
    from anytime_cls.models.others.names import PUBLISHED

    if name in MODELS:
        return {"name": name, "method": "randar", "licence": None, "from": [str(MODELS[name])]}
    published = PUBLISHED[name]
    parts = [str(part) for part in published.parts] + [published.elsewhere] * bool(published.elsewhere)
    return {"name": name, "method": published.method, "licence": published.licence, "from": parts}


def print_about(row: Mapping[str, Any], every_class: bool = False) -> None:
    """A model, a line each of what is known of it. every_class: of many classes too, not the first alone."""
    lines = {key: value for key, value in row.items() if key not in ("labels", "screens")}
    lines["screens"] = ", ".join(row.get("screens", ())) or None
    lines["from"] = "; ".join(row["from"]) if "from" in row else None
    if "labels" in row:
        names = row["labels"] if every_class else row["labels"][:3]
        lines["classes"] = f"{row['classes']:,}"
        lines["knows only"] = ", ".join(names) + (", …" if row["classes"] > len(names) else "")
        lines["image_size"] = f"{row['image_size']} pixels"
        lines["parameters"] = f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else None
        lines["bytes"] = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else None
    if "flops_class" in row:
        all_classes = f"{row['flops_draw']:.3g} FLOPs for all classes"
        each = f"{row['flops_class']:.3g} FLOPs a class"
        lines["a draw"] = all_classes if row["joint"] else each
        lines["score"] = "log p (nats)" if row["unit"] == "nats" else "minus a loss"
    if got := row.get("accuracy"):
        lines["accuracy"] = f"{percent_interval(got['value'], got['low'], got['high'])}, {got['how']}"
    hidden = ("unit", "joint", "flops_draw", "flops_class", "tokens", "name")
    print(readable(str(row["name"])))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 0
    for key, value in lines.items():
        if key not in hidden and value is not None:
            text = readable(str(value))
            parts = textwrap.wrap(text, width - 15, break_long_words=False) if width > 40 else [text]
            for part in parts:
                print(f"  {key.replace('_', ' ') if part is parts[0] else '':<12} {part}")
