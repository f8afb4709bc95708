"""`anytime-cls models ls`: what model.json files say, without loading a model (or PyTorch)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import FAILED, complain, readable
from .output import print_json


def ls(folders: Sequence[str], as_json: bool) -> int:
    """Print the embedded models, then those in `folders`. Exit code 1 if one cannot be read."""
    from anytime_cls.zoo import DEFAULT_MODEL, ModelError, embedded_names, read_card

    rows, code = [], 0
    for name in [*embedded_names(), *folders]:
        try:
            row = describe(read_card(name)) | {"default": name == DEFAULT_MODEL}
        except ModelError as error:
            code = complain(str(error), FAILED)
            continue
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


def describe(card: Any) -> dict[str, Any]:
    """What a model is, as plain data."""
    fields = card.fields
    return {
        "name": card.name,
        "path": str(card.path),
        "classes": len(card.labels),
        "labels": card.labels,
        "image_size": card.image_size,
        "tokens": fields["model"].get("n_tokens"),
        "parameters": sum(parameters(path) for path in sorted(card.path.glob("*.safetensors"))),
        "accuracy": accuracy(fields.get("metrics")),
        "bytes": sum(path.stat().st_size for path in card.path.iterdir() if path.is_file()),
        "licence": fields.get("licence") or fields.get("license"),
    }


def parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header (8 bytes of length, then JSON); 0 if unreadable."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                return 0
            header = json.loads(file.read(size))
        return sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
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
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    numbers = ("classes", "pixels", "tokens", "parameters", "on disk")
    for title in ("model", *numbers, "accuracy (95 %)", "licence"):
        number = title in numbers
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in rows:
        got = row["accuracy"]
        shown = "not measured"
        if got:
            shown = f"{got['value']:.1%} ({got['low']:.1%} to {got['high']:.1%})"
        table.add_row(
            readable(row["name"]) + (" (default)" if row["default"] else ""),
            str(row["classes"]),
            f"{row['image_size']}×{row['image_size']}",
            str(row["tokens"]),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['bytes'] / 1e6:.1f} MB",
            shown,
            readable(str(row["licence"] or "not stated")),
        )
    Console(highlight=False, markup=False).print(table)
