"""What a model says of itself: names, labels, shape, hashes, what was fitted. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anytime_cls.models.fields import SCHEMA as SCHEMA
from anytime_cls.models.fields import WEIGHTS as WEIGHTS
from anytime_cls.models.fields import check_fields
from anytime_cls.models.labels import ClassIndex, infer_synsets
from anytime_cls.race.fitted import Fitted
from anytime_cls.scorers.base import Shape
from anytime_cls.scorers.peers import shape_of


class ModelError(ValueError):
    """A model that cannot be found or loaded; one line saying which and why."""


class MissingExtra(ModelError):
    """A package that a model needs is not installed; one line saying how to."""


DEFAULT_MODEL = "cifar10"


@dataclass(frozen=True)
class ModelCard:
    """What `model.json` says, or would say of a bare file.

    path: the folder, or the bare file; files: where the `WEIGHTS` are if not in that folder; notes: what to
    say of it before it is used, a line each.
    """

    name: str
    path: Path
    fields: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()
    own_shape: Shape | None = None  # a third party's, where `fields` do not describe a transformer of ours

    @classmethod
    def of(
        cls,
        method: str,
        source: str,
        labels: Sequence[str],
        image_size: int,
        shape: Shape,
        hashes: Sequence[str],
    ) -> ModelCard:
        """A third party's card.

        method : its name. source : where its weights are, or what they are called. image_size : pixels a side
        of the centre crop that `encode` takes. hashes : what tells these weights from others, one or two (of
        what scores, and of what encodes): a file's SHA-256, or a package with its version.
        """
        sha256 = dict(zip(WEIGHTS, (hashes[0], hashes[-1]), strict=True))
        fields = {
            "schema": SCHEMA, "name": f"{method}:{source}", "layout": method, "labels": list(labels),
            "image_size": image_size, "model": {"n_tokens": shape.steps, "n_classes": len(labels)},
            "tokenizer": {}, "sha256": sha256,
        }  # fmt: skip
        check_fields(fields)
        return cls(f"{method}:{source}", Path(source), fields, own_shape=shape)

    @property
    def method(self) -> str:
        """Its kind of scorer, by name (`scorers.registry`)."""
        return str(self.fields.get("layout", "randar"))

    def weights(self, name: str) -> Path:
        """Where one of `WEIGHTS` is."""
        return self.files.get(name, self.path / name)

    @property
    def labels(self) -> list[str]:
        return list(self.fields["labels"])

    @property
    def image_size(self) -> int:
        return int(self.fields["image_size"])

    @property
    def temperature(self) -> float:
        """Divides the mean log-likelihoods before the soft-max; fitted on held-out images."""
        return float(self.fields.get("temperature", 1.0))

    @property
    def tokens(self) -> int:
        """Steps of a whole draw: tokens of an image, or 1."""
        return int(self.shape.steps)

    @cached_property
    def shape(self) -> Shape:
        """What can be said of its draws and their cost without the weights. Raises ModelError."""
        if self.own_shape is not None:
            return self.own_shape
        try:
            return shape_of(self.method, self.fields["model"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{self.path}: model.json's model does not make sense ({error})") from None

    @cached_property
    def fitted(self) -> Fitted:
        """What was fitted to this model's races."""
        return Fitted.read(self.fields, self.tokens)

    @property
    def sha256(self) -> dict[str, str]:
        """Weights file → hash."""
        return dict(self.fields["sha256"])

    @property
    def identity(self) -> str:
        """One hash for the model and its tokenizer."""
        return hashlib.sha256("".join(self.sha256[name] for name in WEIGHTS).encode()).hexdigest()

    @cached_property
    def synsets(self) -> list[str] | None:
        """WordNet ids parallel to `labels`: as written, or as the labels say (`labels.infer_synsets`)."""
        synsets = self.fields.get("synsets")
        if synsets is None:
            return infer_synsets(self.labels)
        if len(synsets) != len(self.labels):
            raise ValueError(f"synsets must be a list of {len(self.labels)}, one a label")
        return list(synsets)

    @cached_property
    def class_index(self) -> ClassIndex:
        """Finds classes by name."""
        return ClassIndex(self.labels, self.synsets)

    def class_ids(self, classes: Sequence[str | int] | None) -> np.ndarray:
        """Labels, synonyms, synsets or ids → the model's class ids, int64 [C], in the order given, once each.

        Raises ValueError for a name that is unknown or ambiguous, naming it.
        """
        if classes is None:
            return np.arange(len(self.labels))
        index = self.class_index
        ids = []
        for item in classes:
            text = str(item).strip()
            found = index.find(text)
            if len(found) > 1:
                raise ValueError(f"model {self.name!r}: {index.ambiguous(text, found)}")
            if not found:
                shown = ", ".join(self.labels[:10]) + (", ..." if len(self.labels) > 10 else "")
                raise ValueError(f"model {self.name!r} has no class {text!r}; it knows {shown}")
            ids.append(found[0])
        ids = list(dict.fromkeys(ids))
        if len(ids) < 2:
            raise ValueError(
                f"a race needs at least two classes, got {', '.join(map(str, classes)) or 'none'}"
            )
        return np.array(ids)
