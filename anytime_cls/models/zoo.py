"""Model names → weights, labels and calibration. A model is a directory:

    model.json                 configuration, labels, calibration, metrics, weights' SHA-256
    transformer.safetensors    the transformer, reference keys
    tokenizer.safetensors      its tokenizer

The embedded models are directories inside the package (`anytime_cls/models/weights/NAME`). A bare file of
a RandAR transformer is a model too: its card is made up from the file (`checkpoints`), and its tokenizer, one
of two that are published, is found beside it or in the Hugging Face cache (`hub`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anytime_cls.models import hub
from anytime_cls.models.card import SCHEMA, WEIGHTS, MissingExtra, ModelCard, ModelError
from anytime_cls.models.checkpoints import (
    SUFFIXES,
    VQ,
    Checkpoint,
    inspect,
    inspect_tokenizer,
)
from anytime_cls.models.fields import read_fields
from anytime_cls.models.hashes import cached_sha256
from anytime_cls.models.labels import imagenet_labels
from anytime_cls.models.others.names import ENCODERS, PUBLISHED, cached_weights
from anytime_cls.models.others.names import pull as pull_part
from anytime_cls.scorers.peers import FOLDERS
from anytime_cls.scorers.registry import method, takes_source

EMBEDDED = Path(__file__).parent / "weights"


def embedded_names() -> list[str]:
    """Names of the models inside the package."""
    if not EMBEDDED.is_dir():
        return []
    return sorted(p.name for p in EMBEDDED.iterdir() if (p / "model.json").is_file())


def read_card(name_or_path: str | Path, labels: Sequence[str] | None = None) -> ModelCard:
    """The card of a model: no weights are read, but those of a bare file are hashed once.

    An embedded name, a model directory, a name that was pulled (`hub.MODELS`), a bare RandAR transformer
    (.safetensors, .pt, ...), or "hf:owner/repo/file", which is fetched, with its tokenizer, unless it is in
    the Hugging Face cache; a name of other people's models (`others.names.PUBLISHED`); or "METHOD:SOURCE" of
    one of their methods, or of one that another package brings (`scorers.registry`), whose classes are
    `labels` where it is open-vocabulary. Raises ModelError.
    """
    text = str(name_or_path)
    if text in embedded_names():
        return _folder_card(EMBEDDED / text)
    if text in hub.MODELS or text.startswith(hub.PREFIX):
        return _bare_card(hub.find(text), text, fetch=text not in hub.MODELS)
    kind, colon, source = text.partition(":")
    if text in PUBLISHED or (colon and takes_source(kind)):
        own = (PUBLISHED[text].method, text) if text in PUBLISHED else (kind, source)
        card: ModelCard = method(own[0]).card(own[1], labels)
        return card
    path = Path(text)
    if (path / "model.json").is_file():
        return _folder_card(path)
    if path.is_dir():
        raise ModelError(f"{path}: no model.json here; expected a folder written by 'anytime-cls train'")
    if path.suffix == ".pkl" or kind == "edm":
        raise ModelError(
            f"{path.name}: EDM's networks are pickles of Python classes, and to read one is to run its code, "
            "which is never done here; DiT and SiT are the diffusion models to take (docs/models.md)"
        )
    if path.suffix in SUFFIXES or path.is_file():
        return _bare_card(path)
    known = ", ".join(embedded_names()) or "none"
    raise ModelError(
        f"no model {text!r}: embedded models are {known}; or give a model folder, a .safetensors or .pt "
        f"file, hf:owner/repo/file, or what 'models pull' fetches ({', '.join([*hub.MODELS, *PUBLISHED])})"
    )


def _folder_card(path: Path) -> ModelCard:
    try:
        fields = read_fields((path / "model.json").read_bytes())
        if fields.get("layout", "randar") not in FOLDERS:
            raise ValueError(f"unknown layout {fields['layout']!r}: {' or '.join(FOLDERS)} - at `$.layout`")
        others = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
    except OSError as error:
        raise ModelError(f"{path}: model.json cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise ModelError(f"{path}: model.json cannot be read (it is nested too deeply)") from None
    except ValueError as error:  # not JSON, or not a model's
        raise ModelError(f"{path}: model.json cannot be read ({error})") from None
    others = [name for name in others if name not in WEIGHTS and not name.startswith("checkpoint-")]
    notes = [f"{path}: its weights are in {WEIGHTS[0]} and {WEIGHTS[1]}; not read: {', '.join(others)}"]
    return ModelCard(fields["name"], path, fields, notes=notes if others else ())


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
    notes = [f"{path}: {checkpoint.note}"] if checkpoint.note else []
    notes += [f"{tokenizer_path}: {tokenizer.note}"] if tokenizer.note else []
    return ModelCard(name, path, fields, files, notes)


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


def others_here() -> list[str]:
    """Names of `PUBLISHED` that can be raced on this machine as it is."""
    found = []
    for name in PUBLISHED:
        with suppress(ModelError):
            found.append(read_card(name).name)
    return found


def fetch_other(name: str, say: Callable[[str], None] = lambda line: None) -> str:
    """Fetch what the hub has of a name of `PUBLISHED` or `ENCODERS`, or of "timm:NAME".

    Returns a line saying what is there now. Raises HubError if something cannot be fetched, ModelError for
    weights that no hub has.
    """
    if name in ENCODERS:
        return f"{name}: {pull_part(ENCODERS[name], say)}"
    if name.startswith("timm:"):
        from anytime_cls.models.others.references import fetch

        fetch(name.removeprefix("timm:"), say)
        licence = read_card(name).fields.get("licence") or "no licence stated"
        return f"{name}: ready, --model {name} ({licence})"
    published = PUBLISHED[name]
    if published.note:
        say(f"{name}: {published.note}")
    for part in published.parts:
        pull_part(part, say)
    if published.parts:
        cached_weights(name)
    try:
        read_card(name)
    except MissingExtra as error:
        if not published.parts:
            raise
        say(str(error))
    return f"{name}: ready, --model {name} ({published.licence})"


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
