"""Workers: whoever does what, and dies on the way, every image is in the trace once, as one worker has it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_data import contents, make_images, sweep

from anytime_cls.datasets.base import Dataset, Sample
from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.options import RaceOptions
from anytime_cls.sweeps import workers
from anytime_cls.sweeps.processes import ProcessCrew
from anytime_cls.sweeps.ray import QueueLink
from anytime_cls.sweeps.sweep import Stopped, sweep_plan, sweep_provenance
from anytime_cls.sweeps.workers import Setup, WorkersError, run_workers, serve
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ImageRow, Scores
from anytime_cls.traces.write import TraceWriter

LABELS = ["a", "b"]
RUN = {"tokens": 4, "dataset": "made-up"}


# ---- the foreman, with workers that are made up


def made_up(n: int) -> Dataset:
    samples = [Sample(f"im{i:03}", f"im{i:03}", i % 2, str) for i in range(n)]
    return Dataset("made-up", "/", LABELS, np.arange(2), samples, "f" * 64)


def result(index: int) -> tuple[ImageRow, Scores]:
    row = ImageRow(f"im{index:03}", f"im{index:03}", index % 2, 0, 1, 2, 1.0, 0.0, "decided", 0.5)
    return row, Scores([0, 0], [0, 1], [4, 4], [0, 0], [-index, -1.0])


@dataclass(eq=False)
class Pretend:
    """A worker as a list of what it has: it holds some images back before it reports them, as races do."""

    crew: PretendCrew
    writer: TraceWriter | None
    inbox: deque[Any] = field(default_factory=deque)
    held: list[int] = field(default_factory=list)
    asked: bool = False  # and waits for the answer
    drains: bool = True
    dead: bool = False

    def send(self, message: Any) -> None:
        self.inbox.append(message)

    def autopsy(self) -> str:
        return "killed by SIGKILL"

    def step(self) -> Any:
        """The next message, () for none, None if it died instead."""
        if self.inbox and not self.dead:
            message = self.inbox.popleft()
            self.asked = False
            if message is None:
                self._write()
                self.dead = True
            else:
                assert len(message) <= workers.CHUNK
                self.drains = not message
                self.held += message
                self.crew.given += message
        self.dead = self.dead or self.crew.dies(self)
        if self.dead:
            return None
        if self.asked:
            return ()
        if self.held and (self.drains or len(self.held) >= self.crew.holds):
            return self._report()
        self.asked = True
        if not self.drains:
            return ("pull",)
        self._write()
        return ("drained",)

    def _report(self) -> Any:
        index = self.held.pop(0)
        row, scores = result(index)
        if self.writer is None:
            return ("rows", [(index, row, scores)], True)
        self.writer.append(row, scores, index)
        return ("rows", [(index, row, None)], not self.writer.pending)

    def _write(self) -> None:
        if self.writer is not None:
            self.writer.flush()


class PretendCrew:
    """Runs its workers in turns. dies: asked at every step. trace: where they write; None: they send rows."""

    def __init__(self, dies: Callable[[Pretend], bool], trace: Path | None, holds: int = 4):
        self.dies, self.trace, self.holds = dies, trace, holds
        self.given: list[int] = []
        self.started = 0
        self.closed = False

    def start(self, slot: int) -> Pretend:
        self.started += 1
        writer = None if self.trace is None else TraceWriter.attach(self.trace, RUN, LABELS, 5)
        return Pretend(self, writer)

    def wait(self, workers: Sequence[Pretend], timeout: float) -> Iterator[tuple[Pretend, Any]]:
        for worker in workers:
            message = worker.step()
            if message != ():
                yield worker, message

    def close(self, workers: Sequence[Pretend]) -> None:
        self.closed = True


def pretend(
    path: Path, n: int, count: int, dies: Callable[[Pretend], bool], writes: bool, **options: Any
) -> tuple[Any, PretendCrew]:
    crew = PretendCrew(dies, path if writes else None)
    with TraceWriter.create(path, RUN, LABELS, overwrite=True) as writer:
        tally = run_workers(crew, count, made_up(n), writer, **options)
    return tally, crew


def check(path: Path, n: int, left_out: Sequence[int] = ()) -> None:
    with Trace.open(path) as trace:
        assert trace.complete and trace.images["index"].tolist() == list(range(n))
        for i, (row, scores) in enumerate(trace):
            assert row.id == f"im{i:03}"
            assert bool(row.error) == (i in left_out)
            assert scores.value.tolist() == ([] if i in left_out else [-i, -1.0])


@pytest.mark.parametrize("writes", [True, False])
def test_every_image_is_done_once_by_workers_that_live(tmp_path, writes):
    seen: list[int] = []
    tally, crew = pretend(
        tmp_path / "x.h5", 100, 3, lambda _: False, writes, on_progress=lambda t: seen.append(t.done)
    )
    check(tmp_path / "x.h5", 100)
    assert sorted(crew.given) == list(range(100)) and crew.started == 3 and crew.closed
    assert seen == list(range(1, 101)) and (tally.done, tally.correct) == (100, 50)


@settings(max_examples=15, deadline=None)
@given(
    chances=st.lists(st.integers(0, 60), max_size=8), writes=st.booleans(), count=st.integers(1, 3),
    n=st.integers(1, 40),
)  # fmt: skip
def test_workers_that_die_cost_nothing_but_time(tmp_path_factory, chances, writes, count, n):
    """Workers die at made-up steps of the run: the trace and the tally are whole."""
    path = tmp_path_factory.mktemp("die") / "x.h5"
    steps = [0]
    moments = set(np.cumsum([chance + 20 for chance in chances]).tolist())  # some work between deaths

    def dies(worker: Pretend) -> bool:
        steps[0] += 1
        return steps[0] in moments

    tally, _ = pretend(path, n, count, dies, writes)
    with Trace.open(path) as trace:
        left_out = [i for i, error in enumerate(trace.images["error"]) if error]
    check(path, n, left_out)
    assert (tally.done, tally.errors) == (n, len(left_out))
    assert tally.correct == sum(i % 2 == 0 for i in range(n) if i not in left_out)


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("poison", [[7], [0, 1, 39]])
def test_images_that_kill_workers_are_left_out(tmp_path, writes, poison):
    tally, crew = pretend(tmp_path / "x.h5", 40, 2, lambda worker: bool({*worker.held} & {*poison}), writes)
    check(tmp_path / "x.h5", 40, poison)
    assert tally.errors == len(poison) and tally.done == 40
    with Trace.open(tmp_path / "x.h5") as trace:
        error = trace.images["error"][poison[0]]
    assert error == ("3 worker processes died of this image, the last alone with it: killed by SIGKILL")
    assert all(crew.given.count(index) <= 3 for index in range(40))


def test_workers_that_only_die_end_the_run(tmp_path):
    with pytest.raises(WorkersError, match=r"8 workers in a row got nothing done; the last: killed by SIG"):
        pretend(tmp_path / "x.h5", 40, 2, lambda _: True, True)
    assert not list(tmp_path.iterdir())


def test_stop_lets_workers_write_what_they_have(tmp_path):
    path = tmp_path / "x.h5"
    done: list[int] = []
    with pytest.raises(Stopped):
        pretend(path, 200, 2, lambda _: False, True, on_progress=lambda t: done.append(t.done),
                stop=lambda: len(done) >= 40)  # fmt: skip
    with Trace.open(path) as trace:
        assert not trace.complete and len(trace) == len(done) < 60


# ---- real ones


class ThreadLinkCrew:
    """Real workers in threads, over the queues that Ray actors use."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.links: list[Any] = []

    def start(self, slot: int) -> Any:
        crew = self

        class Threaded:
            def __init__(self) -> None:
                self.link = QueueLink()
                self.outgoing: list[Any] = []
                self.thread = threading.Thread(target=self.serve)
                self.thread.start()

            def serve(self) -> None:
                try:
                    serve(self.link, crew.setup)
                finally:
                    self.link.send("ended")

            def send(self, message: Any) -> None:
                self.outgoing.append(message)

            def autopsy(self) -> str:
                return "it ended"

        self.links.append(Threaded())
        return self.links[-1]

    def wait(self, workers: Sequence[Any], timeout: float) -> Iterator[tuple[Any, Any]]:
        for worker in workers:
            messages, worker.outgoing = worker.outgoing, []
            for message in worker.link.exchange(messages, 0.01):
                yield worker, None if message == "ended" else message

    def close(self, workers: Sequence[Any]) -> None:
        for worker in workers:
            worker.link.exchange([None], 0)
            worker.thread.join()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("data") / "pictures", 10)


