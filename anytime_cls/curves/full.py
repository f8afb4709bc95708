"""Every rule at every setting, raced over one full trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import softmax

from anytime_cls.curves.file import CurveRun, Curves
from anytime_cls.curves.grids import Spec, specs
from anytime_cls.plan.plan import RacePlan
from anytime_cls.plan.written import read, write_race
from anytime_cls.race.decision import STOP_NAMES, UNRANKED
from anytime_cls.race.fitted import DISAGREEMENT, Calibration, Fitted
from anytime_cls.race.peers import stages_text
from anytime_cls.race.races import Races, run
from anytime_cls.race.registry import CALIBRATED, RULES, SCREEN_RULES, fitted_rule, temperature_at
from anytime_cls.replay.source import Source, ranks, run_fixed
from anytime_cls.traces.cost import stage_cost
from anytime_cls.traces.known import trace_fitted
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import ReplayError

Array = np.ndarray


def planned_specs(
    source: Source,
    rules: Sequence[str] | None = None,
    deltas: Sequence[float] | None = None,
    k_max: Sequence[int] | None = None,
    prefixes: Sequence[int] | None = None,
    settings: Mapping[str, Sequence[Any]] | None = None,
) -> list[Spec]:
    """The runs asked for, checked against the trace (`grids.specs`). Raises ReplayError, ValueError."""
    for k in k_max or ():
        if not 1 <= k <= source.k_max:
            raise ReplayError(f"{source.trace.path} has {source.k_max} orders an image: no K_max of {k}")
        if k % source.block:
            raise ReplayError(
                f"{source.sampler_name} orders come in blocks of {source.block}: no K_max of {k}"
            )
    whole = [None if prefix == source.pass_tokens else prefix for prefix in prefixes or ()]
    k_maxes = sorted(set(k_max or ())) or [source.k_max]
    return specs(rules, k_maxes, source.n_classes, deltas, whole or [None], settings, source.block)


def full_curves(
    trace: Trace,
    rules: Sequence[str] | None = None,
    deltas: Sequence[float] | None = None,
    k_max: Sequence[int] | None = None,
    prefixes: Sequence[int] | None = None,
    settings: Mapping[str, Sequence[Any]] | None = None,
    fitted: Fitted | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curves:
    """Races of every rule and setting asked for, over a trace of rule `fixed`.

    Parameters
    ----------
    rules : names; None: all of `registry.RULES` that the priors allow, the screens that were recorded, and
        `calibrated` if there is one
    deltas, settings : for every rule that has them; a rule that is given none goes through its default grid
    k_max : orders, at most the trace's; default the trace's
    prefixes : tokens; races on prefixes that the trace recorded; default whole orders
    fitted : what is known of the model's races; default what the trace says
    progress : hears image-runs done, and of how many

    Raises ReplayError for a trace that is not full or lacks what is asked; ValueError for rules and settings
    that make no sense.
    """
    source = Source(trace)
    fitted = trace_fitted(trace) if fitted is None else fitted
    own = read(trace.attrs, trace.labels)
    wanted = default_rules(source, fitted, prefixes) if rules is None else list(rules)
    planned = planned_specs(source, wanted, deltas, k_max, prefixes, settings)
    if CALIBRATED in wanted and not deltas:
        recorded = calibrated_specs(source, fitted, prefixes)  # where there is none, what lacks is said
        planned += recorded or calibrated_specs(source, fitted, prefixes, recorded=False)
        if not any(spec.rule == CALIBRATED for spec in planned):  # says what there is
            spec = Spec(CALIBRATED, source.k_max, CALIBRATED, "delta", 0.999, {"delta": 0.999})
            run_plan(own, source, fitted, spec)
    raced = [(spec, run_plan(own, source, fitted, spec)) for spec in planned]
    n = len(trace)
    results = [_Columns(n, [s.source for s in plan.rule.first_stages]) for _, plan in raced]
    full = np.full(n, -1)
    total, done = int(source.good.sum()) * len(raced), 0
    label = trace.images["label"]
    prefixed = list(dict.fromkeys(spec.prefix for spec, _ in raced))
    for prefix in [None] + [prefix for prefix in prefixed if prefix is not None]:
        mine = [(plan, columns) for (spec, plan), columns in zip(raced, results, strict=True)
                if spec.prefix == prefix]  # fmt: skip
        names = {s.source for plan, _ in mine for s in plan.rule.first_stages}
        for images, pulls, sources in source.stacks_with_stages(prefix, names):
            if prefix is None:
                full[images] = run_fixed(pulls)
            for plan, columns in mine:
                races = run(plan.rule, pulls[:, : plan.pulls], sources)
                columns.take(images, races, label[images], plan.temperature)
                done += len(images)
                if progress:
                    progress(done, total)
    runs = [columns.as_run(source, spec, plan) for (spec, plan), columns in zip(raced, results, strict=True)]
    attrs = trace.attrs | {"k_max": source.k_max}
    if "full_passes" in attrs:
        attrs["full_passes"] = source.full_cost
    return Curves(attrs, trace.labels, trace.images["id"], label, full, runs)


def run_plan(own: RacePlan, source: Source, fitted: Fitted, spec: Spec) -> RacePlan:
    """The plan of a spec, as the live race of this model would have it: the trace's own but for the race.

    Raises ValueError as `make_rule`.
    """
    settings = dict(spec.settings)
    delta = float(settings.pop("delta", 0.05))
    design = source.design(spec.prefix, spec.k_max)
    rule = fitted_rule(fitted, spec.rule, delta, design, source.block, **settings)
    temperature = temperature_at(rule, source.temperature(fitted, design.steps))
    known = fitted.of(design.draws, design.steps, design.crops).temperature is not None
    return replace(
        own, design=design, block=source.block, rule=rule, delta=delta, temperature=temperature, fitted=known
    )


def default_rules(source: Source, fitted: Fitted, prefixes: Sequence[int] | None = None) -> list[str]:
    """All rules that can be raced at these prefixes: `strict` needs a prior, `calibrated` a calibration."""
    known = [fitted.of(source.sampler_name, m, source.crops).priors for m in prefixes or [source.pass_tokens]]
    names = [name for name in RULES if name != "strict" or all("paired" in priors for priors in known)]
    names += [name for name in SCREEN_RULES if name in source.screens]
    return names + ([CALIBRATED] if calibrated_specs(source, fitted, prefixes) else [])


def calibrated_specs(
    source: Source, fitted: Fitted, prefixes: Sequence[int] | None, recorded: bool = True
) -> list[Spec]:
    """A run for every calibration that fits this trace, at its whole passes and the prefixes asked for.

    recorded : leave out those with a rung or a screen that the trace does not have
    """
    out = []
    wanted_prefixes = [None if m == source.pass_tokens else m for m in prefixes or [source.pass_tokens]]
    for prefix in dict.fromkeys(wanted_prefixes):
        design = source.design(prefix)
        tail = "" if prefix is None else f" m={prefix}"
        found = {
            (entry.loss, entry.risk) for entry in fitted.calibrated
            if entry.design == design and not (recorded and _missing(source, entry))
        }  # fmt: skip
        for loss, risk in sorted(found):
            own = {"delta": risk} if loss == DISAGREEMENT else {"delta": risk, "loss": loss}
            curve = CALIBRATED + ("" if loss == DISAGREEMENT else f" {loss}") + tail
            out.append(Spec(CALIBRATED, source.k_max, curve, "delta", risk, own, prefix))
    return out


def _missing(source: Source, entry: Calibration) -> bool:
    """Whether such races have stages that the trace lacks."""
    screen = None if entry.screening is None else entry.screening.screen
    rungs = {tokens for tokens, _ in entry.rungs}
    return not rungs <= set(source.prefixes) or screen not in (None, *source.screens)


class _Columns:
    """A run's results as they come, stack by stack."""

    def __init__(self, n_images: int, sources: Sequence[int | str] = ()):
        self.prediction = np.full(n_images, -1, np.int32)
        self.sources = sources
        self.pulls = np.zeros(n_images, np.uint16)
        self.passes = np.zeros(n_images, np.int32)
        self.stage_rows = np.zeros((n_images, len(sources)), np.int32)
        self.stop = np.full(n_images, STOP_NAMES.index("error"), np.uint8)
        self.probability = np.full(n_images, np.nan, np.float32)
        self.rank = np.full(n_images, UNRANKED, np.uint16)

    def take(self, images: Array, races: Races, label: Array, temperature: float) -> None:
        means, prediction = races.means(), races.prediction
        self.prediction[images] = prediction
        self.pulls[images] = races.n
        self.passes[images] = races.passes
        self.stage_rows[images] = races.stage_rows
        self.stop[images] = np.where(
            races.decided, STOP_NAMES.index("decided"), STOP_NAMES.index("max-orders")
        )
        probability = softmax(means / temperature, axis=1)
        self.probability[images] = probability[np.arange(len(images)), prediction]
        self.rank[images] = ranks(means, prediction, label)

    def as_run(self, source: Source, spec: Spec, plan: RacePlan) -> CurveRun:
        passes = self.passes.astype(np.int64) * source.block
        cost = source.spent(spec.prefix, self.pulls.astype(np.int64), self.passes.astype(np.int64))
        cost = cost + stage_cost(source.trace.attrs, self.sources, self.stage_rows).sum(axis=1)
        passes = passes + self.stage_rows[:, [isinstance(m, int) for m in self.sources]].sum(axis=1)
        fraction = cost / source.full_cost
        settings = {"rule": spec.rule, "source": "replay", "k_max": spec.k_max,
                    "prefix": spec.prefix or source.pass_tokens, "curve": spec.curve, "knob": spec.knob,
                    "knob_value": float(spec.knob_value), "seconds_kind": "estimated"}  # fmt: skip
        settings |= {key: stages_text(value) if key == "stages" else value
                     for key, value in spec.settings.items()}  # fmt: skip
        if spec.rule == CALIBRATED:
            settings["delta"] = plan.rule.holds  # the risk that was calibrated
        elif spec.knob == "delta" and spec.knob_value < 1:
            settings["delta"] = spec.knob_value
        return CurveRun(
            settings, self.prediction, self.pulls.astype(np.int64) * source.block, passes, fraction,
            self.stop, self.probability, self.rank, fraction * source.full_cost * source.seconds_a_pass,
            write_race(plan),
        )  # fmt: skip
