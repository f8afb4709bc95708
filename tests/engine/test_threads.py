"""The number of threads: what is fastest now is taken, and no score depends on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.engine import threads as module
from anytime_cls.engine.cost import CostModel
from anytime_cls.engine.engine import Engine
from anytime_cls.engine.threads import AGAIN, CLEAR, LATE, TRIALS, Threads, threads_each
from anytime_cls.plan.options import RaceOptions
from anytime_cls.testing import FakeScorer, FakeShape


class Machine:
    """A clock, torch's number of threads, and how long a batch takes on each."""

    def __init__(self, seconds: dict[int, float], count: int = 4):
        self.now, self.count, self.seconds, self.ran = 0.0, count, seconds, []

    def perf_counter(self) -> float:
        return self.now

    def get_num_threads(self) -> int:
        return self.count

    def set_num_threads(self, count: int) -> None:
        self.count = count

    def run(self) -> None:
        self.ran.append(self.count)
        self.now += self.seconds[self.count]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine({1: 1.0, 2: 0.6, 4: 0.3})
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(module, "torch", made)
    monkeypatch.setattr(module, "_ours", None)
    monkeypatch.setattr(module, "usable_cores", lambda: 4)
    return made


@pytest.mark.parametrize(
    ("seconds", "best"),
    [({1: 1.0, 2: 0.6, 4: 0.3}, 4), ({1: 1.0, 2: 0.7, 4: 9.0}, 2), ({1: 1.0, 2: 7.0, 4: 9.0}, 1)],
)
def test_the_fastest_is_taken(machine, seconds, best):
    machine.seconds = seconds
    threads = Threads()
    assert threads.due and threads.choices == (1, 2, 4)
    threads.choose(machine.run, 1e9)
    assert (threads.count, machine.count, threads.due) == (best, best, False)
    assert threads.trial == pytest.approx(seconds[best])
    assert str(threads) == ("4 threads" if best == 4 else f"{best} of 4 threads (faster now)")


def test_a_clear_choice_takes_one_trial_of_each(machine):
    machine.seconds = {1: 1.0, 2: 7.0, 4: 9.0}
    Threads().choose(machine.run, 1e9)
    assert machine.ran == [1, 1, 2, 4]
    machine.ran, machine.seconds = [], {1: 1.0, 2: 1.0 / CLEAR + 0.01, 4: 1.0 / CLEAR + 0.01}
    Threads().choose(machine.run, 1e9)
    assert machine.ran == [1] + TRIALS * [1, 2, 4]


def test_a_number_that_was_given_is_kept(machine):
    threads = Threads(3)
    assert machine.count == 3 and not threads.due and str(threads) == "3 threads"
    threads.watch(1e9, 1.0)
    assert not threads.due


def test_a_late_batch_makes_another_look_due(machine):
    threads = Threads()
    threads.choose(machine.run, 1e9)
    threads.watch(100.0, 1e9)
    assert not threads.due  # trials take a twentieth of the time at most
    machine.now += 0.99 * AGAIN
    threads.watch(0.99 * LATE * 0.3, 1e9)
    threads.watch(0.99 * LATE * 0.6, 2e9)  # twice the work may take twice as long
    assert not threads.due
    threads.watch(1.01 * LATE * 0.3, 1e8)
    assert threads.due and threads.late and threads.count == 4
    threads.retreat()
    assert (threads.count, machine.count, threads.due) == (1, 1, True)
    machine.seconds = {1: 1.0, 2: 7.0, 4: 9.0}
    threads.choose(machine.run, 1e9)
    assert threads.count == 1 and not threads.late


def test_a_machine_that_was_busy_is_looked_at_again(machine):
    threads = Threads()
    threads.choose(machine.run, 1e9)
    machine.now += 1.01 * AGAIN
    threads.watch(0.1, 1e9)
    assert threads.due and not threads.late
    threads.retreat()
    assert threads.count == 4  # nothing was late


def test_a_second_model_starts_from_torchs_own_number(machine):
    machine.seconds = {1: 1.0, 2: 7.0, 4: 9.0}
    Threads().choose(machine.run, 1e9)
    assert machine.count == 1 and threads_each() == 4 and threads_each(2) == 2 and threads_each(9) == 1
    machine.set_num_threads(2)  # the caller's own wish
    assert threads_each() == 2


def test_a_calibration_is_corrected_by_what_was_just_seen():
    cost = CostModel(lambda m, c: 1e9 * m * c / 64, 64, overhead=0.0, slope=0.01)
    for _ in range(40):
        cost.observe(4, 64, 1.0)
    cost.correct(4, 64, 0.12)  # three times what the calibration says
    assert cost.seconds(10, 64) == pytest.approx(1.25 * 3 * cost.expected(10, 64))


@dataclass(frozen=True)
class Large(FakeShape):
    """As dear as a RandAR-L: the 2 GFLOPs of a trial are not two of its tokens."""

    def flops(self, steps, classes=1):
        return 1.3e9 * steps * classes


@pytest.mark.parametrize(
    ("shape", "tokens"), [(Large(steps=256), 64), (FakeShape(steps=256), 256), (Large(32), 32)]
)
def test_a_trial_is_large_enough_to_stand_for_a_batch(machine, shape, tokens):
    """One token of a large model takes many times its share of a pass: its weights have to be read."""
    asked = []

    class Scorer(FakeScorer):
        def score(self, pieces, at):
            asked.append(at[-1])
            return [np.zeros((len(piece.classes), len(at))) for piece in pieces]

    engine = Engine(Scorer(np.zeros((1, 1, 1)), shape), probe=lambda: 0, threads=Threads())
    engine.settle()
    assert set(asked) == {tokens}


@pytest.mark.parametrize("model", ["cifar10", "tiny"])
def test_no_score_depends_on_the_number(model, tiny_model_dir):
    """Nor does a screen's estimate, nor what the tokenizer gives."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(3)]
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            where = str(tiny_model_dir) if model == "tiny" else model
            classifier = AnytimeClassifier.load(where, "cpu", threads=count)
            assert torch.get_num_threads() == count
            options = RaceOptions(
                rule="fixed", max_orders=2, screens=tuple(classifier.card.shape.screens), prefixes=(4,)
            )
            answers = classifier.classify_many(pictures, options)
            found.append([np.concatenate([record.values for record in answer.records]) for answer in answers])
    finally:
        module._set(before)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
