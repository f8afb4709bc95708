"""The one thread that owns the engine. It races what waits, first come, first served."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine.engine import Stopped
from anytime_cls.pixels.decode import ImageError, decode
from anytime_cls.plan.budget import Budget
from anytime_cls.plan.plan import RacePlan
from anytime_cls.race.decision import Decision
from anytime_cls.serving.progress import Teller

RECENT = 0.1  # of a running mean: what the last piece of work counts
LEAST = 1e-3  # seconds: of a budget that was spent in the queue; the race then takes the least it can


@final
@dataclass(frozen=True)
class Answer:
    """A decision, the seconds that its request waited for its turn, and those until it was there."""

    decision: Decision
    waited: float
    seconds: float


@final
@dataclass(frozen=True)
class Refused:
    """Why there is no answer: an HTTP status and one line."""

    status: int
    line: str


Event = Mapping[str, Any] | Answer | Refused  # the first: an update of a race that is watched


@final
@dataclass(eq=False)
class Work:
    """One image and how to race it.

    body : an image file. send : takes events, in the worker's thread; the last is an Answer or Refused,
    unless the work was dropped. watched : whether it also takes updates. arrived : `time.perf_counter()`,
    when a budget in seconds began.
    """

    body: bytes
    plan: RacePlan
    send: Callable[[Event], None]
    watched: bool = False
    arrived: float = field(default_factory=time.perf_counter)
    gone: threading.Event = field(default_factory=threading.Event)  # nobody waits for the answer any more

    @property
    def deadline(self) -> float:
        """When a budget in seconds ends, by `time.perf_counter()`; ∞ without one."""
        budget = self.plan.budget
        return self.arrived + budget.amount if budget and budget.unit == "seconds" else math.inf


@final
class Worker:
    """Races one piece of work after the other. Methods may be called from any thread."""

    def __init__(self, classifier: AnytimeClassifier):
        self.classifier = classifier
        self.broken = ""  # why the last race failed, if it was not for its image
        self.pace = 0.0  # seconds that a piece of work has taken, a running mean
        self._beside = 0.0  # and those that it took beside its race's budget: decoding, a batch that was slow
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="anytime-cls engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread when what waits has been raced; returns when it has."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, work: Work) -> None:
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()

    def drop(self, work: Work) -> None:
        """Nobody wants the answer: out of the queue, or its race ends before the next batch."""
        work.gone.set()
        with self._changed:
            if work in self._waiting:
                self._waiting.remove(work)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            began = time.perf_counter()
            try:
                event: Event = self._race(work, began)
                self.broken = ""
            except Stopped:
                continue
            except ImageError as error:
                event = Refused(422, str(error))
            except Exception as error:  # out of memory, a device that is lost: the next may do better
                self.broken = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                event = Refused(500, f"the race failed ({self.broken}): the server's log may say more")
            took = time.perf_counter() - began
            self.pace += (took - self.pace) * (RECENT if self.pace else 1.0)
            work.send(event)

    def _next(self) -> Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None

    def _race(self, work: Work, began: float) -> Answer:
        picture = decode(work.body)
        left, plan = self._left(work), work.plan
        if math.isfinite(left):
            plan = replace(plan, budget=Budget(left, "seconds"))
        tell = Teller(self.classifier.labels, plan, work.send) if work.watched else None
        decision = self.classifier.classify(picture, plan, tell, work.gone.is_set)
        ended = time.perf_counter()
        if LEAST < left < math.inf and decision.stop == "budget":
            self._beside += (max(0.0, ended - began - left) - self._beside) * RECENT
        return Answer(decision, began - work.arrived, ended - work.arrived)

    def _left(self, work: Work) -> float:
        """Seconds that this race may take: what waiting left of its budget, ∞ without one.

        Shared with those that wait behind it: the n-th of them is to find 1/n of what it has left now. So
        under load every answer is a little less sure, in place of some having no time at all.
        """
        if work.deadline == math.inf:
            return math.inf
        now = time.perf_counter()
        with self._changed:
            spare = [work.deadline - now, *(other.deadline - now for other in self._waiting)]
        shares = [seconds / turn for turn, seconds in enumerate(spare, 1) if seconds > 0 or turn == 1]
        return max(LEAST, min(shares) - self._beside)
