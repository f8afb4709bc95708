"""Where a run's numbers come from, and its decisions as rows of a trace: what every trace is made of."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import anytime_cls
from anytime_cls.classifier import (
    Decision,
    Failure,
    RaceOptions,
    choose_dtype,
    race_design,
    race_rule,
    race_temperature,
)
from anytime_cls.rules import CalibratedRule, Rule
from anytime_cls.trace import ImageRow, Scores
from anytime_cls.value import ValueRule
from anytime_cls.zoo import WEIGHTS

if TYPE_CHECKING:
    from anytime_cls.randar import RandARConfig
    from anytime_cls.zoo import ModelCard


def model_config(card: ModelCard) -> RandARConfig:
    """The shape of a card's transformer (`n_tokens`, `flops`), without its weights. Raises ModelError."""
    from anytime_cls.zoo import ModelError, transformer_config

    try:
        return transformer_config(card.fields.get("layout", "randar"), card.fields["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{card.path}: model.json's model does not make sense ({error})") from None


def provenance(
    card: ModelCard, options: RaceOptions, dataset: str, device: str, dtype: str, command: str | None = None
) -> dict[str, Any]:
    """The attributes of a run's trace (docs/trace.md); None where there is nothing to say.

    options: resolved or not. dataset: its name. device, dtype: what the transformer runs on and in, as typed.
    command: as typed. Needs no weights. Raises ValueError in one line for a dtype or a model that is none.
    """
    config = model_config(card)
    options = options.resolve(card)
    prefixes, m = list(options.prefixes), options.prefix
    design, rule = race_design(card, options), race_rule(card, options)
    return {
        "model": card.name,
        "model_sha256": card.sha256[WEIGHTS[0]],
        "tokenizer_sha256": card.sha256[WEIGHTS[1]],
        "temperature": race_temperature(card, options, rule),
        "priors": json.dumps(design.get("priors", {}), sort_keys=True),
        "dataset": dataset,
        "tokens": config.n_tokens,
        "flops": config.flops(),
        "pass_tokens": m,
        "pass_flops": None if m is None else config.flops(m),
        "prefixes": prefixes or None,
        "prefix_flops": [config.flops(prefix) for prefix in prefixes] or None,
        "seed": options.seed,
        "order_sampler": options.orders,
        "crops": None if options.crops == "center" else options.crops,
        "latent_noise": options.latent_noise or None,
        "aggregate": options.aggregate,
        "rule": options.rule,
        "delta": options.delta,
        "calibrated": _fitted(rule),
        "k_max": options.k_max,
        "budget": None if options.budget is None else str(options.budget),
        "dtype": str(choose_dtype(dtype)).removeprefix("torch."),
        "device": device,
        "command": command,
        "git_revision": git_revision(),
        **{f"version_{name}": version for name, version in versions().items()},
    }


def _fitted(rule: Rule) -> str | None:
    """What a calibration says to a run's rule, as JSON: the model's may change later. None for most rules."""
    match rule:
        case CalibratedRule():
            return json.dumps({"thresholds": rule.thresholds, "rungs": rule.rungs})
        case ValueRule():
            prior = rule.prior and rule.prior.to_dict()
            return json.dumps({"price": rule.price, "temperature": rule.temperature, "prior": prior})
    return None


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; the JPEG library too, since it decides pixels."""
    import PIL
    import torch
    from PIL import features

    jpeg = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    number = features.version("libjpeg_turbo") or features.version("jpg") or "missing"
    return {
        "anytime_cls": anytime_cls.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": f"{jpeg} {number}",
    }


def git_revision() -> str | None:
    """The commit of the checkout this program runs from, if it does."""
    root = Path(anytime_cls.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def positions(class_ids: Sequence[int] | np.ndarray) -> dict[int, int]:
    """The model's class ids raced → their positions in the trace's labels."""
    return {int(index): at for at, index in enumerate(class_ids)}


def image_row(
    id: str, path: str, label: int, result: Decision | Failure, position: dict[int, int], k_max: int
) -> tuple[ImageRow, Scores]:
    """What a trace keeps of one image. position: from `positions`, of the classes raced. k_max: orders.

    Forward evaluations are counted once, however many prefixes of them were recorded too.
    """
    path = path.replace("\0", "\ufffd")
    if isinstance(result, Failure):
        row = ImageRow(id, path, label, -1, 0, 0, 0.0, 0.0, "", math.nan, result.error)
        return row, Scores.empty()
    full_cost = len(position) * k_max
    row = ImageRow(
        id=id, path=path, label=label,
        prediction=position[result.index],
        orders=result.orders,
        passes=evaluations(result),
        token_fraction=result.passes / full_cost,
        seconds=result.seconds, stop=result.stop, probability=result.probability,
    )  # fmt: skip
    return row, scores_of(result)


def evaluations(decision: Decision) -> int:
    """Forward evaluations, of any length, behind a decision.

    One that recorded prefixes too left several records in a row: the same classes, at ever more tokens.
    """
    total = 0
    for record, after in pairwise((*decision.records, None)):
        assert record is not None
        goes_on = after is not None and (after.round, after.order) == (record.round, record.order)
        goes_on = goes_on and after is not None and after.prefix > record.prefix
        if not (goes_on and after is not None and np.array_equal(after.classes, record.classes)):
            total += len(record.classes)
    return total


def scores_of(decision: Decision) -> Scores:
    """Everything the race scored, as the trace's columns."""
    records = decision.records
    if not records:
        return Scores.empty()
    sizes = [len(record.classes) for record in records]
    return Scores(
        order=np.repeat([record.order for record in records], sizes),
        cls=np.concatenate([record.classes for record in records]),
        prefix=np.repeat([record.prefix for record in records], sizes),
        round=np.repeat([record.round for record in records], sizes),
        value=np.concatenate([record.values for record in records]),
    )
