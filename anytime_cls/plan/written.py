"""Plans as canonical JSON, and back: how a trace, and every run of a curves file, says it was raced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from anytime_cls.draws.base import Draws
from anytime_cls.draws.orders import block_of
from anytime_cls.plan.budget import Budget, parse_budget
from anytime_cls.plan.plan import RacePlan
from anytime_cls.race.bounds import ModeratedT, NormalMixture, PlainT, VariancePrior
from anytime_cls.race.fitted import Design
from anytime_cls.race.peers import ClarkJainiRule, FunnelRule, HalvingRule, MarginalRule
from anytime_cls.race.rules import CalibratedRule, FixedRule, PairedRule, Screening, ScreenRule
from anytime_cls.race.value import ValueRule

#: What a plan is built of: nothing else is ever made from a file.
PARTS = {
    part.__name__: part
    for part in (
        PairedRule, CalibratedRule, FixedRule, MarginalRule, ClarkJainiRule, FunnelRule, HalvingRule,
        ValueRule, ScreenRule, PlainT, ModeratedT, NormalMixture, VariancePrior, Screening, Design, Budget,
    )
}  # fmt: skip
ELSEWHERE = ("labels",)  # the trace has them as a column
#: What replayed runs of one trace differ in.
RACE = ("design", "block", "rule", "delta", "temperature", "fitted")


def plain(thing: Any) -> Any:
    """A part of a plan as JSON can hold it."""
    if is_dataclass(thing) and not isinstance(thing, type):
        own = {f.name: plain(getattr(thing, f.name)) for f in fields(thing)}
        return {"is": type(thing).__name__, **own}
    if isinstance(thing, tuple | list):
        return [plain(item) for item in thing]
    return thing


def built(thing: Any) -> Any:
    """What `plain` gave, as it was. Raises ValueError for anything that no plan holds."""
    if isinstance(thing, Mapping):
        own = {key: built(value) for key, value in thing.items() if key != "is"}
        part = PARTS.get(str(thing.get("is")))
        if part is None:
            raise ValueError(f"a plan has no part {thing.get('is')!r}")
        try:
            return part(**own)
        except TypeError as error:
            raise ValueError(f"a plan's {part.__name__} cannot be read ({error})") from None
    if isinstance(thing, list):
        return tuple(built(item) for item in thing)
    return thing


class _NoShape:
    """Of a plan that was read: its model is not at hand, and nothing of it can be drawn anew."""

    steps, unit, joint = 0, "nats", False
    screens: Mapping[str, tuple[float, float]] = {}

    def draws(self, name: str, steps: int) -> Draws:
        raise ValueError("a recorded plan has no model to draw from")

    def flops(self, steps: int, classes: int = 1) -> float:
        raise ValueError("a recorded plan has no model to count with")


def fields_of(plan: RacePlan) -> dict[str, Any]:
    """What two runs must agree in, field by field."""
    return {
        f.name: plain(getattr(plan, f.name)) for f in fields(plan) if f.compare and f.name not in ELSEWHERE
    }


def canonical(values: Mapping[str, Any]) -> str:
    """JSON that is equal where the values are."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write(plan: RacePlan) -> str:
    """A whole plan, without what a trace says elsewhere."""
    return canonical(fields_of(plan))


def write_race(plan: RacePlan) -> str:
    """How a replayed run was raced: what may differ from its trace's own plan."""
    return canonical({name: plain(getattr(plan, name)) for name in RACE})


def pull_of(attrs: Mapping[str, Any]) -> int:
    """Draws of a pull of a trace's races: its plan's, or if none can be read, its sampler's."""
    try:
        found = _decoded(str(attrs["plan"]))["block"]
        if isinstance(found, int) and found > 0 and int(attrs.get("k_max", found)) % found == 0:
            return found
    except (KeyError, TypeError, ValueError):
        pass
    return block_of(str(attrs.get("order_sampler", "uniform")))


def read_race(trace_plan: RacePlan, text: str) -> RacePlan:
    """The plan of a replayed run, from its trace's and what `write_race` gave. Raises ValueError."""
    values = _decoded(text)
    return replace(trace_plan, **{name: built(values[name]) for name in RACE if name in values})


def read(attrs: Mapping[str, Any], labels: Sequence[str]) -> RacePlan:
    """The plan of a trace, from its attributes and labels. Raises ValueError.

    A trace of schema 1 has no plan: it is put together from what its attributes say.
    """
    if "plan" not in attrs:
        return _of_schema_1(attrs, labels)
    values = _decoded(str(attrs["plan"]))
    known = {f.name for f in fields(RacePlan) if f.compare} - set(ELSEWHERE)
    values = {"screens": [], "fallback": ""} | values  # plans of the first days of schema 2 had none
    if isinstance(design := values.get("design"), dict):  # a plan's own field until designs had it
        design.setdefault("crops", values.get("crops", "center"))
    if missing := sorted(known - values.keys()):
        raise ValueError(f"the trace's plan lacks {missing[0]}: it was written by another version")
    return RacePlan(labels=tuple(labels), shape=_NoShape(), **{name: built(values[name]) for name in known})


def _decoded(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError("the trace's plan cannot be read")
    return values


def _of_schema_1(attrs: Mapping[str, Any], labels: Sequence[str]) -> RacePlan:
    """Its rule is known as far as its thresholds and priors were written down."""
    tokens = int(attrs["tokens"])
    draws = str(attrs.get("order_sampler", "uniform"))
    priors = json.loads(attrs.get("priors") or "{}")
    known = {key: VariancePrior.from_dict(prior) for key, prior in priors.items()}
    bound = ModeratedT(known["paired"]) if "paired" in known else PlainT()
    delta = float(attrs.get("delta", 0.05))
    paired = PairedRule(bound, delta)
    design = Design(
        draws, int(attrs.get("pass_tokens", tokens)), int(attrs.get("k_max", 1)), max(1, len(labels)),
        str(attrs.get("crops", "center")),
    )  # fmt: skip
    budget = attrs.get("budget")
    return RacePlan(
        model=str(attrs.get("model", "")),
        method="",
        weights_sha256=str(attrs.get("model_sha256", "")),
        encoder_sha256=str(attrs.get("tokenizer_sha256", "")),
        tokens=tokens,
        class_ids=(),
        labels=tuple(labels),
        noise=float(attrs.get("latent_noise", 0.0)),
        seed=int(attrs.get("seed", 0)),
        design=design,
        block=block_of(draws),
        record=tuple(int(m) for m in attrs.get("prefixes", ())),
        screens=(),
        fallback="",
        rule=FixedRule() if attrs.get("rule") == "fixed" else paired,
        delta=delta,
        reporting=bound,
        aggregate=str(attrs.get("aggregate", "mean")),
        temperature=float(attrs.get("temperature", 1.0)),
        fitted="temperature" in attrs,
        budget=None if budget is None else parse_budget(str(budget)),
        shape=_NoShape(),
    )
