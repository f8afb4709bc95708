"""What the methods of other people's weights share: names of classes, extras, hashes."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anytime_cls.models.card import WEIGHTS, MissingExtra, ModelCard, ModelError
from anytime_cls.models.hashes import cached_sha256
from anytime_cls.models.labels import imagenet_labels
from anytime_cls.models.others.names import PUBLISHED
from anytime_cls.scorers.base import Shape


def class_names(n_classes: int) -> list[str]:
    """1,000 classes are ImageNet's; others are called by their number."""
    labels = imagenet_labels().labels
    return list(labels) if n_classes == len(labels) else [str(i) for i in range(n_classes)]


def require(package: str, what: str) -> None:
    """Raises MissingExtra, saying what to install, where a package is missing. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{what} needs the package {package}: pip install {package}")


def split(source: str, method: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A source, and the options behind it: "NAME,key=value,...". Raises ModelError for an unknown one."""
    name, *options = source.split(",")
    given = dict(option.partition("=")[::2] for option in options)
    if unknown := set(given) - set(known):
        expected = "".join(f",{key}=..." for key in known)
        raise ModelError(f"{method}:{source}: no option {min(unknown)!r}: expected {method}:NAME{expected}")
    return name, given


def hash_of(paths: Sequence[Path]) -> str:
    """One SHA-256 for files that belong together, remembered as those of bare files are."""
    hashes = [cached_sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def card_of(
    method: str,
    source: str,
    n_classes: int,
    image_size: int,
    shape: Shape,
    files: Sequence[Sequence[Path]],
    licence: str = "",
) -> ModelCard:
    """A card of other people's weights; what `PUBLISHED` says of a name is on it, too.

    files: what scores and what encodes, of each the weights last; both are the same where one does both.
    """
    hashes = [hash_of(some) for some in files]
    card = ModelCard.of(method, source, class_names(n_classes), image_size, shape, hashes)
    where = dict(zip(WEIGHTS, (files[0][-1], files[-1][-1]), strict=True))
    if source not in PUBLISHED:
        return replace(card, files=where, fields={**card.fields, **({"licence": licence} if licence else {})})
    published = PUBLISHED[source]
    about = {"name": source, "licence": published.licence, "parameters": published.parameters}
    fields = {**card.fields, **about}
    return replace(card, name=source, path=where[WEIGHTS[0]], fields=fields, files=where)


def source_of(card: ModelCard) -> str:
    """What `card_of` was given."""
    return card.name if card.name in PUBLISHED else str(card.path)
