"""`--preset NAME`, for every command that has the options it sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from .errors import Refused


def apply_preset(
    context: typer.Context, name: str | None, values: Mapping[str, Any]
) -> tuple[dict[str, Any], str, frozenset[str]]:
    """A command's options with the preset's wherever none were typed; a line for people; which it set.

    context : the command's, which knows what was typed. values : the options by name; those that the preset
    sets and the command has not are left out. The line says which typed options won over the preset, "" if
    none did. Raises Refused for an unknown preset.
    """
    if name is None:
        return dict(values), "", frozenset()
    from anytime_cls.plan.presets import overridden, preset

    given = {key: value for key, value in values.items() if typed(context, key)}
    try:
        settings = {key: value for key, value in preset(name, given).items() if key in values}
        return {**values, **settings}, overridden(name, given), frozenset(settings.keys() - given.keys())
    except ValueError as error:
        raise Refused(str(error)) from None


def typed(context: typer.Context, option: str) -> bool:
    """Whether an option was given, on the command line or by the environment."""
    source = context.get_parameter_source(option)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
