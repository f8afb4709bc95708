"""Decisions as rows of a trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from anytime_cls.race.decision import SCREENED, Decision, Failure
from anytime_cls.traces.schema import ImageRow, Scores


def positions(class_ids: Sequence[int] | np.ndarray) -> dict[int, int]:
    """The model's class ids raced → their positions in the trace's labels."""
    return {int(index): at for at, index in enumerate(class_ids)}


def image_row(
    id: str, path: str, label: int, result: Decision | Failure, position: dict[int, int], full_passes: float
) -> tuple[ImageRow, Scores]:
    """What a trace keeps of one image. position: from `positions`, of the classes raced. full_passes: the
    plan's.

    Forward evaluations are counted once, however many prefixes of them were recorded too.
    """
    path = path.replace("\0", "\ufffd")
    if isinstance(result, Failure):
        row = ImageRow(id, path, label, -1, 0, 0, 0.0, 0.0, "", math.nan, result.error)
        return row, Scores.empty()
    row = ImageRow(
        id=id, path=path, label=label,
        prediction=position[result.index],
        orders=result.orders,
        passes=evaluations(result),
        token_fraction=result.passes / full_passes,
        seconds=result.seconds, stop=result.stop, probability=result.probability,
        content=result.content, flops=result.flops, evidence=result.evidence,
    )  # fmt: skip
    return row, scores_of(result)


def evaluations(decision: Decision) -> int:
    """Forward evaluations, of any length, behind a decision.

    One that recorded prefixes too left several records in a row: the same classes, at ever more tokens.
    """
    total = 0
    scored = (record for record in decision.records if record.prefix != SCREENED)
    for record, after in pairwise((*scored, None)):
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
    covariates = [record.covariate for record in records]
    return Scores(
        order=np.repeat([record.order for record in records], sizes),
        cls=np.concatenate([record.classes for record in records]),
        prefix=np.repeat([record.prefix for record in records], sizes),
        round=np.repeat([record.round for record in records], sizes),
        value=np.concatenate([record.values for record in records]),
        covariate=None if all(map(math.isnan, covariates)) else np.repeat(covariates, sizes),
    )
