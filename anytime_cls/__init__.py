"""anytime-cls: generative image classifiers, fast enough to use.

An any-order autoregressive model scores log p(image | class) under random token orders; a race adds orders
one by one and drops classes as soon as they cannot win. Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anytime_cls._version import __version__

__all__ = [
    "AnytimeClassifier", "Budget", "Decision", "Failure", "ImageError", "ModelError", "RaceOptions",
    "Standing", "__version__", "parse_budget",
]  # fmt: skip

if TYPE_CHECKING:
    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.models.card import ModelError
    from anytime_cls.pixels.decode import ImageError
    from anytime_cls.plan.budget import Budget, parse_budget
    from anytime_cls.plan.options import RaceOptions
    from anytime_cls.race.decision import Decision, Failure, Standing

_HOME = {
    "AnytimeClassifier": "classifier",
    "Budget": "plan.budget",
    "Decision": "race.decision",
    "Failure": "race.decision",
    "ImageError": "pixels.decode",
    "ModelError": "models.card",
    "RaceOptions": "plan.options",
    "Standing": "race.decision",
    "parse_budget": "plan.budget",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"anytime_cls.{_HOME[name]}"), name)
