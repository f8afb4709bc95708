"""Model names → weights, labels and calibration. A model is a directory:

    model.json                 configuration, labels, calibration, metrics, weights' SHA-256
    transformer.safetensors         the transformer, reference keys
    tokenizer.safetensors      its tokenizer

The embedded models are directories inside the package (`anytime_cls/models/NAME`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anytime_cls.bounds import VariancePrior
from anytime_cls.labels import ClassIndex, infer_synsets

if TYPE_CHECKING:  # torch is imported when a model is loaded, not to list names
    import torch

    from anytime_cls.sigma import Transformer
    from anytime_cls.tokenizer import Tokenizer

EMBEDDED = Path(__file__).parent / "models"
DEFAULT_MODEL = "cifar10"
SCHEMA = 1
LAYOUTS = ("randar", "sigma")  # RandAR's interleaved sequence, or a single stream (sigma.py)
WEIGHTS = ("transformer.safetensors", "tokenizer.safetensors")


class ModelError(ValueError):
    """A model that cannot be found or loaded; one line saying which and why."""


@dataclass(frozen=True)
class ModelCard:
    """What `model.json` says."""

    name: str
    path: Path
    fields: Mapping[str, Any]

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
    def priors(self) -> dict[str, VariancePrior]:
        """Variance priors under `paired` and `marginal`; empty for an uncalibrated model."""
        return {key: VariancePrior.from_dict(value) for key, value in self.fields.get("priors", {}).items()}

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
        if not isinstance(synsets, list) or len(synsets) != len(self.labels):
            raise ValueError(f"synsets must be a list of {len(self.labels)}, one a label")
        return [str(synset) for synset in synsets]

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


def embedded_names() -> list[str]:
    """Names of the models inside the package."""
    if not EMBEDDED.is_dir():
        return []
    return sorted(p.name for p in EMBEDDED.iterdir() if (p / "model.json").is_file())


def read_card(name_or_path: str | Path) -> ModelCard:
    """The card of an embedded model or of a model directory. Raises ModelError."""
    text = str(name_or_path)
    path = EMBEDDED / text if text in embedded_names() else Path(text)
    if not (path / "model.json").is_file():
        if path.is_dir():
            raise ModelError(f"{path}: no model.json here; expected a folder written by 'anytime-cls train'")
        known = ", ".join(embedded_names()) or "none"
        raise ModelError(f"no model {text!r}: embedded models are {known}; or give a model folder")
    try:
        fields = json.loads((path / "model.json").read_text(encoding="utf-8"))
        card = ModelCard(str(fields["name"]), path, fields)
        if fields["schema"] != SCHEMA:
            raise ModelError(f"{path}: model.json has schema {fields['schema']}, this version reads {SCHEMA}")
        if len(set(card.labels)) != len(card.labels) or len(card.labels) != fields["model"]["n_classes"]:
            raise ModelError(
                f"{path}: model.json's labels do not match its {fields['model']['n_classes']} classes"
            )
        _ = card.identity, card.image_size, card.temperature, card.priors, card.synsets
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: model.json cannot be read ({error!r})") from None
    return card


def build_transformer(layout: str, shape: Mapping[str, Any]) -> Transformer:
    """A transformer of one of `LAYOUTS` with fresh weights. Raises ValueError for any other layout."""
    from anytime_cls.randar import RandAR, RandARConfig
    from anytime_cls.sigma import SigmaConfig, SigmaGPT

    match layout:
        case "randar":
            return RandAR(RandARConfig.from_dict(shape))
        case "sigma":
            return SigmaGPT(SigmaConfig.from_dict(shape))
    raise ValueError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")


def load_model(card: ModelCard, device: torch.device, dtype: torch.dtype) -> tuple[Transformer, Tokenizer]:
    """Weights in eval mode on a device; the tokenizer stays in float32, since its ids are roundings.

    Raises ModelError when a file is missing, damaged or not the one `model.json` describes.
    """
    from anytime_cls.fsq import FSQConfig, FSQTokenizer

    try:
        states = {name: _read_weights(card, name) for name in WEIGHTS}
        kind = card.fields["tokenizer"].get("kind")
        if kind != "fsq":
            raise ModelError(f"{card.path}: unknown tokenizer kind {kind!r}")
        tokenizer = FSQTokenizer(FSQConfig.from_dict(card.fields["tokenizer"]))
        tokenizer.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in states["tokenizer.safetensors"].items()}
        )
        model = build_transformer(card.fields.get("layout", "randar"), card.fields["model"])
        model.load_reference(states["transformer.safetensors"])
    except ModelError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{card.path}: weights do not fit model.json ({str(error).splitlines()[0]})"
        ) from None
    if tokenizer.n_tokens != model.config.n_tokens or tokenizer.vocab_size > model.config.vocab_size:
        raise ModelError(
            f"{card.path}: the tokenizer gives {tokenizer.n_tokens} tokens of {tokenizer.vocab_size}, "
            f"the transformer reads {model.config.n_tokens} of {model.config.vocab_size}"
        )
    return model.to(device, dtype).eval(), tokenizer.to(device).eval()


def _read_weights(card: ModelCard, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = card.path / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    if hashlib.sha256(data).hexdigest() != card.sha256.get(name):
        raise ModelError(
            f"{path}: SHA-256 differs from model.json's: damaged or replaced, install the model again"
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None


def save_model(
    path: Path,
    fields: dict[str, Any],
    model_state: Mapping[str, torch.Tensor],
    tokenizer_state: Mapping[str, torch.Tensor],
) -> ModelCard:
    """Write a model directory; `fields` gains `schema` and `sha256`."""
    from safetensors.torch import save

    path.mkdir(parents=True, exist_ok=True)
    sha256 = {}
    for name, state in zip(WEIGHTS, (model_state, tokenizer_state), strict=True):
        data = save({key: value.detach().cpu().contiguous() for key, value in state.items()})
        (path / name).write_bytes(data)
        sha256[name] = hashlib.sha256(data).hexdigest()
    fields = {"schema": SCHEMA, **fields, "sha256": sha256}
    (path / "model.json").write_text(
        json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return read_card(path)
