"""Other programs' scores as traces: layouts checked, draws put in an order that races may take them in.

What comes in is NumPy (`models.results` reads files). docs/trace.md says which layouts, and what of a run
they do not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from scipy.special import softmax

from anytime_cls.draws.keyed import permutation
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

Array = np.ndarray
LATENT = (
    4 * 64 * 64
)  # numbers of a 512-pixel picture's latent in Stable Diffusion: what errors are means over
_MOST = 1 << 27  # scores of an image, or of a tensor's plane


@final
@dataclass(frozen=True, eq=False)
class Foreign:
    """One image of another program's run. scores : float64 [draws, classes], higher is likelier, NaN where
    nothing was scored. label : a position among the classes, −1 unknown."""

    id: str
    path: str
    scores: Array
    label: int = -1


def adaptive(found: Any, elements: int = LATENT) -> tuple[Array, int | None]:
    """diffusion-classifier's `eval_prob_adaptive.py`: {errors: {prompt: {t, pred_errors}}, pred, label}.

    → scores [draws, prompts] and the label, a class's number. A score is −elements / 2 × the mean squared
    error of the noise: a Gaussian's log-likelihood of unit variance, up to a constant, in nats. Draw j is the
    j-th (t, noise) that a prompt was tried on, which its rivals share: `t` must say so. Raises ValueError.
    """
    if not isinstance(found, Mapping) or not isinstance(found.get("errors"), Mapping):
        raise ValueError("not a result of eval_prob_adaptive.py: a dict of 'errors', 'pred' and 'label'")
    errors, count = found["errors"], len(found["errors"])
    if count < 2 or sorted(map(str, errors)) != sorted(map(str, range(count))):
        raise ValueError("its prompts are not numbered from 0, or fewer than two")
    columns = [_column(errors[key], int(key)) for key in sorted(errors, key=int)]
    longest = max((t for t, _ in columns), key=len)
    scores = np.full((len(longest), count), np.nan)
    for c, (t, error) in enumerate(columns):
        if not np.array_equal(t, longest[: len(t)]):
            raise ValueError(f"prompt {c} was tried at other timesteps than its rivals: draws are not shared")
        scores[: len(error), c] = -0.5 * elements * error
    label = found.get("label")
    label = label.item() if isinstance(label, np.ndarray) and label.size == 1 else label
    return scores, int(label) if isinstance(label, int) and not isinstance(label, bool) else None


def _column(one: Any, prompt: int) -> tuple[Array, Array]:
    """A prompt's timesteps and errors."""
    known = isinstance(one, Mapping) and {"t", "pred_errors"} <= one.keys()
    parts = [np.asarray(one[key]) for key in ("t", "pred_errors")] if known else []
    if not parts or any(part.ndim != 1 or part.dtype.kind not in "iuf" for part in parts):
        raise ValueError(f"prompt {prompt} has no 't' and 'pred_errors', a list of numbers each")
    t, error = parts
    if len(t) != len(error) or not len(t) or len(t) > 65535:
        raise ValueError(f"prompt {prompt} has {len(t)} timesteps and {len(error)} errors")
    if not np.isfinite(error.astype(float)).all():
        raise ValueError(f"prompt {prompt} has errors that are no numbers")
    return t, error.astype(float)


def dit_errors(found: Any, elements: int) -> Array:
    """diffusion-classifier's `eval_prob_dit.py`, a class and image a file: errors [timesteps, trials], or
    [.., 4] (--save_vb: the first is the squared error), or [.., side, side] (--spatial: their mean).

    → scores of this class, [draws]. Raises ValueError; --save_eps holds no errors.
    """
    errors = np.asarray(found) if isinstance(found, np.ndarray) else np.empty(0)
    if errors.dtype.kind not in "f" or errors.ndim not in (2, 3, 4) or not errors.size:
        raise ValueError("not a result of eval_prob_dit.py: a tensor of errors [timesteps, trials]")
    if errors.ndim == 3:
        if errors.shape[2] != 4:
            raise ValueError(f"errors of shape {list(errors.shape)}: expected [timesteps, trials, 4]")
        errors = errors[:, :, 0]
    if errors.ndim == 4:
        if errors.shape[2] != errors.shape[3]:
            raise ValueError(f"shape {list(errors.shape)} is no map of errors; --save_eps holds none")
        errors = errors.mean(axis=(2, 3), dtype=float)
    found = -0.5 * elements * errors.astype(float).reshape(-1)
    if not np.isfinite(found).all() or len(found) > 65535:
        raise ValueError("errors that are no numbers, or over 65,535 draws")
    return np.asarray(found)


