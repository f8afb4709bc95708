"""A race under a budget, watched: the answer that stands after every batch, and the one it ends with.

python examples/watch_race.py examples/bird.jpg 40passes
"""

import sys

from anytime_cls import AnytimeClassifier, RaceOptions

path, budget = sys.argv[1:]  # "0.5s", "40passes", "8orders" or "3GFLOP"
classifier = AnytimeClassifier.load()
plan = classifier.plan(RaceOptions(budget=budget))  # what the options come to with this model


def show(job):
    """The anytime answer: the engine calls this after every batch."""
    race = job.race
    if not race.orders:
        return  # the first order is not done
    probability = race.aggregate("mean", plan.temperature)[race.leader]
    label = classifier.labels[job.classes[race.leader]]
    print(
        f"{job.spending.passes:5.1f} passes: {label} ({probability:.0%}), {race.orders} orders done, "
        f"{race.alive.sum()} of {race.n_classes} classes still in"
    )


decision = classifier.classify(path, plan, on_update=show)
print(
    f"{path}: {decision.label} ({decision.probability:.0%}), {decision.stop} after {decision.passes:.3g} of "
    f"{decision.full_passes:.3g} passes, {decision.seconds:.2f} s"
)
