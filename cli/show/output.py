"""What is printed for programs, JSON (docs/json.md) and CSV; and words that several commands share."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ..errors import readable

if TYPE_CHECKING:
    from anytime_cls.engine.estimate import Estimate
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.race.decision import Decision
    from anytime_cls.race.fitted import Abstention

SCHEMA = 1  # of rows: docs/json.schema.json
ALL_NAMED, SOME_NAMED = 20, 4  # classes of a model that are named, all or the first of more
_ASKED = {"unlike": "unlike", "abstained": "abstains"}  # keys of rows: methods of `About`
_LONE = re.compile("[\ud800-\udfff]")
# `decided` is about more orders, not about being right: the probability is for that
_STOPS = {"decided": "stable", "max-orders": "all orders used", "budget": "budget spent"}
STABLE = "stable: more orders would not change it"


def plain(value: Any) -> Any:
    """Data that any JSON parser reads: no NaN or infinity (null), no lone surrogates (U+FFFD)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def estimate_line(estimate: Estimate) -> str:
    """What an image is expected to take, for people."""
    least, most = duration(estimate.least), duration(estimate.most)
    seconds = most if least == most else f"{least} to {most}"
    few, many = amount(round(estimate.least_passes, 1)), amount(round(estimate.most_passes, 1))
    if estimate.budget:
        all_of_it = f"{amount(round(estimate.full_passes, 1))} that would take {duration(estimate.full)}"
        return f"expected: {seconds} an image, where the budget ends: about {many} passes of {all_of_it}"
    return f"expected: {seconds} an image, {many if few == many else f'{few} to {many}'} passes"


def views(plan: RacePlan) -> str:
    """What every order sees, where that is not the centre crop: ", random crops"."""
    crops = "" if plan.design.crops == "center" else f", {plan.design.crops} crops"
    return crops + (f", latent noise {plan.noise:g}" if plan.noise else "")


def json_text(row: Mapping[str, Any]) -> str:
    """One JSON object in one line."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False)


def print_json(row: Mapping[str, Any]) -> None:
    """One JSON object as one line of UTF-8 on standard output, at once."""
    print_utf8(json_text(row) + "\n")


def print_utf8(line: str) -> None:
    """Text as UTF-8 on standard output, at once."""
    out = getattr(sys.stdout, "buffer", None)
    if out is None:  # a text stream in its place
        sys.stdout.write(line)
    else:
        sys.stdout.flush()
        out.write(line.encode("utf-8"))
    sys.stdout.flush()


def named(path: str) -> dict[str, Any]:
    """How a row names an image: `path`, and its bytes in hexadecimal if they are not UTF-8."""
    row: dict[str, Any] = {"path": path}
    if _LONE.search(path):
        with suppress(UnicodeEncodeError):
            row["path_bytes"] = os.fsencode(path).hex()
    return row


@dataclass(frozen=True)
class About:
    """What an answer says beside its decision: which model gave it, and whether it is sure enough."""

    plan: RacePlan
    abstain_below: float | None = None  # the least probability of an answer that is meant
    least: float | None = None  # evidence of a picture that is one of these, where --abstain asked
    usual: Abstention | None = None  # what evidence the model's own pictures have, where that was fitted

    @classmethod
    def of(
        cls, card: ModelCard, plan: RacePlan, abstain_below: float | None = None, rate: float | None = None
    ) -> About:
        """rate: of --abstain. Raises ValueError where the model was not calibrated for it."""
        from anytime_cls.plan.abstain import abstention, threshold

        least = None if rate is None else threshold(card, plan, rate)
        return cls(plan, abstain_below, least, abstention(card, plan))

    def abstains(self, decision: Decision) -> bool:
        unsure = self.abstain_below is not None and decision.probability < self.abstain_below
        return unsure or bool(self.unlike(decision))

    def unlike(self, decision: Decision) -> bool | None:
        """Whether a picture is none of the classes, by --abstain; None where that cannot be said."""
        from anytime_cls.plan.abstain import unlike

        return None if self.least is None else unlike(decision, self.least)

    def rarity(self, decision: Decision) -> float | None:
        """At most this share of the model's own pictures have so little evidence; None: of the usual kind, or
        not known."""
        if self.usual is None or decision.stop == "budget" or decision.shortlist is not None:
            return None
        return self.usual.rarity(decision.evidence)

    @property
    def asked_for(self) -> list[str]:
        """What rows have beside the rest because it was asked for."""
        unlike, abstained = self.least is not None, self.abstain_below is not None or self.least is not None
        return ["unlike"] * unlike + ["abstained"] * abstained

    def row(self, decision: Decision) -> dict[str, Any]:
        """`calibrated`, `unlike` and `abstained` where asked for, `model` and `schema`: docs/json.md."""
        plan = self.plan
        model = {
            "name": plan.model, "method": plan.method, "sha256": plan.weights_sha256,
            "tokenizer_sha256": plan.encoder_sha256,
        }  # fmt: skip
        return {
            "calibrated": plan.fitted
            and decision.shortlist is None
            and decision.prefix != 0,  # 0: a screen's
            **{name: getattr(self, _ASKED[name])(decision) for name in self.asked_for},
            "model": model,
            "schema": SCHEMA,
        }


def decision_row(path: str, decision: Decision, top: int, about: About) -> dict[str, Any]:
    return named(path) | decision.to_dict(top) | about.row(decision)


def error_row(path: str, error: str) -> dict[str, Any]:
    return named(path) | {"error": error, "schema": SCHEMA}


def duration(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def amount(x: float) -> str:
    """A count of passes, which may hold a prefix's share."""
    return f"{x:,.0f}" if x == int(x) or x >= 99.5 else f"{x:,.1f}"


