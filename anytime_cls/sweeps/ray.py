"""The workers of a sweep as actors of a Ray cluster.

Actors send rows and scores back, and the driver alone writes the trace: that needs no file system that all
nodes share (and that locks, renames and syncs as POSIX says), which parts written by the actors would. A
score is some bytes against millions of FLOPs, so the driver has little to do. Model and data set must be at
the same path, and this package installed, on every node.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from anytime_cls.sweeps.workers import Setup, WorkersError, serve

POLL = 0.5  # seconds that an actor waits for news before it answers with none
ENDED = "ended"


class QueueLink:
    """A worker's end of its link, in a thread of the actor; `exchange` is the other end."""

    def __init__(self) -> None:
        self._in: deque[Any] = deque()
        self._out: deque[Any] = deque()
        self._news = threading.Condition()

    def send(self, message: Any) -> None:
        with self._news:
            self._out.append(message)
            self._news.notify_all()

    def recv(self) -> Any:
        with self._news:
            self._news.wait_for(lambda: self._in)
            return self._in.popleft()

    def poll(self, timeout: float = 0.0) -> bool:
        with self._news:
            return bool(self._news.wait_for(lambda: self._in, timeout))

    def exchange(self, messages: Sequence[Any], timeout: float) -> list[Any]:
        """Delivers the parent's messages, and returns the worker's as soon as there are any."""
        with self._news:
            self._in.extend(messages)
            self._news.notify_all()
            self._news.wait_for(lambda: self._out, timeout)
            answers = list(self._out)
            self._out.clear()
            return answers


class Actor:
    """A worker in a process of the cluster."""

    def __init__(self, setup: Setup):
        self.link = QueueLink()
        threading.Thread(target=self._serve, args=(setup,), daemon=True).start()

    def _serve(self, setup: Setup) -> None:
        try:
            serve(self.link, setup)
        except BaseException as error:
            self.link.send(("died", f"{type(error).__name__}: {' '.join(str(error).split())}"))
        finally:
            self.link.send(ENDED)

    def exchange(self, messages: list[Any]) -> list[Any]:
        return self.link.exchange(messages, POLL)


class RayWorker:
    """The driver's end: an actor, and its answer that is under way."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.outgoing: list[Any] = []
        self.cause = "the actor ended"
        self.answer: Any = None
        self.exchange()

    def send(self, message: Any) -> None:
        self.outgoing.append(message)

    def exchange(self) -> None:
        messages, self.outgoing = self.outgoing, []
        self.answer = self.actor.exchange.remote(messages)

    def autopsy(self) -> str:
        return self.cause


class RayCrew:
    """Connects to a cluster. Raises WorkersError.

    address: as ray.init takes it (None: RAY_ADDRESS, a cluster that runs on this machine, or a new one here
    for the time of the run; "local": always a new one).

    The cores and GPUs of the cluster are shared out evenly among `count` actors. setup.trace must be None.
    """

    def __init__(self, setup: Setup, count: int, address: str | None = None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; else it warns
        try:
            import ray  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise WorkersError("Ray is not installed: pip install ray") from None
        self.ray = ray
        self.ours = not ray.is_initialized()
        try:
            if self.ours:
                ray.init(address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f" at {address}" if address else ""
            raise WorkersError(f"no Ray cluster{where}: {str(error).splitlines()[0]}") from None
        total = ray.cluster_resources()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = max((node.get("CPU", 0) for node in nodes), default=0)
        cores = min(total.get("CPU", 1) / count, most)
        self.resources: dict[str, float] = {"num_cpus": int(cores) if cores >= 1 else cores}
        if total.get("GPU", 0) and setup.device in ("auto", "cuda"):
            gpus = total["GPU"] / count
            self.resources["num_gpus"] = 1 if gpus >= 1 else gpus
        threads = 1 << (max(1, int(cores)).bit_length() - 1)  # a power of two: `threads_each`
        self.setup = ray.put(setup if setup.fixed else replace(setup, threads=threads))

    def start(self, slot: int) -> RayWorker:
        actor = self.ray.remote(Actor).options(**self.resources)
        return RayWorker(actor.remote(self.setup))

    def wait(self, workers: Sequence[RayWorker], timeout: float) -> Iterator[tuple[RayWorker, Any]]:
        by_answer = {worker.answer: worker for worker in workers}
        ready, rest = self.ray.wait(list(by_answer), timeout=timeout)
        if ready and rest:
            ready += self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for answer in ready:
            worker = by_answer[answer]
            try:
                messages = self.ray.get(answer)
            except self.ray.exceptions.RayError as error:
                worker.cause = " ".join(str(error).split())[:200]
                messages = [ENDED]
            for message in messages:
                if message == ENDED:
                    yield worker, None
                    break
                yield worker, message
            else:
                worker.exchange()

    def close(self, workers: Sequence[RayWorker], grace: float = 0.0) -> None:
        """Actors have nothing on disk to finish: they end with the run."""
        for worker in workers:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(worker.actor)
        if self.ours:
            self.ray.shutdown()
