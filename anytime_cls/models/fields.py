"""What `model.json` may say: every field that is read, its type and its range. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, Struct, ValidationError, convert, field
from msgspec.json import decode

from anytime_cls.race.fitted import Fitted
from anytime_cls.scorers.peers import FOLDERS, check_shape, shape_of

SCHEMA = 1
WEIGHTS = ("transformer.safetensors", "tokenizer.safetensors")
Text = Annotated[str, Meta(min_length=1, max_length=1000)]
Side = Annotated[int, Meta(ge=1, le=1 << 14)]  # pixels
Tokens = Annotated[int, Meta(ge=1, le=1 << 14)]  # of an image
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(gt=0, le=1e30)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
_Width = Annotated[int, Meta(ge=1, le=1 << 16)]
_Codes = Annotated[int, Meta(ge=1, le=1 << 24)]


class Sizes(Struct):
    """The `model` of any method."""

    n_tokens: Tokens
    n_classes: Annotated[int, Meta(ge=1, lt=1 << 24)]


class Transformer(Sizes, kw_only=True, forbid_unknown_fields=True):
    """The `model` of our own (`scorers.shapes.RandARConfig`)."""

    dim: _Width
    n_layer: Annotated[int, Meta(ge=1, le=256)]
    n_head: _Width
    vocab_size: _Codes
    rope_base: Annotated[float, Meta(gt=1, le=1e12)] = 10000.0
    norm_eps: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    multiple_of: _Width = 256


class HeadSizes(Sizes, kw_only=True, forbid_unknown_fields=True):
    """The `model` of a head (`scorers.peers.HeadConfig`)."""

    width: _Width
    vocab_size: _Codes


class DiffusionSizes(Sizes, kw_only=True, forbid_unknown_fields=True):
    """The `model` of a diffusion transformer (`scorers.peers.DiTConfig`)."""

    dim: _Width
    n_layer: Annotated[int, Meta(ge=1, le=256)]
    n_head: _Width
    channels: _Width


class FSQ(Struct, tag="fsq", tag_field="kind"):
    """The tokenizer of models that `train` writes."""

    image_size: Side
    widths: Annotated[list[_Width], Meta(min_length=1, max_length=12)]
    blocks: Annotated[list[Annotated[int, Meta(ge=0, le=1000)]], Meta(min_length=1, max_length=12)]
    levels: Annotated[list[Annotated[int, Meta(ge=2, le=1 << 16)]], Meta(min_length=1, max_length=24)]

    def check(self, image_size: int, tokens: int) -> None:
        """Raises ValueError where it does not give so many tokens of such a crop."""
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"{len(self.blocks)} blocks for {len(self.widths)} widths - at `$.tokenizer.blocks`"
            )
        if math.prod(self.levels) > 1 << 24:
            raise ValueError("more than 2^24 codes - at `$.tokenizer.levels`")
        if self.image_size != image_size:
            raise ValueError(f"{self.image_size} for crops of {image_size} - at `$.tokenizer.image_size`")
        stride = 1 << (len(self.widths) - 1)
        if image_size % stride or (image_size // stride) ** 2 != tokens:
            raise ValueError(f"{tokens} tokens of {image_size} pixels by {stride} - at `$.model.n_tokens`")


class Manifold(Struct, tag="manifold", tag_field="kind"):
    """The tokenizer that is fitted in closed form."""

    image_size: Side
    words: Annotated[int, Meta(ge=1, le=1 << 20)]
    width: _Width
    vocab_size: _Codes

    def check(self, image_size: int, tokens: int) -> None:
        """As `FSQ.check`."""
        if self.image_size != image_size:
            raise ValueError(f"{self.image_size} for crops of {image_size} - at `$.tokenizer.image_size`")
        if image_size % 4 or (image_size // 4) ** 2 != tokens:
            raise ValueError(f"{tokens} tokens of {image_size} pixels by 4 - at `$.model.n_tokens`")


class _VQ(Struct, tag_field="kind"):
    def check(self, image_size: int, tokens: int) -> None:
        """Raises ValueError where no stride gives so many tokens of such a crop."""
        if image_size % math.isqrt(tokens):
            raise ValueError(f"{tokens} tokens of {image_size} pixels a side - at `$.image_size`")


class LlamaGen(_VQ, tag="llamagen"):
    """LlamaGen's VQ-16: its sizes are read off its weights."""


