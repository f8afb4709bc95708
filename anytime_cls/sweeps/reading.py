"""Images read so that a read which never ends, of a share that went away, can be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from anytime_cls.engine.engine import Stopped
from anytime_cls.files import open_regular

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Sample
    from anytime_cls.pixels.decode import Source

WAIT = 0.25  # seconds between two looks at whether to stop
IN_MEMORY = 1 << 28  # bytes of the largest file that is read whole
Read = tuple[tuple[int, int], "Source | Exception"]


class Reader:
    """Calls samples' loaders in a thread of its own, one after the other.

    Nothing interrupts a read that hangs in the system. So whoever wants its image waits only until `stop`
    says True; the thread is left behind, and ends with the process.
    """

    def __init__(self, stop: Callable[[], bool] | None = None):
        self._stop = stop
        self._asked: SimpleQueue[Sample | None] = SimpleQueue()
        self._read: SimpleQueue[Read] = SimpleQueue()
        threading.Thread(target=self._run, name="anytime-cls-reader", daemon=True).start()

    def __call__(self, sample: Sample) -> Read:
        """The stamp of a sample's file (`Sample.stamp`), from before it was read, and its source or what
        reading raised. A file comes as its bytes. Raises Stopped once asked to stop."""
        self._asked.put(sample)
        while True:
            try:
                return self._read.get(timeout=None if self._stop is None else WAIT)
            except Empty:
                if self._stop is not None and self._stop():
                    raise Stopped from None

    def close(self) -> None:
        self._asked.put(None)

    def _run(self) -> None:
        while (sample := self._asked.get()) is not None:
            try:
                self._read.put(_read(sample))
            except Exception as error:  # whatever a data set's reader raises costs that image alone
                self._read.put(((0, 0), error))


def _read(sample: Sample) -> Read:
    stamp = sample.stamp()
    source = sample.load()
    if isinstance(source, str) and stamp[0] <= IN_MEMORY:
        try:
            with open_regular(source) as file:
                source = file.read()
        except (OSError, ValueError):  # the decoder says it better
            pass
    return stamp, source
