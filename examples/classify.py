"""The public API in twenty lines: classify photographs and print what each answer cost.

python examples/classify.py examples/*.jpg
"""

import sys

from anytime_cls import AnytimeClassifier, Failure, RaceOptions

classifier = AnytimeClassifier.load()  # the embedded model, on the best device there is
options = RaceOptions(budget="0.5s", delta=0.05)

paths = sys.argv[1:]
for path, result in zip(paths, classifier.classify_many(paths, options), strict=True):
    if isinstance(result, Failure):
        print(f"{path}: {result.error}", file=sys.stderr)
        continue
    runner_up = result.ranking[1]
    print(
        f"{path}: {result.label} ({result.probability:.0%}; then {runner_up.label}), "
        f"{result.passes:.3g} of {result.full_passes:.3g} passes in {result.seconds:.2f} s, {result.stop}"
    )