def likelihoods(found: Any) -> tuple[Array, Array | None, Array | None]:
    """ar-classifier's tensors: (scores [images, trials, classes], class of each image or None, class of each
    column or None).

    Bare, or in a dict (`likelyhoods` as its scripts call it, or `likelihoods`; `targets`; `classes`), or in a
    list as its function returns them. Raises ValueError.
    """
    targets = classes = None
    if isinstance(found, Mapping):
        named = [found[key] for key in ("likelyhoods", "likelihoods", "scores") if key in found]
        targets, classes = found.get("targets"), found.get("classes")
        found = named[0] if len(named) == 1 else None
    elif isinstance(found, list) and len(found) >= 2:
        found, targets = found[0], found[1]
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.dtype.kind != "f" or not found.size:
        raise ValueError("no tensor of likelihoods [images, trials, classes]")
    images, trials, count = found.shape
    if count < 2 or count > 65535 or trials > 65535 or trials * count > _MOST:
        raise ValueError(f"likelihoods of shape {list(found.shape)}: expected [images, trials, classes]")
    numbers = [
        None if given is None else class_numbers(given, size, name)
        for given, size, name in ((targets, images, "targets"), (classes, count, "classes"))
    ]
    return found, numbers[0], numbers[1]


def class_numbers(given: Any, size: int, name: str) -> Array:
    """A class's number each: int64 [size]. Raises ValueError, by this name."""
    found = np.asarray(given)
    if found.shape != (size,) or found.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {size} whole numbers, got {found.dtype} {list(found.shape)}")
    return found.astype(np.int64)


def mixed(scores: Array, key: bytes) -> Array:
    """Draws in a random order of this key, those that more classes were scored on first: [draws, classes].

    Timesteps come in rising order, and bounds hold for draws of which any first n are like all. Means over
    all draws do not change.
    """
    counts = (~np.isnan(scores)).sum(axis=1)
    shuffled = permutation(b"imported:" + key, len(scores))
    found: Array = scores[shuffled[np.argsort(-counts[shuffled], kind="stable")]]
    return found


def shared_draws(scores: Array) -> Array:
    """Only the draws that every class was scored on."""
    found: Array = scores[~np.isnan(scores).any(axis=1)]
    return found


def write_foreign(
    path: Path,
    images: Callable[[], Iterator[Foreign]],
    labels: Sequence[str],
    attrs: Mapping[str, Any],
    overwrite: bool,
) -> tuple[int, bool]:
    """Images of another program's run as a trace; returns how many, and whether every class has every draw.

    Its rule is `fixed` where that is so, and all images have as many draws; else `funnel`: such a trace is
    shown and plotted, and not replayed. images : called twice, to look through and to write.
    Raises TraceError; ValueError for scores that are no numbers.
    """
    depths, full, count = set(), True, 0
    for one in images():
        scores = _checked(one, len(labels))
        depths.add(len(scores))
        full = full and not np.isnan(scores).any()
        count += 1
    if not count:
        raise ValueError("there are no images in it")
    full, k_max = full and len(depths) == 1, max(depths)
    run = {
        "tokens": 1, "k_max": k_max, "rule": "fixed" if full else "funnel", "order_sampler": "uniform",
        "delta": 0.05, "temperature": 1.0, "priors": "{}", "aggregate": "mean", "keyed": False,
        "images": count, **attrs,
    }  # fmt: skip
    with TraceWriter.create(path, run, labels, overwrite) as writer:
        for index, one in enumerate(images()):
            writer.append(*_row(one, _checked(one, len(labels)), k_max), index)
    return count, full


def _checked(one: Foreign, classes: int) -> Array:
    """The scores as float32's values. Raises ValueError."""
    scores = np.asarray(one.scores, float)
    if scores.ndim != 2 or scores.shape[1] != classes or not len(scores) or not -1 <= one.label < classes:
        raise ValueError(f"image {one.id!r} has scores of shape {list(scores.shape)}, of {classes} classes")
    with np.errstate(over="ignore"):
        stored = scores.astype(np.float32).astype(float)
    there = ~np.isnan(stored)
    if np.isinf(stored).any() or not there.any(axis=0).all() or not there.all(axis=0).any():
        raise ValueError(f"image {one.id!r} has scores that are no numbers, or no class on all draws")
    return stored


def _row(one: Foreign, scores: Array, k_max: int) -> tuple[ImageRow, Scores]:
    """A class that left early has a mean over fewer draws, as the program that dropped it had."""
    there = ~np.isnan(scores)
    last = there.all(axis=0)  # scored to the end
    means = np.nansum(scores, axis=0) / there.sum(axis=0)
    answer = int(np.where(last, means, -np.inf).argmax())
    order, cls = np.nonzero(there)
    row = ImageRow(
        id=one.id, path=one.path.replace("\0", "\ufffd"), label=one.label, prediction=answer,
        orders=len(scores), passes=len(order), token_fraction=len(order) / (k_max * scores.shape[1]),
        seconds=0.0, stop="max-orders", probability=float(softmax(means)[answer]),
        evidence=0.0 if not last.all() else float(means.max() - means.mean()),
    )  # fmt: skip
    ones, rounds = np.ones(len(order), int), np.zeros(len(order), int)
    return row, Scores(order, cls, ones, rounds, scores[order, cls])


def positions_of(numbers: Iterable[int], classes: Sequence[int]) -> list[int]:
    """Class numbers → positions among the columns' classes, −1 where one is none. Raises ValueError for
    columns of one class."""
    place = {int(number): at for at, number in enumerate(classes)}
    if len(place) < len(classes):
        raise ValueError("two columns are of one class: nothing here averages prompts")
    return [place.get(int(number), -1) for number in numbers]
