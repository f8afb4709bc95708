"""What a plan takes here, live: seconds and peak memory an image, many together and one at a time.

Each measurement has a process of its own, in which nothing else was loaded, so that its memory is this
method's. Whoever calls it needs the `if __name__ == "__main__":` that multiprocessing asks for.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Sample
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.plan import RacePlan, Runtime

ALONE = 20.0  # seconds after which no further image is classified alone
LEAST = 3  # images, whatever they take


@dataclass(frozen=True)
class Clocked:
    """Of so many images, from the file to the answer; NaN where it is not known.

    seconds_*: an image, batched in the mean, alone in the median. bytes_*: the most in use at once beyond
    the bare program's (Python, torch and this package), weights included; bytes_loaded: after
    loading.
    """

    images: int
    images_alone: int
    seconds_batched: float
    seconds_alone: float
    bytes_batched: float
    bytes_alone: float
    bytes_loaded: float


def clock(card: ModelCard, plan: RacePlan, samples: Sequence[Sample], runtime: Runtime) -> Clocked:
    """Classifies these images live by this plan. Raises RuntimeError where the process does not survive it.

    plan : as the model's card makes it, shape and all
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_undisturbed) as pool:
        try:
            return pool.submit(_measure, card, plan, samples, runtime).result()
        except BrokenProcessPool:
            raise RuntimeError(
                f"{card.name}: the process that timed it died, perhaps out of memory"
            ) from None


def _undisturbed() -> None:
    """Ctrl-C is the caller's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _measure(card: ModelCard, plan: RacePlan, samples: Sequence[Sample], runtime: Runtime) -> Clocked:
    import torch

    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.engine.bench import peak_memory
    from anytime_cls.race.decision import Decision

    device = torch.device(runtime.device)
    before = _in_use(device)
    given = runtime.threads if runtime.fixed else None
    classifier = AnytimeClassifier.load(card, runtime.device, runtime.dtype, runtime.batch_size, given)
    loaded = _in_use(device) - before
    sources = [sample.load() for sample in samples]
    classifier.classify(sources[0], plan)  # pays for allocation, kernels and tables
    peak_memory(lambda: None, device)  # gives what is kept for reuse back
    held = _in_use(device) - before
    took: dict[str, Any] = {}

    def batched() -> None:
        began = time.perf_counter()
        good = [r for r in classifier.classify_many(sources, plan, details=False) if isinstance(r, Decision)]
        took["batched"] = (time.perf_counter() - began) / max(1, len(good))

    def alone() -> None:
        each: list[float] = []
        for source in sources:
            began = time.perf_counter()
            classifier.classify(source, plan)
            each.append(time.perf_counter() - began)
            if sum(each) > ALONE and len(each) >= LEAST:
                break
        took["alone"] = each

    peaks = {work.__name__: peak_memory(work, device) for work in (batched, alone)}
    peak = {name: math.nan if b is None else held + b for name, b in peaks.items()}
    seconds = sorted(took["alone"])
    return Clocked(
        len(sources), len(seconds), took["batched"], seconds[len(seconds) // 2], peak["batched"],
        peak["alone"], loaded,
    )  # fmt: skip


def _in_use(device: Any) -> float:
    """Bytes: the device's, or this process's; NaN where it cannot be read."""
    from anytime_cls.engine.bench import memory_in_use

    found = memory_in_use(device)
    return math.nan if found is None else float(found)
