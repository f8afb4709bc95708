"""The easiest and the hardest images of a run, with their races, for the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anytime_cls.curves.progress import plan_of, replayed
from anytime_cls.curves.study import StudyRun
from anytime_cls.pixels.crops import center_crop
from anytime_cls.pixels.decode import ImageError, decode
from anytime_cls.plan.plan import RacePlan
from anytime_cls.traces.read import Trace

Array = np.ndarray
THUMBNAIL = 96  # pixels a side, where the picture is larger


@dataclass(frozen=True, eq=False)
class RaceShown:
    """An image and its race. scores: [K used, C], nats, NaN where a class was out. picture: data URI."""

    id: str
    label: str  # "" where unknown
    answer: int
    truth: int
    orders: int
    passes: float
    probability: float
    scores: Array
    picture: str
    content: str = ""  # SHA-256 of the crop, hexadecimal, where the trace has it


def choose(run: StudyRun, n: int) -> tuple[list[int], list[int]]:
    """The n easiest images (fewest passes, then most probable answer) and the n hardest: study rows."""
    unsure = 1 - np.nan_to_num(run.probability, nan=0.5)
    order = np.lexsort((unsure, run.passes))
    return order[:n].tolist(), order[::-1][: min(n, max(0, len(order) - n))].tolist()


def shown(trace: Trace, run: StudyRun, rows: list[int], ids: list[str], truth: Array) -> list[RaceShown]:
    """The races of some of the study's images. run: live in this trace, or a replay of it (a full one)."""
    place = {str(key): at for at, key in enumerate(trace.images["id"])}
    out, plan = [], plan_of(trace, run)
    for row in rows:
        at = place[ids[row]]
        scores = race_scores(trace, at, plan)
        label = int(truth[row])
        out.append(RaceShown(
            ids[row], trace.labels[label] if label >= 0 else "", int(run.prediction[row]), label,
            int(run.orders[row]), float(run.passes[row]), float(run.probability[row]), scores,
            thumbnail(trace, at), str(trace.images["content"][at]),
        ))  # fmt: skip
    return out


def race_scores(trace: Trace, at: int, plan: RacePlan | None) -> Array:
    """What one race scored, order by order: [K used, C]. plan: of a replay; None: the trace's own."""
    if plan is None:
        return trace.matrix(at)[: int(trace.images["orders"][at])]
    _, scored = next(replayed(trace, plan, np.array([at])))
    scores = scored.orders[0]
    found: Array = scores[~np.isnan(scores).all(axis=1)]
    return found


def thumbnail(trace: Trace, at: int) -> str:
    """The image as a data URI, if its file is still where the trace says; else "". Small ones as they are."""
    root = str(trace.attrs.get("root", ""))
    places = [str(trace.images["path"][at])]
    if root:
        places.append(str(Path(root) / str(trace.images["id"][at])))
    for place in places:
        try:
            if not Path(place).is_file():
                continue
            image = decode(place)
        except (ImageError, OSError, ValueError):
            continue
        memory = io.BytesIO()
        if max(image.size) <= 64:
            image.save(memory, "PNG")
            kind = "png"
        else:
            center_crop(image, THUMBNAIL).save(memory, "JPEG", quality=85)
            kind = "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(memory.getvalue()).decode()}"
    return ""
