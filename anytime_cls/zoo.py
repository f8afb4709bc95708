"""Model names → weights, labels and calibration. A model is a directory:

    model.json                 configuration, labels, calibration, metrics, weights' SHA-256
    transformer.safetensors    the transformer, reference keys
    tokenizer.safetensors      its tokenizer

The embedded models are directories inside the package (`anytime_cls/models/NAME`). A bare file of a RandAR
transformer is a model too: its card is made up from the file (`checkpoints`), and its tokenizer, one of two
that are published, is found beside it or in the Hugging Face cache (`hub`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anytime_cls import hub
from anytime_cls.bounds import VariancePrior
from anytime_cls.checkpoints import (
    SUFFIXES,
    VQ,
    Checkpoint,
    ModelError,
    cached_sha256,
    file_sha256,
    inspect,
    inspect_tokenizer,
    read_state,
    write_safetensors,
)
from anytime_cls.labels import ClassIndex, imagenet_labels, infer_synsets

if TYPE_CHECKING:  # torch is imported when a model is loaded, not to list names
    import torch
    from torch.overrides import TorchFunctionMode

    from anytime_cls.fsq import FSQTokenizer
    from anytime_cls.randar import RandARConfig
    from anytime_cls.sigma import Transformer
    from anytime_cls.tokenizer import LlamaGenTokenizer, MaskGITTokenizer, Tokenizer

EMBEDDED = Path(__file__).parent / "models"
DEFAULT_MODEL = "cifar10"
SCHEMA = 1
LAYOUTS = ("randar", "sigma")  # RandAR's interleaved sequence, or a single stream (sigma.py)
WEIGHTS = ("transformer.safetensors", "tokenizer.safetensors")


@dataclass(frozen=True)
class ModelCard:
    """What `model.json` says, or would say of a bare file.

    path: the folder, or the bare file; files: where the `WEIGHTS` are if not in that folder.
    """

    name: str
    path: Path
    fields: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)

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
    """The card of a model: no weights are read, but those of a bare file are hashed once.

    An embedded name, a model directory, a name that was pulled (`hub.MODELS`), a bare RandAR transformer
    (.safetensors, .pt, ...), or "hf:owner/repo/file", which is fetched, with its tokenizer, unless it is in
    the Hugging Face cache. Raises ModelError.
    """
    text = str(name_or_path)
    if text in embedded_names():
        return _folder_card(EMBEDDED / text)
    if text in hub.MODELS or text.startswith(hub.PREFIX):
        return _bare_card(hub.find(text), text, fetch=text not in hub.MODELS)
    path = Path(text)
    if (path / "model.json").is_file():
        return _folder_card(path)
    if path.is_dir():
        raise ModelError(f"{path}: no model.json here; expected a folder written by 'anytime-cls train'")
    if path.suffix in SUFFIXES or path.is_file():
        return _bare_card(path)
    known = ", ".join(embedded_names()) or "none"
    raise ModelError(
        f"no model {text!r}: embedded models are {known}; or give a model folder, a .safetensors or .pt "
        f"file, hf:owner/repo/file, or what 'models pull' fetches ({', '.join(hub.MODELS)})"
    )


def _folder_card(path: Path) -> ModelCard:
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


def _bare_card(path: Path, name: str = "", fetch: bool = False) -> ModelCard:
    """The card of a transformer's file. fetch: its tokenizer may be fetched from the hub."""
    if path.name in WEIGHTS and (path.parent / "model.json").is_file():
        raise ModelError(f"{path} is part of the model {path.parent}: give that folder")
    checkpoint = inspect(path)
    tokenizer_path, tokenizer = find_tokenizer(checkpoint, fetch)
    files = dict(zip(WEIGHTS, (path, tokenizer_path), strict=True))
    sha256 = {key: cached_sha256(file) for key, file in files.items()}
    for key, file in files.items():
        blob = file.resolve()  # the hub's cache names large files by their SHA-256
        if blob.parent.name == "blobs" and len(blob.name) == 64 and blob.name != sha256[key]:
            raise ModelError(
                f"{file}: damaged, its SHA-256 is not the hub's; run 'anytime-cls models pull' again"
            )
    name = name or str(checkpoint.metadata.get("name") or path.stem)
    fields = bare_fields(checkpoint, tokenizer) | {"name": name, "sha256": sha256}
    return ModelCard(name, path, fields, files)


