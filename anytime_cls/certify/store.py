"""What is written into a model's `model.json` after training: calibrations, and the race to recommend."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anytime_cls.files import replace_file
from anytime_cls.models.card import WEIGHTS, ModelCard, ModelError
from anytime_cls.models.fields import read_fields
from anytime_cls.race.fitted import DISAGREEMENT

NEAR = 0.005  # accuracy that the race a model recommends may give up for less compute


def best_calibration(calibrations: Sequence[Mapping[str, Any]], risk: float) -> int:
    """Which of several calibrations' races to recommend at this risk: the cheapest of those whose accuracy
    on the held-out images is at most NEAR below the best's."""
    held = [_entry(calibration, risk)["held_out"] for calibration in calibrations]
    accuracy = [row["accuracy"]["value"] if "accuracy" in row else 0.0 for row in held]
    near = [i for i, value in enumerate(accuracy) if value >= max(accuracy) - NEAR]
    return min(near, key=lambda i: held[i]["whole_passes"])


def store_calibration(
    card: ModelCard,
    calibration: Mapping[str, Any],
    replace_priors: bool = False,
    recommend: float | None = None,
) -> Path:
    """Adds a calibration to a model's `model.json`, whole or not at all; returns that file.

    A calibration for the same loss, risk, K_max, orders and number of classes is replaced. `priors` and
    `temperature` are written where the model has none for such orders, or if `replace_priors`. recommend :
    the risk (of another answer) among the calibrations at which to race the model when nobody says how.
    Raises ModelError for a model that cannot be written, or other weights than the calibration's.
    """
    if card.own_shape is not None:
        raise ModelError(f"{card.name} is no model folder of ours: keep its calibration with --out FILE")
    if card.files:
        raise ModelError(
            f"{card.path} is a file: 'anytime-cls models convert {card.path} FOLDER' makes a model of it"
        )
    sha = calibration.get("model_sha256")
    if sha and sha != card.sha256.get(WEIGHTS[0]):
        raise ModelError(f"{card.path} has other weights than the calibration's trace was recorded with")
    fields = dict(card.fields)
    for kind in ("calibrated", "prices"):
        if kind in calibration or kind in fields:
            entries = {_key(entry): entry for entry in fields.get(kind, ())}
            entries |= {_key(entry): entry for entry in calibration.get(kind, ())}
            fields[kind] = [entries[key] for key in sorted(entries)]
    if "abstain" in calibration:
        rows = [*fields.get("abstain", ()), *calibration["abstain"]]
        latest = {_abstain_key(entry): entry for entry in rows}
        fields["abstain"] = [latest[key] for key in sorted(latest)]
    for key in ("priors", "temperature", "calibration_images"):
        if calibration.get(key) and (replace_priors or not fields.get(key)):
            fields[key] = calibration[key]
    if "screens" in calibration:
        fields["screens"] = fields.get("screens", {}) | calibration["screens"]
    if "designs" in calibration:
        old = {_draws(design): design for design in fields.get("designs", ())}
        new = {_draws(design): design for design in calibration["designs"]}
        both = old | new if replace_priors else new | old
        fields["designs"] = [both[key] for key in sorted(both)]
    if recommend is not None:
        fields["race"] = _recommended(calibration, recommend)
    path = card.path / "model.json"
    write_json(path, fields)
    return path


def _recommended(calibration: Mapping[str, Any], risk: float) -> dict[str, Any]:
    """The `race` of model.json: what `plan.make` falls back to."""
    entry = _entry(calibration, risk)
    return {"rule": "calibrated", "delta": risk, "orders": entry["order_sampler"],
            "prefix": entry.get("prefix"), "max_orders": entry["k_max"],
            **({"crops": entry["crops"]} if "crops" in entry else {})}  # fmt: skip


def _entry(calibration: Mapping[str, Any], risk: float) -> Mapping[str, Any]:
    """The thresholds that hold this risk of another answer."""
    for entry in calibration["calibrated"]:
        if entry["risk"] == risk and entry.get("loss", DISAGREEMENT) == DISAGREEMENT:
            found: Mapping[str, Any] = entry
            return found
    raise ModelError(f"there is no calibration at risk {risk:g} to recommend")


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all. Raises ModelError if it cannot be written."""
    try:
        replace_file(path, (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror or error}") from None


def _draws(entry: Mapping[str, Any]) -> tuple[str, int, str]:
    return entry["order_sampler"], entry.get("prefix") or 0, entry.get("crops", "center")


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    loss = entry.get("loss", DISAGREEMENT)
    return *_draws(entry), entry["n_classes"], entry["k_max"], loss, entry["risk"]


def _abstain_key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    risk = entry.get("risk") or 0.0
    return *_draws(entry), entry["n_classes"], entry["k_max"], entry["rule"], risk


def copy_model(card: ModelCard, folder: Path) -> None:
    """A model's folder, copied: to a new one, or onto one that holds the same weights.

    Raises ModelError where something else is there, or it cannot be written.
    """
    if folder.resolve() == card.path.resolve():
        return
    try:
        if folder.exists():
            there = read_fields((folder / "model.json").read_bytes()).get("sha256")
            if there != card.fields.get("sha256"):
                raise ModelError(f"{folder} holds another model: name a new folder")
            return
        shutil.copytree(card.path, folder)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{folder} is there and no model folder: name a new one") from None
    except OSError as error:
        raise ModelError(f"{folder} cannot be written ({error.strerror or error})") from None
