"""timm's classifiers and EfficientNet-Lite0 as scorers of one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from anytime_cls.models.card import ModelCard, ModelError
from anytime_cls.models.checkpoints import entries, read_tensors
from anytime_cls.models.others.references import LITE0_FLOPS, Source, published
from anytime_cls.scorers.one_pass import OnePass
from anytime_cls.scorers.others import OnePassConfig

Array = np.ndarray

HEAD_SIDE, HEAD_CROP = 224, 256  # pixels that DINOv2's linear heads were trained on, of a crop of so many


def middle(side: int, mean: Array, std: Array) -> Callable[[Array], Array]:
    """Makes crops uint8 [S, S, 3] float32 [3, side, side]: their middle, (x − mean) / std of 0 … 255."""
    mean, std = (np.asarray(part, np.float32).reshape(-1, 1, 1) for part in (mean, std))

    def prepare(crop: Array) -> Array:
        start = (crop.shape[0] - side) // 2
        inner = crop[start : start + side, start : start + side].transpose(2, 0, 1)
        return np.ascontiguousarray((inner.astype(np.float32) - mean) / std)

    return prepare


def load_lite0(card: ModelCard, device: str, dtype: str) -> OnePass:
    """EfficientNet-Lite0 by the package that its weights depend on. Inputs are (x − 127) / 128."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except Exception as error:
        raise ModelError(f"the package efficientnet_lite_pytorch cannot be imported ({error})") from None
    path = next(iter(card.files.values()))
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(_state(path))
    network = network.to(device, getattr(torch, dtype)).eval().requires_grad_(False)
    prepare = middle(224, np.full(3, 127.0), np.full(3, 128.0))
    return OnePass(network, prepare, OnePassConfig(LITE0_FLOPS, 1000), device, dtype)


@dataclass(frozen=True)
class Known:
    """What timm says of a name. crop: pixels of the centre crop, of which it reads the middle `side`."""

    config: dict[str, Any]
    n_classes: int
    side: int
    crop: int
    flops: float


def known(source: Source) -> Known:
    """Raises ModelError for a name that timm has not, or a model without classes and head."""
    from torch.utils.flop_counter import FlopCounterMode

    timm = _timm()
    if not timm.is_model(source.name.partition(".")[0]):
        near = timm.list_models(f"{source.name.partition('.')[0][:8]}*", pretrained=True)[:3]
        raise ModelError(
            f"timm has no model {source.name!r}{': there is ' + ', '.join(near) if near else ''}"
        )
    config = timm.get_pretrained_cfg(source.name)
    fields: dict[str, Any] = {} if config is None else config.to_dict()
    with torch.device("meta"):
        network = _network(timm, source)
    head = None if source.head is None else _head_of(source.head)
    n_classes = int(network.num_classes) if head is None else head[0]
    if n_classes < 2:
        raise ModelError(f"timm:{source.name} has no classes: give it a head, timm:{source.name},head=FILE")
    side, crop = HEAD_SIDE, HEAD_CROP
    if head is None:
        side = int(fields.get("input_size", (3, 224, 224))[-1])
        crop = round(side / float(fields.get("crop_pct", 0.875)))
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        network.eval()(torch.empty(1, 3, side, side, device="meta"))
    return Known(fields, n_classes, side, crop, float(counted.get_total_flops()))


def load_timm(source: Source, device: str, dtype: str) -> OnePass:
    """Raises ModelError for weights that do not fit."""
    timm, about = _timm(), known(source)
    path = source.weights or published(source.name, about.config)
    entries(path)  # refuses what is no file of weights, before timm reads it
    try:
        network = _network(timm, source, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: no weights of timm:{source.name} ({_line(error)})") from None
    if source.head is not None:
        network = Headed(network, source.head)
    network = network.to(device, getattr(torch, dtype)).eval().requires_grad_(False)
    mean, std = (255 * np.asarray(about.config[name]) for name in ("mean", "std"))
    shape = OnePassConfig(about.flops, about.n_classes)
    return OnePass(network, middle(about.side, mean, std), shape, device, dtype)


def _network(timm: Any, source: Source, **options: Any) -> Any:
    """Without a head, and of DINOv2's side, where a linear one is read."""
    if source.head is not None:
        options |= {"num_classes": 0, "img_size": HEAD_SIDE}
    return timm.create_model(source.name, **options)


@final
class Headed(nn.Module):
    """A vision transformer and a linear head on its class tokens of the last layers, one or four, and the
    mean of its last patches: `dinov2_*_linear_head.pth` and `..._linear4_head.pth`."""

    def __init__(self, backbone: Any, path: Path):
        super().__init__()
        n_classes, width = _head_of(path)
        self.backbone, self.layers = backbone, width // backbone.embed_dim - 1
        if self.layers not in (1, 4) or width % backbone.embed_dim:
            raise ModelError(
                f"{path}: a head of {width} numbers does not fit {backbone.embed_dim} wide tokens"
            )
        self.head = nn.Linear(width, n_classes)
        self.head.load_state_dict(_state(path))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] → logits [B, C]."""
        found = self.backbone.get_intermediate_layers(
            pixels, n=self.layers, return_prefix_tokens=True, norm=True
        )
        tokens = [prefix[:, 0] for _, prefix in found]
        logits: Tensor = self.head(torch.cat([*tokens, found[-1][0].mean(1)], dim=1))
        return logits


def _head_of(path: Path) -> tuple[int, int]:
    """Classes and width of a linear head. Raises ModelError."""
    tensors = entries(path).tensors
    if set(tensors) != {"weight", "bias"} or len(tensors["weight"].shape) != 2:
        raise ModelError(f"{path}: no linear head: expected tensors 'weight' and 'bias'")
    n_classes, width = tensors["weight"].shape
    return n_classes, width


def _state(path: Path) -> dict[str, Tensor]:
    return read_tensors(path, {name: name for name in entries(path).tensors})


def _timm() -> Any:
    """The package. Raises ModelError where it is there and cannot be imported."""
    try:
        import timm
    except Exception as error:  # torchvision of another build than torch's is what happens
        raise ModelError(
            f"the package timm cannot be imported ({_line(error)}): install torchvision of torch's build"
        ) from None
    return timm


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