def bare_fields(checkpoint: Checkpoint, tokenizer: VQ) -> dict[str, Any]:
    """What `model.json` would say of a bare transformer: all but its name and the hashes. Not calibrated."""
    n_classes = checkpoint.shape["n_classes"]
    labels = checkpoint.metadata.get("labels")
    if labels is None:
        table = imagenet_labels()
        is_imagenet = n_classes == len(table.labels)
        labels = list(table.labels) if is_imagenet else [str(i) for i in range(n_classes)]
    elif not isinstance(labels, list) or len({str(label) for label in labels}) != n_classes:
        raise ModelError(f"{checkpoint.path}: the labels in it do not match its {n_classes} classes")
    return {
        "schema": SCHEMA,
        "labels": [str(label) for label in labels],
        "image_size": math.isqrt(checkpoint.shape["n_tokens"]) * tokenizer.stride,
        "layout": "randar",
        "tokenizer": {"kind": tokenizer.kind},
        "model": dict(checkpoint.shape),
    }


def find_tokenizer(checkpoint: Checkpoint, fetch: bool = False) -> tuple[Path, VQ]:
    """The tokenizer that belongs to a bare transformer: where it is, and which.

    Beside the file, under its published name or as tokenizer.safetensors or .pt; else in the Hugging Face
    cache; else, if `fetch`, from the hub. Which of the published ones it is follows from the vocabulary.
    Raises ModelError if there is none, or one of another vocabulary alone.
    """
    vocab_size = checkpoint.shape["vocab_size"]
    published = hub.TOKENIZER_OF.get(vocab_size)
    others = []
    for path in _tokenizers_beside(checkpoint):
        found = inspect_tokenizer(path)
        if found.vocab_size == vocab_size:
            return path, found
        others.append(f"; {path.name} there has {found.vocab_size} codes")
    other = others[0] if others else ""
    reads = f"{checkpoint.path}: it reads tokens of {vocab_size} codes"
    if published is None:
        raise ModelError(
            f"{reads}, and no tokenizer beside it gives those{other}: put one there as tokenizer.pt"
        )
    file = hub.TOKENIZERS[published]
    cached = hub.cached(file) or (hub.pull(file) if fetch else None)
    if cached is None:
        raise ModelError(
            f"{reads}, and its tokenizer {Path(file.path).name} is neither beside it nor in the "
            f"Hugging Face cache{other}: run 'anytime-cls models pull {published}', or put it there"
        )
    found = inspect_tokenizer(cached)
    if found.vocab_size != vocab_size:
        raise ModelError(f"{reads}, {cached} gives {found.vocab_size}: it is not {file}, pull it again")
    return cached, found


def _tokenizers_beside(checkpoint: Checkpoint) -> list[Path]:
    names = [f"tokenizer{suffix}" for suffix in SUFFIXES]
    for file in hub.TOKENIZERS.values():
        own = Path(file.path)
        names += [own.name, f"{own.stem}.safetensors"]
    return [path for path in (checkpoint.path.parent / name for name in names) if path.is_file()]


def fetch_model(name: str, file: hub.HubFile, say: Callable[[str], None] = lambda line: None) -> ModelCard:
    """Fetch a RandAR transformer into the Hugging Face cache, and its tokenizer if none is beside it.

    name: what the card calls it. Files that are there are checked. Raises HubError if one cannot be fetched,
    ModelError if what came is not what it should be.
    """
    checkpoint = inspect(hub.pull(file, say))
    published = hub.TOKENIZER_OF.get(checkpoint.shape["vocab_size"])
    if published and not _tokenizers_beside(checkpoint):
        hub.pull(hub.TOKENIZERS[published], say)
    return _bare_card(checkpoint.path, name)


