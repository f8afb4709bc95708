"""Replay: races over recorded log-likelihoods, without the model.

    with Trace.open("full.h5") as trace:
        curves = full_curves(trace, fields=read_card("cifar10").fields)

`full_curves` runs any rule at any setting over a trace of rule `fixed`, which has every class on every order;
`live_run` is what a trace of any rule says of itself. Races are `race.run`, which shares its decisions with
the live race. Traces are read in stacks, so memory is what the results take: 24 bytes an image and run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from anytime_cls.curves import STOP_NAMES, UNRANKED, CurveRun, Curves, pass_cost
from anytime_cls.grids import Spec, specs, stages_text
from anytime_cls.orders import block_of, distinct_orders
from anytime_cls.race import Outcomes, aggregate_scores, run, rungs_of
from anytime_cls.rules import (
    CALIBRATED,
    DELTA_RULES,
    RULES,
    Rule,
    design_fields,
    model_rule,
    temperature_at,
)
from anytime_cls.trace import Trace, TraceError

Array = np.ndarray
STACK = 1 << 19  # scores in a stack: races take about ten times its 4 MiB


class ReplayError(ValueError):
    """A trace that cannot be replayed; the message is one line for people."""


def means_at_decision(scores: Array, outcome: Outcomes) -> Array:
    """Mean log-likelihoods [I, C], nats, as they stood when each race ended: `Race.means` of a stack.

    Of a race that ended at a rung, relative to its answer's.

    scores : pulls [I, K, C] that `outcome` was raced on
    """
    return _means(np.cumsum(scores, axis=1), outcome)


def _means(total: Array, outcome: Outcomes) -> Array:
    """`means_at_decision` from running sums over pulls [I, K, C]."""
    image = np.arange(len(total))[:, None]
    answer, pulls = outcome.prediction[:, None], outcome.pulls[:, None]
    seen = np.maximum(1, np.where(outcome.left_at > 0, outcome.left_at, pulls))
    lead = np.where(pulls > 0, total[image, pulls - 1, answer] / np.maximum(pulls, 1), 0)
    behind = total[image, seen - 1, answer] - total[image, seen - 1, np.arange(total.shape[2])]
    means = np.where(seen < pulls, lead - np.maximum(behind / seen, 0), lead - behind / seen)
    if np.isnan(outcome.rung_gap).all():
        return means
    return np.where(np.isnan(outcome.rung_gap), np.where(pulls > 0, means, lead), lead - outcome.rung_gap)


def ranks(means: Array, prediction: Array, label: Array) -> Array:
    """Rank of the true label, the answer first and the others by mean (ties by index): uint16 [I].

    `UNRANKED` for a label of −1.
    """
    known = label >= 0
    true = np.where(known, label, 0)[:, None]
    own = np.take_along_axis(means, true, axis=1)
    classes = np.arange(means.shape[1])
    ahead = (means > own) | ((means == own) & (classes < true))
    ahead &= classes != prediction[:, None]
    rank = np.where(prediction == true[:, 0], 0, 1 + ahead.sum(axis=1))
    return np.where(known, rank, UNRANKED).astype(np.uint16)


class Source:
    """A full trace as stacks of pulls, and what its attributes say of cost.

    Raises ReplayError for a trace that is not full, naming the command that records one.
    """

    def __init__(self, trace: Trace):
        attrs = trace.attrs
        name = attrs.get("order_sampler", "uniform")
        self.trace, self.sampler_name, self.block = trace, name, block_of(name)
        if "k_max" not in attrs or attrs.get("rule") != "fixed" or "budget" in attrs:
            why = f"rule {attrs.get('rule')!r}" + (" and a budget" if "budget" in attrs else "")
            raise ReplayError(
                f"{trace.path} was recorded with {why}, so not every class has every order; a full trace "
                "is recorded by 'anytime-cls sweep DATASET --rule fixed -o FULL.h5'"
            )
        distinct = None if trace.varies else distinct_orders(name)  # one order seen in many views is many
        self.k_max = min(attrs["k_max"], distinct or attrs["k_max"])  # orders
        self.n_classes = len(trace.labels)
        self.tokens = int(attrs["tokens"])  # of an image
        self.pass_tokens = trace.pass_tokens  # of these, scored by a pass
        self.good = trace.images["error"] == ""
        if not self.good.any():
            raise ReplayError(f"{trace.path} has no image that was scored")
        self.full_cost = self.n_classes * self.k_max  # whole passes an image
        spent = float(trace.images["token_fraction"][self.good].sum()) * self.full_cost
        measured = float(trace.images["seconds"][self.good].sum())
        self.seconds_a_pass = measured / spent if spent else 0.0

    @property
    def prefixes(self) -> list[int]:
        """Prefixes recorded besides whole passes, in tokens."""
        return [int(prefix) for prefix in self.trace.attrs.get("prefixes", [])]

    def cost(self, prefix: int | None = None) -> float:
        """A pass over a prefix (default: the trace's own) in whole passes."""
        return pass_cost(self.trace.attrs, prefix)

    def design_prefix(self, prefix: int | None = None) -> int | None:
        """How a race design names passes over `prefix` tokens (default: the trace's): None for whole ones."""
        m = prefix or self.pass_tokens
        return None if m == self.tokens else m

    def temperature(self, fields: Mapping[str, Any], prefix: int | None = None) -> float:
        """The temperature of this design, if it was fitted; else the one the trace was recorded with."""
        own, m = self.trace.attrs.get("temperature", 1.0), self.design_prefix(prefix)
        if m is None:
            return float(own)
        return float(design_fields(fields, self.sampler_name, m).get("temperature", own))

    def rung_stacks(self, prefix: int) -> Iterator[Array]:
        """Log-likelihoods of order 0 at a recorded prefix, [i, C], image for image as in `stacks`."""
        at = 0
        for stack in self._matrices(prefix, 1):
            good = self.good[at : at + len(stack)]
            at += len(stack)
            if good.any():
                yield stack[good, 0]

    def stacks(self, prefix: int | None = None) -> Iterator[tuple[Array, Array]]:
        """(which images, their pulls [i, K / block, C] in nats), leaving out images that failed."""
        at = 0
        for stack in self._matrices(prefix, self.k_max):
            images = np.arange(at, at + len(stack))
            at += len(stack)
            good = self.good[images]
            images, stack = images[good], stack[good]
            if len(images) and self.block > 1:  # as Race.pulls: bounds hold for means of whole blocks
                shape = (len(stack), self.k_max // self.block, self.block, self.n_classes)
                stack = stack.reshape(shape).mean(axis=2)
            if len(images):
                yield images, stack

    def stacks_with_rungs(
        self, prefix: int | None, rung_tokens: Iterable[int]
    ) -> Iterator[tuple[Array, Array, dict[int, Array]]]:
        """As `stacks`, with the log-likelihoods of order 0 at rungs: tokens → [i, C]."""
        rungs = {m: self.rung_stacks(m) for m in rung_tokens}
        for images, pulls in self.stacks(prefix):
            yield images, pulls, {m: next(stacks) for m, stacks in rungs.items()}

    def _matrices(self, prefix: int | None, k_max: int) -> Iterator[Array]:
        if prefix not in (None, self.pass_tokens, *self.prefixes):
            there = ", ".join(map(str, self.prefixes)) or "none"
            raise ReplayError(
                f"{self.trace.path} has no prefix of {prefix} tokens (it has {there}): record it with "
                f"'anytime-cls sweep DATASET --rule fixed --record-prefixes {prefix} -o FULL.h5'"
            )
        try:
            yield from self.trace.full_matrix(max(1, STACK // self.full_cost), prefix, k_max)
        except TraceError as error:
            raise ReplayError(f"{error}; 'anytime-cls sweep DATASET --rule fixed -o FULL.h5' records a "
                              "full trace") from None  # fmt: skip


def plan(
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
    fields: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curves:
    """Races of every rule and setting asked for, over a trace of rule `fixed`.

    Parameters
    ----------
    rules : names; None: all of `rules.RULES` that the priors allow, and `calibrated` if there is one
    deltas, settings : for every rule that has them; a rule that is given none goes through its default grid
    k_max : orders, at most the trace's; default the trace's
    prefixes : tokens; races on prefixes that the trace recorded; default whole orders
    fields : `priors` and `calibrated` as in a model's model.json; default the priors in the trace
    progress : hears image-runs done, and of how many

    Raises ReplayError for a trace that is not full or lacks what is asked; ValueError for rules and settings
    that make no sense.
    """
    source = Source(trace)
    fields = trace_fields(trace) if fields is None else fields
    names = default_rules(source, fields, prefixes) if rules is None else list(rules)
    planned = plan(source, names, deltas, k_max, prefixes, settings)
    if CALIBRATED in names and not deltas:
        planned += calibrated_specs(source, fields, prefixes)
        if not any(spec.rule == CALIBRATED for spec in planned):  # says what there is
            spec = Spec(CALIBRATED, source.k_max, CALIBRATED, "delta", 0.999, {"delta": 0.999})
            rule_of(source, fields, spec)
    raced = [(spec, rule_of(source, fields, spec)) for spec in planned]
    n = len(trace)
    results = [_Columns(n, rungs_of(rule)) for _, rule in raced]
    full = np.full(n, -1)
    total, done = int(source.good.sum()) * len(raced), 0
    label = trace.images["label"]
    wanted = list(dict.fromkeys(spec.prefix for spec, _ in raced))
    for prefix in [None] + [prefix for prefix in wanted if prefix is not None]:
        mine = [(spec, rule, columns) for (spec, rule), columns in zip(raced, results, strict=True)
                if spec.prefix == prefix]  # fmt: skip
        temperature = source.temperature(fields, prefix)
        rungs = {m for _, rule, _ in mine for m, _ in rungs_of(rule)}
        for images, pulls, rung_scores in source.stacks_with_rungs(prefix, rungs):
            sums = np.cumsum(pulls, axis=1)
            if prefix is None:
                full[images] = run_fixed(pulls)
            for spec, rule, columns in mine:
                outcome = run(rule, pulls[:, : spec.k_max // source.block], rung_scores)
                columns.take(images, outcome, sums, label[images], temperature_at(rule, temperature))
                done += len(images)
                if progress:
                    progress(done, total)
    runs = [
        columns.as_run(source, spec, rule) for (spec, rule), columns in zip(raced, results, strict=True)
    ]
    attrs = trace.attrs | {"k_max": source.k_max}
    return Curves(attrs, trace.labels, trace.images["id"], label, full, runs)


def run_fixed(pulls: Array) -> Array:
    """The paper's answer, argmax over all pulls: [I, K, C] → int [I]."""
    return pulls.mean(axis=1).argmax(axis=1)


def rule_of(source: Source, fields: Mapping[str, Any], spec: Spec) -> Rule:
    """The rule of a spec, as the live race of this model would have it. Raises ValueError."""
    settings = dict(spec.settings)
    delta = float(settings.pop("delta", 0.05))
    return model_rule(
        fields, spec.rule, delta, spec.k_max, source.n_classes, source.sampler_name,
        source.design_prefix(spec.prefix), **settings,
    )  # fmt: skip


def trace_fields(trace: Trace) -> dict[str, Any]:
    """The priors that the trace's model had when it was recorded, as `fields`; empty if it does not say."""
    text = trace.attrs.get("priors")
    if not text:
        return {}
    priors = {"priors": json.loads(text), "temperature": trace.attrs.get("temperature", 1.0)}
    if trace.pass_tokens == trace.attrs["tokens"]:
        return priors
    design = {"order_sampler": trace.attrs["order_sampler"], "prefix": trace.pass_tokens}
    return {"designs": [design | priors]}


def model_fields(
    trace: Trace, model: str | None = None, calibration: str | Path | None = None
) -> dict[str, Any]:
    """The `priors` and `calibrated` to replay a trace with.

    From a file of `anytime-cls calibrate`, or from a model (name or folder), or else the trace's own priors
    and the calibrations of the embedded model it was recorded with, if it was. A model's are for one view of
    every image: a trace whose orders had views of their own gets none of them. Raises ReplayError (or
    ModelError) where there is no such file or model, or it is not the trace's.
    """
    from anytime_cls.zoo import WEIGHTS, embedded_names, read_card

    sha = trace.attrs.get("model_sha256")
    if calibration is not None:
        try:
            fields = json.loads(Path(calibration).read_text(encoding="utf-8"))
            _ = fields["priors"], fields["calibrated"]
        except OSError as error:
            raise ReplayError(f"cannot read {calibration}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError):
            raise ReplayError(f"{calibration} is not a file of 'anytime-cls calibrate'") from None
        if sha and fields.get("model_sha256", sha) != sha:
            raise ReplayError(f"{calibration} is of another model than {trace.path} was recorded with")
        return fields
    if model is not None:
        card = read_card(model)
        if sha and card.sha256.get(WEIGHTS[0]) != sha:
            raise ReplayError(
                f"{trace.path} was recorded with other weights than {model}'s (model "
                f"{trace.attrs.get('model', '?')!r}, SHA-256 {sha[:12]}...)"
            )
        return trace_fields(trace) if trace.varies else dict(card.fields)
    own = trace_fields(trace)
    for name in () if trace.varies else embedded_names():
        card = read_card(name)
        if card.sha256.get(WEIGHTS[0]) == sha:
            return {**card.fields, **own}
    return own


def default_rules(
    source: Source, fields: Mapping[str, Any], prefixes: Sequence[int] | None = None
) -> list[str]:
    """All rules that can be raced at these prefixes: `strict` needs a prior, `calibrated` a calibration."""
    designs = [
        design_fields(fields, source.sampler_name, source.design_prefix(prefix))
        for prefix in prefixes or [source.pass_tokens]
    ]
    has_prior = all(design.get("priors", {}).get("paired") for design in designs)
    names = [name for name in RULES if name != "strict" or has_prior]
    return names + ([CALIBRATED] if calibrated_specs(source, fields, prefixes) else [])


def calibrated_specs(
    source: Source, fields: Mapping[str, Any], prefixes: Sequence[int] | None
) -> list[Spec]:
    """A run for every calibration that fits this trace, at its whole passes and the prefixes asked for."""
    out = []
    wanted_prefixes = [None if m == source.pass_tokens else m for m in prefixes or [source.pass_tokens]]
    for prefix in dict.fromkeys(wanted_prefixes):
        wanted = (source.k_max, source.sampler_name, source.n_classes, source.design_prefix(prefix))
        tail = "" if prefix is None else f" m={prefix}"
        entries = fields.get("calibrated", ())
        found = {
            (e.get("loss", "disagreement"), float(e["risk"]))
            for e in entries
            if (e["k_max"], e["order_sampler"], e["n_classes"], e.get("prefix")) == wanted
        }
        for loss, risk in sorted(found):
            own = {"delta": risk} if loss == "disagreement" else {"delta": risk, "loss": loss}
            curve = CALIBRATED + ("" if loss == "disagreement" else f" {loss}") + tail
            out.append(Spec(CALIBRATED, source.k_max, curve, "delta", risk, own, prefix))
    return out


class _Columns:
    """A run's results as they come, stack by stack."""

    def __init__(self, n_images: int, rungs: Sequence[tuple[int, float]] = ()):
        self.prediction = np.full(n_images, -1, np.int32)
        self.rungs = rungs
        self.pulls = np.zeros(n_images, np.uint16)
        self.passes = np.zeros(n_images, np.int32)
        self.rung_rows = np.zeros((n_images, len(rungs)), np.int32)
        self.stop = np.full(n_images, STOP_NAMES.index("error"), np.uint8)
        self.probability = np.full(n_images, np.nan, np.float32)
        self.rank = np.full(n_images, UNRANKED, np.uint16)

    def take(self, images: Array, outcome: Outcomes, sums: Array, label: Array, temperature: float) -> None:
        means = _means(sums, outcome)
        self.prediction[images] = outcome.prediction
        self.pulls[images] = outcome.pulls
        self.passes[images] = outcome.passes
        self.rung_rows[images] = outcome.rung_rows
        self.stop[images] = np.where(
            outcome.decided, STOP_NAMES.index("decided"), STOP_NAMES.index("max-orders")
        )
        probability = softmax(means / temperature, axis=1)
        self.probability[images] = probability[np.arange(len(images)), outcome.prediction]
        self.rank[images] = ranks(means, outcome.prediction, label)

    def as_run(self, source: Source, spec: Spec, rule: Rule) -> CurveRun:
        passes = self.passes.astype(np.int64) * source.block
        cost = passes * source.cost(spec.prefix)
        for (prefix, _), rows in zip(self.rungs, self.rung_rows.T, strict=True):
            cost = cost + rows * source.cost(prefix)
        passes = passes + self.rung_rows.sum(axis=1)
        fraction = cost / source.full_cost
        settings = {"rule": spec.rule, "source": "replay", "k_max": spec.k_max,
                    "prefix": spec.prefix or source.pass_tokens, "curve": spec.curve, "knob": spec.knob,
                    "knob_value": float(spec.knob_value), "seconds_kind": "estimated"}  # fmt: skip
        settings |= {key: stages_text(value) if key == "stages" else value
                     for key, value in spec.settings.items()}  # fmt: skip
        if spec.rule == CALIBRATED:
            settings["delta"] = rule.delta  # type: ignore[attr-defined]  # the risk that was calibrated
        elif spec.knob == "delta" and spec.knob_value < 1:
            settings["delta"] = spec.knob_value
        return CurveRun(
            settings, self.prediction, self.pulls.astype(np.int64) * source.block, passes, fraction,
            self.stop, self.probability, self.rank, fraction * source.full_cost * source.seconds_a_pass,
        )  # fmt: skip


def live_run(trace: Trace) -> CurveRun:
    """The trace's own decisions as a run, whatever rule it was recorded with; seconds as measured."""
    attrs, images = trace.attrs, trace.images
    rule = str(attrs.get("rule", "unknown"))
    k_max = int(attrs.get("k_max", max(images["orders"].max(initial=1), 1)))
    settings: dict[str, Any] = {"rule": rule, "source": "live", "k_max": k_max, "prefix": trace.pass_tokens,
                                "curve": rule, "knob": "k_max", "knob_value": float(k_max),
                                "seconds_kind": "measured"}  # fmt: skip
    if rule in DELTA_RULES and "delta" in attrs:
        settings |= {"delta": attrs["delta"], "knob": "delta", "knob_value": float(attrs["delta"])}
    if "budget" in attrs:
        settings["budget"] = attrs["budget"]
    stop = [STOP_NAMES.index(name) if name in STOP_NAMES else STOP_NAMES.index("error")
            for name in images["stop"]]  # fmt: skip
    rank = np.full(len(trace), UNRANKED, np.uint16)
    block = block_of(attrs.get("order_sampler", "uniform"))
    for i, (row, scores) in enumerate(trace):
        if row.label < 0 or row.error or not len(scores):
            continue
        means = _live_means(scores, row, attrs, block, len(trace.labels))
        rank[i] = ranks(means[None], np.array([row.prediction]), np.array([row.label]))[0]
    return CurveRun(
        settings, images["prediction"], images["orders"], images["passes"], images["token_fraction"],
        np.array(stop, np.uint8), images["probability"], rank, images["seconds"],
    )  # fmt: skip


def _live_means(scores: Any, row: Any, attrs: Mapping[str, Any], block: int, n_classes: int) -> Array:
    """Scores [C] by which a recorded race ranked its classes: `Race.means`, or another aggregate."""
    whole = scores.prefix == attrs.get("pass_tokens", attrs["tokens"])
    if row.orders == 0:  # decided at a rung, or the budget allowed no whole pass
        first = (scores.order == 0) & (scores.prefix == scores.prefix.max())
        means = np.full(n_classes, -np.inf)
        means[scores.cls[first]] = scores.value[first]
        return means
    matrix = np.full((row.orders, n_classes), np.nan)
    inside = whole & (scores.order < row.orders)
    matrix[scores.order[inside], scores.cls[inside]] = scores.value[inside]
    how = attrs.get("aggregate", "mean")
    if how != "mean":
        return aggregate_scores(matrix, how)
    pulls = matrix.reshape(-1, block, n_classes).mean(axis=1)
    scored = ~np.isnan(pulls)
    seen = np.where(scored.all(axis=0), len(pulls), scored.argmin(axis=0))  # up to the first gap
    behind = np.where(np.arange(len(pulls))[:, None] < seen, pulls[:, [row.prediction]] - pulls, 0)
    gap = behind.sum(axis=0) / np.maximum(seen, 1)
    means = pulls[:, row.prediction].mean() - np.where(seen < len(pulls), np.maximum(gap, 0), gap)
    return np.where(seen > 0, means, -np.inf)


def live_curves(trace: Trace) -> Curves:
    """A trace as curves of one measured run. `full` is known where everything was scored (rule `fixed`)."""
    run_ = live_run(trace)
    complete = trace.attrs.get("rule") == "fixed" and "budget" not in trace.attrs
    complete &= trace.attrs.get("aggregate", "mean") == "mean"
    full = run_.prediction if complete else np.full(len(trace), -1)
    attrs = trace.attrs | {"k_max": run_.settings["k_max"]}
    return Curves(attrs, trace.labels, trace.images["id"], trace.images["label"], full, [run_])
