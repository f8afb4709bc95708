"""What is printed: JSON rows (docs/json.md) and lines for people."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from anytime_cls.stats.wording import percent

from ..errors import readable

if TYPE_CHECKING:
    from anytime_cls.engine.estimate import Estimate
    from anytime_cls.models.card import ModelCard
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.race.decision import Decision
    from anytime_cls.race.fitted import Abstention

SCHEMA = 1  # of rows: docs/json.schema.json
UNUSUAL = 0.05  # share of the model's own pictures below whose evidence a line says so
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
    crops = ", random crops" if plan.crops == "random" else ""
    return crops + (f", latent noise {plan.noise:g}" if plan.noise else "")


def print_json(row: Mapping[str, Any]) -> None:
    """One JSON object as one line of UTF-8 on standard output, at once."""
    line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"
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

    def row(self, decision: Decision) -> dict[str, Any]:
        """`calibrated`, `unlike` and `abstained` where asked for, `model` and `schema`: docs/json.md."""
        plan, asked = self.plan, self.abstain_below is not None or self.least is not None
        model = {
            "name": plan.model, "method": plan.method, "sha256": plan.weights_sha256,
            "tokenizer_sha256": plan.encoder_sha256,
        }  # fmt: skip
        return {
            "calibrated": plan.fitted
            and decision.shortlist is None
            and decision.prefix != 0,  # 0: a screen's
            **({} if self.least is None else {"unlike": self.unlike(decision)}),
            **({"abstained": self.abstains(decision)} if asked else {}),
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


def decision_line(
    path: str, decision: Decision, n_tokens: int, abstains: bool = False, unlike: bool = False
) -> Text:
    """Label, probability, K used, passes against the full cost, seconds, and why it stopped."""
    used = count(decision.orders, "order")
    if decision.pass_tokens < n_tokens:
        used += f" of {decision.pass_tokens} tokens"
    if decision.prefix == 0:  # SCREENED
        used = "by the screen"
    elif decision.prefix:
        used = f"{decision.prefix} of {n_tokens} tokens of one order"
    if decision.shortlist is not None and decision.prefix != 0:
        used += f" of a shortlist of {decision.shortlist}, uncalibrated"
    line = Text(f"{readable(path)}: ")
    if abstains:
        line.append("none of these, the likeliest is " if unlike else "abstains, the likeliest is ")
    line.append(readable(decision.label), "bold")
    line.append(f" {percent(decision.probability)}", "bold")
    line.append(f"  {used}, {amount(decision.passes)} of {amount(decision.full_passes)} passes, ")
    line.append(f"{duration(decision.seconds)}, {_STOPS.get(decision.stop, decision.stop)}")
    return line


def error_line(path: str, error: str) -> Text:
    return Text.assemble((f"{readable(path)}: ", ""), ("error: ", "bold red"), readable(error))


def ranking_lines(decision: Decision, top: int) -> list[Text]:
    """The ranked classes: probability, mean log-likelihood with its bounds, orders."""
    shown = decision.ranking[:top]
    width = min(30, max(len(standing.label) for standing in shown))
    lines = []
    for standing in shown:
        bounds = ""
        if standing.lower is not None and standing.upper is not None:
            bounds = f" [{standing.lower:.1f}, {standing.upper:.1f}]"
        bar = "█" * round(standing.probability * 20)
        is_in = standing.alive or standing.orders == decision.orders
        fate = "" if is_in else ", then out"
        lines.append(
            Text(
                f"  {readable(standing.label):{width}.{width}} {percent(standing.probability):>7} {bar:20} "
                f"{standing.mean:9.1f} nats{bounds}  {count(standing.orders, 'order')}{fate}",
                style="" if is_in else "dim",
            )
        )
    sure = decision.separation
    how = "all orders were used" if sure == 0 else f"separated from every rival at δ = {sure:.2g}"
    if sure >= 1:
        how = "not separated from its rivals"
    lines.append(Text(f"  {readable(decision.label)}: {how}", style="dim"))
    return lines


def unusual_line(share: float) -> Text:
    """That a picture may be none of the model's classes. share: of the model's own that have so little
    evidence, at most."""
    return Text(
        f"  unlike the pictures this model knows: at most {share * 100:g} % of those have so little evidence "
        "for any of its classes",
        style="yellow",
    )


def print_text(console: Console, *lines: Text) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


class Show:
    """Where answers go."""

    about: About

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        raise NotImplementedError

    def error(self, path: str, error: str) -> None:
        raise NotImplementedError


class JsonShow(Show):
    """JSON Lines on standard"""

    def __init__(self, top: int, about: About):
        self.top, self.about = top, about

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        print_json(decision_row(path, decision, self.top, self.about))

    def error(self, path: str, error: str) -> None:
        print_json(error_row(path, error))


class PeopleShow(Show):
    """A line an image on the terminal, and the ranking if it is the only one."""

    def __init__(self, top: int, about: About):
        self.top, self.about = top, about
        self.console = Console()

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        abstains = self.about.abstains(decision)
        unlike = bool(self.about.unlike(decision))
        lines = [decision_line(path, decision, self.about.plan.tokens, abstains, unlike)]
        if alone:
            lines += ranking_lines(decision, self.top)
        if (share := self.about.rarity(decision)) is not None and share <= UNUSUAL and not unlike:
            lines.append(unusual_line(share))
        print_text(self.console, *lines)

    def error(self, path: str, error: str) -> None:
        print_text(self.console, error_line(path, error))
