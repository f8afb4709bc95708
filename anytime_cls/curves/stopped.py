"""How right recorded races were after less compute than they took: each stopped at a budget, all the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytime_cls.replay.progress import Progress

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Stopped:
    """cost [B]: the mean over images of what was spent, by rising budgets, in the unit that `stopped` was
    given; share [B]: of the answers, those that were right then."""

    cost: Array
    share: Array


def stopped(race: Progress, right: Array, unit: float | Array, points: int = 60) -> Stopped:
    """Every race stopped at a budget, from the one at which each image has an answer.

    right : the class [I] that an answer is compared with. unit : of a whole pass, one or one an image [I].
    """
    unit = np.broadcast_to(np.asarray(unit, float), len(right))
    least, most = float((race.first() * unit).max()), float((race.spent[:, -1] * unit).max())
    cost, share = [], []
    for budget in np.geomspace(least, max(most, least), points) * (1 + 1e-9):
        passes = budget / unit
        inside = race.spent <= passes[:, None]
        spent = np.where(inside, race.spent, 0.0).max(axis=1) * unit
        cost.append(float(spent.mean()))
        share.append(float((race.at(passes) == right).mean()))
    keep = np.unique(np.array(cost), return_index=True)[1]
    return Stopped(np.array(cost)[keep], np.array(share)[keep])