@pytest.fixture(scope="module")
def single(tiny_model_dir: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one worker, this process, gives."""
    import torch

    from anytime_cls_cli.main import main

    path = tmp_path_factory.mktemp("single") / "x.h5"
    threads = torch.get_num_threads()
    assert main(["sweep", *options(tiny_model_dir, images), "-o", str(path), "-q", "--json"]) == 0
    torch.set_num_threads(threads)
    return contents(path)


def options(model: Path, images: Path) -> list[str]:
    return [str(images), "--model", str(model), "--max-orders", "8", "--device", "cpu"]


def test_rows_sent_back_make_the_same_trace(tiny_model_dir, images, single, tmp_path):
    card = read_card(tiny_model_dir)
    dataset = open_dataset(str(images), card)
    race = sweep_plan(dataset, card, RaceOptions(max_orders=8))
    setup = Setup(str(tiny_model_dir), "cpu", "float32", None, None, dataset, race)
    attributes = sweep_provenance(race, dataset, card)
    crew = ThreadLinkCrew(setup)
    with TraceWriter.create(tmp_path / "x.h5", attributes, dataset.labels) as writer:
        tally = run_workers(crew, 2, dataset, writer)
    assert contents(tmp_path / "x.h5") == single and tally.done == 40
    assert len(crew.links) == 2


def test_two_processes_one_of_them_killed_make_the_same_trace(
    tiny_model_dir, images, single, tmp_path, monkeypatch, capsys
):
    """Through the command line; a third takes the place of the one that is killed with images in hand."""
    started: list[Any] = []
    killed: list[Any] = []
    start = ProcessCrew.start

    def remember(self: ProcessCrew, slot: int) -> Any:
        started.append(start(self, slot))
        return started[-1]

    give = workers._Foreman._give

    def kill(self: Any, worker: Any, load: Any) -> None:
        give(self, worker, load)
        if not killed and len(load.assigned) > 8:
            killed.append(worker)
            worker.process.kill()

    monkeypatch.setattr(ProcessCrew, "start", remember)
    monkeypatch.setattr(workers._Foreman, "_give", kill)
    path = tmp_path / "x.h5"
    code, found, err = sweep(capsys, *options(tiny_model_dir, images), "-o", path, "--workers", 2, "-q")
    assert code == 0 and err == "" and found is not None and found["errors"] == 0
    assert len(started) == 3 and [worker.process.exitcode for worker in killed] == [-9]
    assert contents(path) == single
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5"]
    with Trace.open(path) as trace:
        assert trace.attrs["workers"] == 2


RAY = """
import sys
from anytime_cls.sweeps import ray as workers_ray
from anytime_cls_cli.main import main

started, killed = [], []
start, wait = workers_ray.RayCrew.start, workers_ray.RayCrew.wait

def remember(self, slot):
    started.append(start(self, slot))
    return started[-1]

def kill_one(self, workers, timeout):
    for worker, message in wait(self, workers, timeout):
        if message and message[0] == "rows" and not killed:
            killed.append(worker)
            self.ray.kill(worker.actor)
        yield worker, message

workers_ray.RayCrew.start, workers_ray.RayCrew.wait = remember, kill_one
code = main(sys.argv[1:])
assert len(started) == 3 and len(killed) == 1, (started, killed)
sys.exit(code)
"""


def test_two_ray_actors_one_of_them_killed_make_the_same_trace(tiny_model_dir, images, single, tmp_path):
    pytest.importorskip("ray", reason="Ray is an extra: pip install ray")
    path = tmp_path / "x.h5"
    command = ["sweep", *options(tiny_model_dir, images), "--engine", "ray", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", RAY, *command, "--address", "local", "-o", str(path), "-q"],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(path) == single


def test_ray_that_is_missing_is_one_line(tiny_model_dir, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = sweep(capsys, *options(tiny_model_dir, images), "--engine", "ray", "-o", tmp_path / "x.h5")
    assert code == 1 and err == "anytime-cls: Ray is not installed: pip install ray\n"
    assert not list(tmp_path.iterdir())
