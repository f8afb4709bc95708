"""What a comparison prints: its first lines and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anytime_cls.curves.compared import Compared
from anytime_cls.pictures.compare_words import (
    COST,
    MAIN,
    cost_cells,
    headline,
    main_cells,
    set_cells,
)
from anytime_cls.plan.plan import Runtime

from ..errors import readable
from .output import print_json


def show(found: Compared, as_json: bool, folder: Path) -> None:
    """On standard output."""
    if as_json:
        print_json({"headline": headline(found), "rows": as_plain(found.rows),
                    "sets": as_plain(found.set_rows), "folder": str(folder)})  # fmt: skip
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=160)
    for line in headline(found):
        console.print(readable(line) + "\n", soft_wrap=not console.is_terminal)
    _table(console, MAIN, main_cells(found.rows))
    if cells := cost_cells(found.rows):
        _table(console, COST, cells)
    if len(found.studies) > 1:
        _table(console, *set_cells(found.set_rows))
    written = "compare.html, compare.md, compare.csv, compare.png"
    console.print(Text(f"{folder}: {written}; traces/ and curves/ for 'plot'", "dim"))


def _table(console: Console, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for number, head in enumerate(heads):
        left = number == 0 or head == "at its best rule"
        table.add_column(readable(head), justify="left" if left else "right", overflow="fold")
    for row in cells:
        table.add_row(*[Text(readable(cell)) for cell in row])
    console.print(table)
    console.print()


def machine(runtime: Runtime, times: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the times were taken, and how."""
    import torch

    from anytime_cls.engine.bench import device_name

    images = max((int(one["images"]) for one in times.values()), default=0)
    alone = min((int(one["images_alone"]) for one in times.values()), default=0)
    many = "" if runtime.fixed or runtime.threads == 1 else "at most "
    threads = f", {many}{runtime.threads} thread{'s' * (runtime.threads != 1)}" if runtime.threads else ""
    return (
        f"Live, each method in a process of its own, from the file to the answer: {images} images batched "
        f"(mean), at least {alone} alone (median); {device_name(torch.device(runtime.device))}{threads}, "
        f"{runtime.dtype}. All draws: the fixed K of most compute, batched. Memory is the most in use beyond "
        "Python, torch and this package, weights included."
    )


def as_plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same columns, of plain numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: _plain(row.get(name, float("nan"))) for name in names} for row in rows]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
