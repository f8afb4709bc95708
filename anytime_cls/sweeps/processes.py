"""A crew of processes on this machine."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import connection
from typing import Any

from anytime_cls.sweeps.workers import (
    GRACE,
    Setup,
    WorkersError,
    serve,
)

# ---- processes of this machine


class ProcessWorker:
    """One process, and the parent's end of its pipe."""

    def __init__(self, process: Any, pipe: connection.Connection):
        self.process, self.pipe = process, pipe

    def send(self, message: Any) -> None:
        with suppress(OSError):  # it is dead: `wait` will say so
            self.pipe.send(message)

    def autopsy(self) -> str:
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}" + (
                    ", perhaps out of memory" if code == -9 else ""
                )
        return f"it ended with exit code {code}"


class ProcessCrew:
    """Workers as processes of this machine, started afresh (spawn), spread over its CUDA devices.

    A program that uses it needs the `if __name__ == "__main__":` that multiprocessing asks for.
    """

    def __init__(self, setup: Setup):
        self.setup = setup
        self._context = multiprocessing.get_context("spawn")

    def start(self, slot: int) -> ProcessWorker:
        ours, theirs = self._context.Pipe()
        setup = replace(self.setup, device=_device_of(self.setup.device, slot))
        process = self._context.Process(
            target=_process, args=(theirs, setup), daemon=True, name=f"anytime-cls-worker-{slot}"
        )
        try:
            with _no_interrupts():
                process.start()
        except OSError as error:
            raise WorkersError(f"a worker cannot be started: {error.strerror or error}") from error
        finally:
            theirs.close()
        return ProcessWorker(process, ours)

    def wait(self, workers: Sequence[ProcessWorker], timeout: float) -> Iterator[tuple[ProcessWorker, Any]]:
        ready = connection.wait([worker.pipe for worker in workers], timeout)
        for worker in [worker for worker in workers if worker.pipe in ready]:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                worker.pipe.close()
                message = None
            yield worker, message

    def close(self, workers: Sequence[ProcessWorker], grace: float = GRACE) -> None:
        until = time.monotonic() + grace
        for worker in workers:
            worker.send(None)
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _device_of(device: str, slot: int) -> str:
    import torch

    several = torch.cuda.device_count()
    return f"cuda:{slot % several}" if device in ("auto", "cuda") and several else device


def _process(pipe: connection.Connection, setup: Setup) -> None:
    """Where a worker process begins. Ctrl-C reaches it too, but its parent is who decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(pipe, setup, lambda: bool(terminated))


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process started in here never sees Ctrl-C; here it is held back meanwhile, not lost."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # or the first start would, and let signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
