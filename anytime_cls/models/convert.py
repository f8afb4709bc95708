"""Bare RandAR transformers into files of ours: one safetensors file, or a model folder to calibrate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from anytime_cls.models import hub
from anytime_cls.models.card import SCHEMA, ModelCard, ModelError
from anytime_cls.models.checkpoints import (
    METADATA,
    Checkpoint,
    inspect,
    read_state,
    write_safetensors,
)
from anytime_cls.models.load import load_tokenizer, save_model
from anytime_cls.models.zoo import (
    EMBEDDED,
    bare_fields,
    embedded_names,
    find_tokenizer,
)


def convert(
    source: str | Path,
    out: str | Path,
    *,
    name: str = "",
    n_head: int | None = None,
    n_tokens: int | None = None,
    labels: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Checkpoint | ModelCard:
    """Write a RandAR transformer under its reference's names, the weights as they were stored.

    source: a file (.safetensors, .pt, ...), "hf:owner/repo/file" or a name that was pulled.
    out: a name that ends in .safetensors, for a file with the configuration as JSON in its metadata; any
    other, for a model folder with its tokenizer, whose model.json a calibration can be written to.
    name: the model's, else the output's. n_head, n_tokens: what shapes do not show, if not dim / 64 and 256.
    labels: names of the classes in order, unique, for a model of other classes than ImageNet's 1,000.
    say: takes a note where the source holds several copies of weights.

    Raises ModelError if the source is no whole RandAR transformer, or the output exists; OSError if it cannot
    be written.
    """
    out, source = Path(out), locate(source)
    if out.exists():
        raise ModelError(f"{out} exists already: name another output, or remove it")
    if not out.absolute().parent.is_dir():
        raise ModelError(f"{out.absolute().parent} is not a folder: --out's folder has to exist")
    checkpoint = inspect(source, n_head, n_tokens)
    if checkpoint.note:
        say(f"{source}: {checkpoint.note}")
    n_classes = checkpoint.shape["n_classes"]
    if labels is not None and (len(set(labels)) != n_classes or len(labels) != n_classes):
        raise ModelError(f"{source} has {n_classes} classes, {len(set(labels))} different labels were given")
    metadata = dict(checkpoint.metadata)
    metadata |= {"schema": SCHEMA, "layout": "randar", "model": dict(checkpoint.shape)}
    metadata["name"] = name or str(metadata.get("name") or out.stem)
    if labels is not None:
        metadata["labels"] = list(labels)
    checkpoint = Checkpoint(source, checkpoint.keys, checkpoint.shape, metadata)
    if out.suffix == ".safetensors":
        own = {"format": "pt", METADATA: json.dumps(metadata, ensure_ascii=False)}
        write_safetensors(out, read_state(checkpoint), own)
        return inspect(out)
    tokenizer_path, vq = find_tokenizer(checkpoint)
    fields = {"name": metadata["name"], **bare_fields(checkpoint, vq)}
    card = ModelCard(fields["name"], source, fields, {"tokenizer.safetensors": tokenizer_path})
    tokenizer = load_tokenizer(card)  # the smaller file first
    return save_model(out, fields, read_state(checkpoint), tokenizer.state_dict())


def locate(source: str | Path) -> Path:
    """The file behind what `--model` takes for a bare transformer. Raises ModelError."""
    text = str(source)
    if text in hub.MODELS or text.startswith(hub.PREFIX):
        return hub.find(text)
    path = EMBEDDED / text if text in embedded_names() else Path(text)
    if (path / "model.json").is_file():
        raise ModelError(f"{text} is a model folder already: nothing to convert")
    return path