class MaskGIT(_VQ, tag="maskgit"):
    """MaskGIT's VQGAN: likewise."""


class Interval(Struct):
    """A share and its 95 % interval."""

    value: Share
    low: Share
    high: Share


class OfRule(Struct):
    """How a rule did."""

    rule: str
    accuracy: Interval


class Metrics(Struct):
    """What was measured on labelled images; for people."""

    images: Count | None = None
    measured_on: Text | None = None
    accuracy_at_k: dict[Annotated[str, Meta(pattern=r"^[1-9]\d{0,8}$")], Interval] = {}
    rules: list[OfRule] = field(name="rules_at_delta_0.05", default_factory=list)


class File(Struct):
    """Every `model.json`, besides what was fitted (`race.fitted`)."""

    schema: Literal[1]
    name: Text
    labels: list[Text]
    image_size: Side
    model: Sizes
    tokenizer: dict[str, Any]
    sha256: dict[str, Annotated[str, Meta(min_length=1, max_length=200)]]
    layout: str = "randar"
    synsets: list[Text] | None = None
    license: Text | None = None
    licence: Text | None = None
    metrics: Metrics | None = None
    recipe: dict[str, Any] | None = None


class _Ours(Struct):
    model: dict[str, Any]
    tokenizer: FSQ | Manifold | LlamaGen | MaskGIT
    sha256: dict[str, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]


class _Net(Struct):
    model: Transformer


class _Head(Struct):
    model: HeadSizes


class _Diffusion(Struct):
    model: DiffusionSizes
    weighting: Annotated[list[tuple[Share, Weight]], Meta(min_length=2, max_length=1000)]


_NETS: dict[str, type[Struct]] = {"head": _Head, "diffusion": _Diffusion}  # and the others' is `_Net`


def check_fields(fields: Any) -> None:
    """Refuses what no card could say. Raises ValueError naming the field."""
    schema = fields.get("schema") if isinstance(fields, Mapping) else SCHEMA
    if type(schema) is int and schema != SCHEMA:
        raise ValueError(f"schema {schema}, this version reads {SCHEMA}")
    try:
        file = convert(fields, File)
        ours = convert(fields, _Ours) if file.layout in FOLDERS else None
        if ours is not None:
            convert(fields, _NETS.get(file.layout, _Net))
    except ValidationError as error:
        raise ValueError(str(error)) from None
    n_classes, n_tokens = file.model.n_classes, file.model.n_tokens
    if len(set(file.labels)) != len(file.labels) or len(file.labels) != n_classes:
        raise ValueError(f"labels do not match its {n_classes} classes - at `$.labels`")
    if missing := sorted(set(WEIGHTS) - set(file.sha256)):
        raise ValueError(f"no hash of {missing[0]} - at `$.sha256`")
    if file.synsets is not None and len(file.synsets) != n_classes:
        raise ValueError(f"synsets must be a list of {n_classes}, one a label - at `$.synsets`")
    if ours is not None:
        try:
            check_shape(shape_of(file.layout, fields["model"]))
            _check_weighting(fields.get("weighting", ()))
        except ValueError as error:
            raise ValueError(f"{error} - at `$.model`") from None
        ours.tokenizer.check(file.image_size, n_tokens)
    Fitted.read(fields, n_tokens)


def _check_weighting(pairs: Any) -> None:
    times = [pair[0] for pair in pairs]
    if times != sorted(set(times)):
        raise ValueError("the times of `weighting` must rise")


def read_fields(data: bytes) -> dict[str, Any]:
    """The fields of a model.json. Raises ValueError naming the field, or the byte that is no JSON."""
    try:
        fields: dict[str, Any] = decode(data)
    except DecodeError as error:
        where = _not_finite(data)
        raise ValueError(f"a number that is not finite - at `{where}`" if where else str(error)) from None
    check_fields(fields)
    return fields


def _not_finite(data: bytes) -> str:
    """Where the first NaN or infinity stands, which Python writes and JSON does not know; else nothing."""
    try:
        waiting = [("$", json.loads(data))]
    except ValueError:
        return ""
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return path
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", inner) for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{path}[...]", inner) for inner in value]
    return ""