def times(ratio: float) -> str:
    """How many times less: `1.05`, `13.8`, `228`."""
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.1f}" if ratio >= 1.095 else f"{ratio:.2f}"


def stop_words(stop: str) -> str:
    """Why a race ended (`Decision.stop`), for people."""
    return _STOPS.get(stop, stop)


def count(n: float, word: str) -> str:
    plural = word + ("es" if word.endswith("s") else "s")
    return f"{amount(n)} {word if n == 1 else plural}"


def knows(labels: Sequence[str], model: str = "") -> str:
    """What a model can answer, all of it or the beginning: it takes everything else for one of these.

    model : its name, where that is asked for the rest
    """
    names = [readable(label) for label in labels]
    if len(names) <= ALL_NAMED:
        return f"knows only: {', '.join(names)}"
    rest = f" ('anytime-cls models info {model}' lists them)" if model else ""
    return f"knows only {len(names):,} kinds of things: {', '.join(names[:SOME_NAMED])}, …{rest}"


def print_text(console: Console, *lines: Text) -> None:
    """Lines as they are; on a terminal those that are too long are broken between words."""
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal, highlight=False)


class Show:
    """Where answers go."""

    about: About

    def expect(self, names: Sequence[str]) -> None:
        """The pictures that are to come, where all are known before the first."""

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        raise NotImplementedError

    def error(self, path: str, error: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more comes."""


class JsonLines(Show):
    """One JSON object a line: docs/json.md."""

    def __init__(self, top: int, about: About):
        self.top, self.about = top, about

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        self._row(decision_row(path, decision, self.top, self.about))

    def error(self, path: str, error: str) -> None:
        self._row(error_row(path, error))

    def _row(self, row: Mapping[str, Any]) -> None:
        print_json(row)


class JsonList(JsonLines):
    """The same objects as one JSON list, which is closed however the run ends."""

    _begun = False

    def _row(self, row: Mapping[str, Any]) -> None:
        print_utf8((",\n" if self._begun else "[\n") + json_text(row))
        self._begun = True

    def close(self) -> None:
        print_utf8("\n]\n" if self._begun else "[]\n")


class Csv(Show):
    """A table: a header, then a row a picture; `error` is empty where there is an answer."""

    def __init__(self, about: About):
        self.about = about
        self._columns = [
            "path", "label", "probability", "calibrated", "stop", "orders", "passes", "full_passes",
            "seconds", *about.asked_for, "error",
        ]  # fmt: skip
        self._row(dict(zip(self._columns, self._columns, strict=True)))

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        self._row(decision_row(path, decision, 0, self.about))

    def error(self, path: str, error: str) -> None:
        self._row(error_row(path, error))

    def _row(self, row: Mapping[str, Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([_cell(row.get(name)) for name in self._columns])
        print_utf8(text.getvalue())


def _cell(value: Any) -> Any:
    value = plain(value)
    return int(value) if isinstance(value, bool) else "" if value is None else value
