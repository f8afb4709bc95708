"""Which classes are taken for which: counted from one run of a curves file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anytime_cls.curves.analysis import Analysis
from anytime_cls.curves.study import StudyError
from anytime_cls.stats.intervals import wilson

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Confusion:
    """Answers against labels. counts: int [C, C], images of class (row) answered as class (column)."""

    name: str
    setting: str
    labels: list[str]
    counts: Array

    @property
    def images(self) -> Array:
        """Images of each class: int [C]."""
        found: Array = self.counts.sum(axis=1)
        return found

    @property
    def accuracy(self) -> Array:
        """Share of each class's images answered right: float [C], NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            found: Array = np.diagonal(self.counts) / self.images
            return found

    @property
    def overall(self) -> float:
        """Share of all images answered right."""
        return float(np.trace(self.counts) / self.counts.sum())

    def order(self) -> Array:
        """Classes with images, best first (then by name)."""
        seen = np.flatnonzero(self.images)
        return seen[np.lexsort((np.array(self.labels)[seen], -self.accuracy[seen]))]

    def pairs(self) -> list[tuple[int, int, int]]:
        """Mistakes as (class, answered as, images), most frequent first, then by share of the class."""
        off = self.counts - np.diag(np.diagonal(self.counts))
        truth, answer = np.nonzero(off)
        share = off[truth, answer] / self.images[truth]
        ranked = np.lexsort((answer, truth, -share, -off[truth, answer]))
        return [(int(truth[i]), int(answer[i]), int(off[truth[i], answer[i]])) for i in ranked]

    def rows(self) -> list[dict[str, Any]]:
        """One row for every class (its accuracy) and every mistake that was made, class by class, best first.

        share: of the class's images, with Wilson's 95 % interval.
        """
        out = []
        for c in self.order():
            wrong = [a for a in np.argsort(-self.counts[c], kind="stable") if self.counts[c, a] and a != c]
            for answer in [c, *wrong]:
                count, n = int(self.counts[c, answer]), int(self.images[c])
                low, high = wilson(count / n, n)
                out.append(
                    {"curve": self.name, "setting": self.setting, "class": self.labels[c],
                     "answer": self.labels[answer], "right": bool(answer == c), "images": n, "count": count,
                     "share": count / n, "low": low, "high": high}
                )  # fmt: skip
        return out

    @property
    def caption(self) -> str:
        """Words for those who cannot see the picture."""
        order, pairs = self.order(), self.pairs()
        best, worst = order[0], order[-1]
        text = (
            f"{self.name}, {self.setting}: {100 * self.overall:.1f} % of {self.counts.sum():,} images right; "
            f"by class from {self._share(worst)} to {self._share(best)}. Intervals are 95 % Wilson."
        )
        if pairs:
            truth, answer, count = pairs[0]
            text += f" Most often {self.labels[truth]} is taken for {self.labels[answer]} ({count} times)."
        return text

    def _share(self, c: int) -> str:
        return f"{100 * self.accuracy[c]:.0f} % ({self.labels[c]})"


def of_run(analysis: Analysis, index: int) -> Confusion:
    """The confusions of one run, over the study's images that have a label. StudyError if none has."""
    study, run = analysis.study, analysis.study.runs[index]
    known = study.label >= 0
    if not known.any():
        raise StudyError("needs labels, and these files lack them")
    n = len(study.labels)
    counts = np.bincount(study.label[known] * n + run.prediction[known], minlength=n * n).reshape(n, n)
    return Confusion(run.series, run.setting, study.labels, counts)
