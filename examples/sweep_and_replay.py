"""A folder scored once, then raced by several rules without the model: accuracy, agreement, compute saved.

python examples/sweep_and_replay.py DATA/cifar10/test full.h5

The folder holds a folder of images for each class, named as the model's labels; 100 of its images are taken.
"""

import sys

from anytime_cls import AnytimeClassifier, RaceOptions
from anytime_cls.curves.full import full_curves
from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.known import known_of
from anytime_cls.sweeps.sweep import run_sweep, sweep_plan, sweep_provenance
from anytime_cls.traces.read import Trace
from anytime_cls.traces.write import TraceWriter

folder, path = sys.argv[1:]
classifier = AnytimeClassifier.load()
dataset = open_dataset(folder, classifier.card, limit=100)

# rule `fixed` scores every class on every order, which is what any other rule can be raced on; the calibrated
# one also asks the screen that it begins with
options = RaceOptions(rule="fixed", orders="stratified", prefix=16, max_orders=16, screens=("table",))
plan = sweep_plan(dataset, classifier.card, options)
attributes = sweep_provenance(plan, dataset, classifier.card)
with TraceWriter.create(path, attributes, dataset.labels) as writer:
    tally = run_sweep(classifier, dataset, plan, writer)
print(f"{path}: {tally.done} images in {tally.calls:,} calls of 16 tokens, {tally.accuracy:.1%} right")

with Trace.open(path) as trace:
    curves = full_curves(trace, ["paired", "calibrated"], [0.01, 0.05], fitted=known_of(trace))
for run in curves.runs:
    right = (run.prediction == curves.label).mean()
    same = (run.prediction == curves.full).mean()  # as all orders say
    saving = 1 / run.token_fraction.mean()
    print(f"{run.name}: {right:.1%} right, {same:.1%} agree, {saving:.0f}x less than all whole orders")
