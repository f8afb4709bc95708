"""`--preset NAME`, for every command that has the options it sets."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import typer

from .errors import Refused

R = TypeVar("R")


def apply_preset(context: typer.Context, name: str | None, request: R) -> tuple[R, str]:
    """A command's request with the preset's options wherever none were typed, and a line for people.

    context : the command's, which knows what was typed. request : a dataclass; options that it has no field
    for are left out. The line says which typed options won over the preset, "" if none did. Raises Refused
    for an unknown preset.
    """
    if name is None:
        return request, ""
    from anytime_cls.plan.presets import overridden, preset

    values: dict[str, Any] = {field.name: getattr(request, field.name) for field in fields(request)}  # type: ignore[arg-type]
    given = {key: value for key, value in values.items() if _typed(context, key)}
    try:
        settings = {key: value for key, value in preset(name, given).items() if key in values}
        return replace(request, **settings), overridden(name, given)  # type: ignore[type-var]
    except ValueError as error:
        raise Refused(str(error)) from None


def _typed(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
