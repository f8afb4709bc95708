"""anytime-cls: generative image classifiers, fast enough to use.

An any-order autoregressive model scores log p(image | class) under random token orders; a race adds orders
one by one and drops classes as soon as they cannot win. Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AnytimeClassifier", "Budget", "Decision", "Failure", "ImageError", "ModelError", "RaceOptions",
    "Standing", "parse_budget",
]  # fmt: skip

if TYPE_CHECKING:
    from anytime_cls.budget import Budget, parse_budget
    from anytime_cls.classifier import AnytimeClassifier, Decision, Failure, RaceOptions, Standing
    from anytime_cls.image import ImageError
    from anytime_cls.zoo import ModelError

_HOME = {
    "AnytimeClassifier": "classifier", "Decision": "classifier", "Failure": "classifier",
    "RaceOptions": "classifier", "Standing": "classifier", "Budget": "budget", "parse_budget": "budget",
    "ImageError": "image", "ModelError": "zoo",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"anytime_cls.{_HOME[name]}"), name)