def transformer_config(layout: str, shape: Mapping[str, Any]) -> RandARConfig:
    """The shape (`n_tokens`, `flops`) of a transformer of one of `LAYOUTS`, without its weights.

    Raises ValueError for any other layout, TypeError for fields that such a shape has not.
    """
    from anytime_cls.randar import RandARConfig
    from anytime_cls.sigma import SigmaConfig

    match layout:
        case "randar":
            return RandARConfig.from_dict(shape)
        case "sigma":
            return SigmaConfig.from_dict(shape)
    raise ValueError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")


def build_transformer(layout: str, shape: Mapping[str, Any]) -> Transformer:
    """A transformer of one of `LAYOUTS` with fresh weights. Raises as `transformer_config`."""
    from anytime_cls.randar import RandAR
    from anytime_cls.sigma import SigmaConfig, SigmaGPT

    config = transformer_config(layout, shape)
    return SigmaGPT(config) if isinstance(config, SigmaConfig) else RandAR(config)


def load_model(card: ModelCard, device: torch.device, dtype: torch.dtype) -> tuple[Transformer, Tokenizer]:
    """Weights in eval mode on a device; the tokenizer stays in float32, since its ids are roundings.

    Raises ModelError when a file is missing, damaged or not the one `model.json` describes.
    """
    try:
        tokenizer = load_tokenizer(card)
        state = read_state(inspect(card.path)) if card.files else _read_weights(card, WEIGHTS[0])
        with _no_init():
            model = build_transformer(card.fields.get("layout", "randar"), card.fields["model"])
        model.load_reference(state)
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


def load_tokenizer(card: ModelCard) -> FSQTokenizer | LlamaGenTokenizer | MaskGITTokenizer:
    """A model's tokenizer on the CPU, in float32. Raises ModelError, or ValueError if it does not fit."""
    from anytime_cls.fsq import FSQConfig, FSQTokenizer
    from anytime_cls.tokenizer import LlamaGenTokenizer, load_vq

    fields = card.fields["tokenizer"]
    match fields.get("kind"):
        case "fsq":
            tokenizer = FSQTokenizer(FSQConfig.from_dict(fields))
            state = _read_weights(card, WEIGHTS[1])
            tokenizer.load_state_dict(
                {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
            )
            return tokenizer.folded()
        case "llamagen" | "maskgit" as kind:
            path = card.weights(WEIGHTS[1]) if card.files else _verified(card, WEIGHTS[1])
            try:
                vq = load_vq(path, card.image_size)
            except ValueError as error:
                raise ModelError(str(error)) from None
            if isinstance(vq, LlamaGenTokenizer) != (kind == "llamagen"):
                raise ModelError(f"{path}: holds the other VQ tokenizer, {card.path} says {kind!r}")
            return vq
        case kind:
            raise ModelError(f"{card.path}: unknown tokenizer kind {kind!r}")


def _verified(card: ModelCard, name: str) -> Path:
    """A weights file of a model folder, its hash checked."""
    path = card.path / name
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    if digest != card.sha256.get(name):
        raise ModelError(
            f"{path}: SHA-256 differs from model.json's: damaged or replaced, install the model again"
        )
    return path


def _read_weights(card: ModelCard, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _verified(card, name)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None


def _no_init() -> TorchFunctionMode:
    """Modules made in this context keep their memory as it comes: drawing 343 M numbers takes seconds."""
    from torch.overrides import TorchFunctionMode

    class NoInit(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", "") == "torch.nn.init":
                return args[0] if args else (kwargs or {})["tensor"]
            return func(*args, **(kwargs or {}))

    return NoInit()


def save_model(
    path: Path,
    fields: dict[str, Any],
    model_state: Mapping[str, torch.Tensor],
    tokenizer_state: Mapping[str, torch.Tensor],
) -> ModelCard:
    """Write a model directory; `fields` gains `schema` and `sha256`."""
    path.mkdir(parents=True, exist_ok=True)
    sha256 = {}
    for name, state in zip(WEIGHTS, (model_state, tokenizer_state), strict=True):
        write_safetensors(path / name, state)
        sha256[name] = file_sha256(path / name)
    fields = {"schema": SCHEMA, **fields, "sha256": sha256}
    (path / "model.json").write_text(
        json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return read_card(path)
