"""What is typed to `anytime-cls train`, as fields of its recipe."""

from __future__ import annotations

import math
from typing import Any

import typer

from .errors import Refused
from .preset import typed

#: Options that are fields of `Recipe`, and which
_FIELDS = {
    name: name for name in (
        "image_size", "tokens", "codes", "tokenizer_epochs", "epochs", "views", "contrast_epochs",
        "contrast_part", "rivals", "layout", "dim", "batch_size", "teacher_epochs", "distil_epochs",
    )
} | {"layers": "n_layer"}  # fmt: skip


def fields_of(
    context: typer.Context,
    recipe: str,
    layout: str,
    tokens: str,
    image_size: int,
    dim: int,
    levels: str,
    stages: str,
) -> dict[str, Any]:
    """What was typed, as fields of `Recipe`. Raises Refused for what makes no sense by itself."""
    from anytime_cls.scorers.shapes import LAYOUTS
    from anytime_cls.training.recipe import RECIPES
    from anytime_cls.training.recipe import TOKENS as KINDS

    if recipe not in RECIPES:
        raise Refused(f"unknown --recipe {recipe!r}: choose from {', '.join(RECIPES)}")
    of_recipe = RECIPES[recipe]
    if not typed(context, "tokens"):
        tokens = of_recipe.get("tokens", tokens)

    if dim % 32 or dim < 32:
        raise Refused(f"--dim must be a multiple of 32, got {dim}")
    if image_size % 4 or image_size < 8:
        raise Refused(f"--image-size must be a multiple of 4 from 8, got {image_size}")
    if layout not in LAYOUTS:
        raise Refused(f"unknown --layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    if tokens not in KINDS:
        raise Refused(f"unknown --tokens {tokens!r}: choose from {', '.join(KINDS)}")
    found = {**of_recipe, **{_FIELDS[name]: context.params[name] for name in _FIELDS if typed(context, name)}}
    if typed(context, "dim"):
        found["n_head"] = dim // 32
    if typed(context, "levels"):
        found["levels"] = _levels(levels)
        if tokens == "manifold":
            raise Refused("--levels is not of --tokens manifold: add --tokens labels or reconstruction")
    if typed(context, "codes") and tokens != "manifold":
        raise Refused("--codes is of --tokens manifold: leave it out")
    if typed(context, "stages"):
        found["prefixes"] = _stages(stages)
    return found


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(level) for level in text.split(","))
    except ValueError:
        raise Refused(f"--levels are whole numbers, as 8,8,8, got {text}") from None
    if min(levels) < 2 or math.prod(levels) > 1 << 16:
        raise Refused(f"--levels must be 2 or more, and make at most 65536 codes, got {text}")
    return levels


def _stages(text: str) -> tuple[tuple[float, float], ...]:
    try:
        pairs = [stage.split(":") for stage in text.split(",")]
        stages = tuple((float(steps), float(part)) for part, steps in pairs)
    except ValueError:
        raise Refused(f"--stages are PART:STEPS pairs, as 0.5:0.8,1:0.2, got {text}") from None
    if abs(sum(steps for steps, _ in stages) - 1) > 1e-6 or not all(0 < part <= 1 for _, part in stages):
        raise Refused(f"--stages: parts lie between 0 and 1 and steps add up to 1, got {text}")
    return stages
