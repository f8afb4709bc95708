"""How `--help` looks: options in named groups, as wide as the terminal, values named as they are typed.

Works with click and with the copy of it that newer releases of typer hold; imports neither.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
WIDEST = 120  # columns; longer lines are hard to read
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}

# groups of options, in the order in which they are shown: a command's own come first
MODEL, RACE, OUTPUT, MACHINE = "Model", "Race", "Output", "Machine"
_LAST = (MODEL, RACE, OUTPUT, MACHINE, "Help")
# and of commands
CLASSIFY, MEASURE, MODELS, HERE = "Classify", "Measure and compare", "Models of your own", "This machine"
GLOSSARY = "What the words mean (order, pass, stable, δ, ...): docs/glossary.md"
_SENTENCE = 200  # characters: a command's first sentence is shown whole


class App(typer.Typer):
    """A typer application whose help is this module's."""

    def __init__(self, **settings: Any):
        defaults: dict[str, Any] = {"add_completion": False, "context_settings": SETTINGS, "cls": Group}
        super().__init__(rich_markup_mode=None, pretty_exceptions_enable=False, **defaults | settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Decorated], Decorated]:
        defaults: dict[str, Any] = {"cls": Command, "context_settings": SETTINGS}
        return super().command(name, **defaults | settings)


class Command(TyperCommand):
    """A command whose options are shown in their groups (`rich_help_panel`)."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return _usage(self, ctx)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        begun = len(formatter.buffer)
        super().format_help_text(ctx, formatter)
        text = "".join(formatter.buffer[begun:])
        formatter.buffer[begun:] = [
            "".join(_folded(line, formatter.width) for line in text.splitlines(keepends=True))
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_groups(formatter, _grouped(self.get_params(ctx), ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_glossary(formatter)


class Group(TyperGroup):
    """A command of commands, shown in their groups too; a picture in a command's place gets a hint."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*_usage(self, ctx), "COMMAND ..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {CLASSIFY: [], MEASURE: [], MODELS: [], HERE: []}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                panel = panel if isinstance(panel, str) else "Commands"
                groups.setdefault(panel, []).append((name, command.get_short_help_str(_SENTENCE)))
        _write_groups(formatter, groups)
        _write_groups(formatter, _grouped(self.get_params(ctx), ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_glossary(formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and "classify" in self.commands and _is_picture(name):
            ctx.fail(f"{name} is no command; to classify it: anytime-cls classify {shlex.join(args)}")
        return super().resolve_command(ctx, args)


def _is_picture(word: str) -> bool:
    """Whether a word in a command's place names files."""
    if word.startswith("-"):
        return False
    try:
        there = Path(word).exists()
    except (OSError, ValueError):
        there = False
    return there or bool(re.search(r"\.(jpe?g|png|webp|gif|bmp|tiff?|heic|ppm)$", word, re.I))


def _folded(line: str, width: int) -> str:
    """An example that is too wide, as it may be copied: broken before an option, with a backslash."""
    at = line.find("anytime-cls ")
    cut = line.rfind(" --", 0, width - 1)
    if at < 0 or len(line.rstrip()) <= width or cut <= at:
        return line
    return f"{line[:cut]} \\\n{_folded(' ' * (at + 4) + line[cut + 1 :], width)}"


def _usage(command: Any, ctx: Any) -> list[str]:
    """`[OPTIONS] FULL.h5...`: what is required bare, the rest in brackets."""
    pieces = ["[OPTIONS]"]
    for param in command.get_params(ctx):
        if param.param_type_name == "argument" and not param.hidden:
            name = _argument(param)
            pieces.append(name if param.required else f"[{name}]")
    return pieces


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.nargs == 1 or name.endswith("...") else f"{name}..."


def _kind(param: Any, ctx: Any) -> str:
    """What to call the value of an option that does not say."""
    shown = param.display_type(ctx) if hasattr(param, "display_type") else param.type.name
    kind = shown.strip("<>").partition(" ")[0]
    return {"int": "N", "integer": "N", "float": "X", "path": "PATH", "directory": "PATH"}.get(kind, "TEXT")


def _grouped(params: Iterable[Any], ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """What a command takes, by group: arguments, its own options, those it shares, the way out."""
    groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in params:
        is_argument = param.param_type_name == "argument"
        if not is_argument and param.metavar is None and not getattr(param, "is_flag", False):
            param.metavar = _kind(param, ctx)
        record = param.get_help_record(ctx)
        if record is None:
            continue
        panel = getattr(param, "rich_help_panel", None)
        panel = panel if isinstance(panel, str) else "Arguments" if is_argument else "Options"
        if param.name in ("help", "version", "install_completion", "show_completion"):
            panel = "Help"
        name = _argument(param) if is_argument else record[0]
        groups.setdefault(panel, []).append((name, _ranges(record[1])))
    last = {name: groups.pop(name) for name in _LAST if name in groups}
    return groups | last


def _ranges(text: str) -> str:
    """Ranges as people write them, those that go without saying left out, as is what is required: the usage
    says so."""
    head, bracket, notes = text.replace("\\[", "[").rpartition("  [")
    if not (bracket and notes.endswith("]")):
        return text
    kept = []
    for note in notes[:-1].split("; "):
        note = re.sub(r"(\S+)<=x<=(\S+)", r"\1 to \2", note)
        if note != "required" and not re.fullmatch(r"x>=\S+", note):
            kept.append(note)
    return f"{head}  [{'; '.join(kept)}]" if kept else head


def _write_glossary(formatter: Any) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(GLOSSARY)


def _write_groups(formatter: Any, groups: dict[str, list[tuple[str, str]]]) -> None:
    for name, rows in groups.items():
        if rows:
            with formatter.section(name):
                formatter.write_dl(rows)
