"""The paper's settings by name.

A preset sets options; what a caller gives explicitly wins over it, and `overridden` says so in a line.

Source: Sudakov, Babenko & Baranchuk, *Revisiting Autoregressive Models for Generative Image Classification*,
ECCV 2026, https://arxiv.org/abs/2603.19122. docs/paper.md maps the paper to commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytime_cls.plan.options import RaceOptions


#: Fields of `options.RaceOptions`, and `dtype`, the transformer's (`AnytimeClassifier.load`).
PRESETS: dict[str, dict[str, Any]] = {
    # (1/K) Σ_k log p(x | π_k, c) for every class, over the same K = 20 uniformly random orders
    "paper": {
        "rule": "fixed", "max_orders": 20, "orders": "uniform", "aggregate": "mean", "dtype": "float32",
    },
    # its two baselines of one order: left to right and top to bottom, and one random order for all images
    "paper-raster": {
        "rule": "fixed", "max_orders": 1, "orders": "raster", "aggregate": "mean", "dtype": "float32",
    },
    "paper-constant": {
        "rule": "fixed", "max_orders": 1, "orders": "constant", "aggregate": "mean", "dtype": "float32",
    },
}  # fmt: skip


def preset(name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A preset's options with those given explicitly put over them, and added to them.

    given : options by the names of `PRESETS`; None is an option that was not given. Raises ValueError for an
    unknown preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name] | {key: value for key, value in (given or {}).items() if value is not None}


def overridden(name: str, given: Mapping[str, Any]) -> str:
    """One line naming the preset's options that were given another value, as typed; "" where none was."""
    settings = preset(name)
    changed = [
        f"--{key.replace('_', '-')} {given[key]} instead of {value}"
        for key, value in settings.items()
        if given.get(key) not in (None, value)
    ]
    return f"preset {name} with {', '.join(changed)}: no longer the paper's setting" if changed else ""


def preset_options(name: str, **overrides: Any) -> RaceOptions:
    """The preset as race options, any field overridden: `preset_options("paper", budget="60s")`.

    The preset's dtype is not among them: load the classifier in it (float32 is the default). Raises
    ValueError for an unknown preset or options that make no sense, TypeError for a field that does not exist.
    """
    from anytime_cls.plan.options import RaceOptions

    settings = preset(name, overrides)
    settings.pop("dtype")
    return RaceOptions(**settings)
