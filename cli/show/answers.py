"""What was answered, for people: a line a picture, in columns, and what is known of one beneath it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from anytime_cls.stats.wording import percent

from ..errors import readable
from .output import STABLE, About, Show, amount, count, duration, print_text, stop_words

if TYPE_CHECKING:
    from anytime_cls.plan.plan import RacePlan
    from anytime_cls.race.decision import Decision

LIKELY = 0.5  # of an answer that is less probable than not, the line says so
DOUBT = "probably wrong"
NONE = "none of these"
UNUSUAL = 0.05  # share of the model's own pictures below whose evidence a line says so
RANKED = 5  # classes beneath a picture that is alone, unless it is said how many
_BAR, _WIDE_BAR = 8, 20  # cells
_PERCENT, _SECONDS = 7, 9  # columns: ">99.9 %", "1 min 3 s"
_LABEL = 24  # columns that a label may take on a terminal
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, cells: int) -> str:
    """A share as a bar of blocks, to an eighth of a cell; what is not nothing shows."""
    eighths = max(round(share * cells * 8), 1 if share > 0.001 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def fit(text: str, columns: int, keep_end: bool = False) -> str:
    """The text in exactly so many columns: padded, or cut with an ellipsis (at its start with `keep_end`)."""
    if cell_len(text) <= columns:
        return text + " " * (columns - cell_len(text))
    if not keep_end:
        return set_cell_size(text, columns - 1) + "…"
    while cell_len(text) >= columns:
        text = text[1:]
    return fit("…" + text, columns)


@dataclass(frozen=True)
class Layout:
    """The columns of a list of answers.

    name, label: their widths. width: of the terminal, which no line passes; None where there is none.
    """

    name: int
    label: int
    width: int | None = None

    @classmethod
    def of(cls, names: Sequence[str], labels: Sequence[str], width: int | None) -> Layout:
        name = max((cell_len(readable(name)) for name in names), default=1)
        label = max((cell_len(readable(label)) for label in labels), default=1)
        if width is not None:
            label = min(label, _LABEL, max(6, width // 5))
            left = width - label - _PERCENT - _SECONDS - len(DOUBT) - 2 * 4
            left -= _BAR + 2 if cls._has_bar(width) else 0
            name = min(name, max(8, left))
        return cls(name, label, width)

    @staticmethod
    def _has_bar(width: int | None) -> bool:
        return width is None or width >= 72

    def line(self, path: str, decision: Decision, remarks: Sequence[str]) -> Text:
        """`photo.jpg  cat  84.0 %  ██████▊    103 ms  REMARKS`."""
        sure = decision.probability >= LIKELY
        line = Text(fit(readable(path), self.name, keep_end=True) + "  ")
        line.append(fit(readable(decision.label), self.label), "bold" if sure else "")
        line.append(f"  {percent(decision.probability):>{_PERCENT}}  ", "bold" if sure else "")
        if self._has_bar(self.width):
            line.append(f"{bar(decision.probability, _BAR):{_BAR}}  ", "green" if sure else "dim")
        line.append(f"{duration(decision.seconds):>{_SECONDS}}")
        for remark in remarks:
            line.append("  ")
            line.append(remark, "red" if remark == DOUBT else "")
        if self.width is not None:
            line.truncate(self.width, overflow="ellipsis")
        line.rstrip()
        return line

    def error(self, path: str, error: str) -> Text:
        """What went wrong with a picture: never cut, for the end says what to do."""
        name = readable(path)
        name = fit(name, self.name) if cell_len(name) < self.name else name
        return Text.assemble((f"{name}  ", ""), ("error: ", "bold red"), readable(error))


def remarks(decision: Decision, about: About) -> list[str]:
    """What a line ends with where there is something to say of the answer."""
    found = []
    if about.abstains(decision):
        found.append(NONE if about.unlike(decision) else "abstains")
    elif unusual(decision, about) is not None:
        found.append("unlike what it knows")
    if decision.probability < LIKELY:
        found.append(DOUBT)
    return found


def unusual(decision: Decision, about: About) -> float | None:
    """At most this share of the model's own pictures have so little evidence; None where that is not few."""
    share = about.rarity(decision)
    return share if share is not None and share <= UNUSUAL else None


def unusual_line(share: float) -> Text:
    """That a picture may be none of the model's classes. share: of `unusual`."""
    return Text(
        f"  unlike the pictures this model knows: at most {share * 100:g} % of those have so little evidence "
        "for any of its classes",
        style="yellow",
    )


def ranking_lines(decision: Decision, top: int, verbose: bool = False) -> list[Text]:
    """The ranked classes: probability as number and bar, and how long each was in the race.

    verbose : the mean log-likelihood with its bounds, in nats, in place of the bar
    """
    shown = decision.ranking[:top]
    width = min(_LABEL, max((cell_len(readable(standing.label)) for standing in shown), default=1))
    lines = []
    for standing in shown:
        is_in = standing.alive or standing.orders == decision.orders
        middle = f"{bar(standing.probability, _WIDE_BAR):{_WIDE_BAR}}"
        if verbose:
            bounds = ""
            if standing.lower is not None and standing.upper is not None:
                bounds = f" [{standing.lower:.1f}, {standing.upper:.1f}]"
            middle = f"{f'{standing.mean:.1f} nats{bounds}':28}"
        fate = count(standing.orders, "order") if is_in else f"out after {standing.orders}"
        if not is_in and not standing.orders:
            fate = "out at once"
        line = (
            f"  {fit(readable(standing.label), width)} {percent(standing.probability):>7}  {middle}  {fate}"
        )
        lines.append(Text(line, style="" if is_in else "dim"))
    return lines


def end_words(decision: Decision) -> str:
    """Whether more orders could change the answer."""
    if decision.stop == "decided":
        return STABLE
    if decision.stop == "budget":
        left = ""
        if decision.unused is not None and decision.unused[0] > 0:
            seconds, why = decision.unused
            left = f" ({duration(seconds)} left: {why})"
        return f"budget spent before it was stable: more orders might change it{left}"
    return f"all {count(decision.orders, 'order')} used" if decision.orders else stop_words(decision.stop)


def spent_words(decision: Decision, plan: RacePlan) -> str:
    """Orders and passes: `16 orders of 4 tokens, 2.5 of 19.4 passes`."""
    used = count(decision.orders, "order")
    if decision.pass_tokens < plan.tokens:
        used += f" of {decision.pass_tokens} tokens"
    if decision.prefix == 0:  # SCREENED
        used = "by the screen"
    elif decision.prefix:
        used = f"{decision.prefix} of {plan.tokens} tokens of one order"
    if decision.shortlist is not None and decision.prefix != 0:
        used += f" of a shortlist of {decision.shortlist}{_ranked_by(decision, plan)}, uncalibrated"
    return f"{used}, {amount(decision.passes)} of {amount(decision.full_passes)} passes"


def _ranked_by(decision: Decision, plan: RacePlan) -> str:
    """Which screen the shortlist is from; nothing where it is the race's own."""
    names = [record.order for record in decision.records if record.prefix == 0]
    return f" by screen {(*plan.screens, plan.fallback)[names[-1]]}" if names else ""


def separated_words(decision: Decision) -> str:
    """For those who want it exactly: at which δ the answer is stable."""
    if decision.separation == 0:
        return "no order is left that could change it"
    if decision.separation >= 1:
        return "not separated from its rivals at any δ"
    return f"separated from every rival at δ = {decision.separation:.2g}"


class TextShow(Show):
    """A line a picture, and the ranking beneath the only one.

    The same on a terminal and piped, but that without a terminal (or COLUMNS) no line is cut to its width.
    top: classes of the ranking beneath every picture; None: `RANKED` beneath one that is alone. verbose: what
    it took, and how sure exactly, beneath every picture.
    """

    def __init__(self, top: int | None, about: About, verbose: bool = False):
        self.top, self.about, self.verbose = top, about, verbose
        self.console = Console()
        self._layout = Layout(1, 1)

    def expect(self, names: Sequence[str]) -> None:
        on_terminal = self.console.is_terminal or "COLUMNS" in os.environ
        width = self.console.width if on_terminal else None
        self._layout = Layout.of(names, self.about.plan.labels, width)

    def decision(self, path: str, decision: Decision, alone: bool) -> None:
        layout = self._layout
        if alone:  # nothing to be in columns with
            layout = replace(layout, label=min(_LABEL, cell_len(readable(decision.label))))
        lines = [layout.line(path, decision, remarks(decision, self.about))]
        top = self.top if self.top is not None else RANKED if alone else 0
        if top > 1 or alone:
            lines += ranking_lines(decision, top, self.verbose)
        if alone:
            share = unusual(decision, self.about)
            if share is not None and not self.about.unlike(decision):
                lines.append(unusual_line(share))
            lines.append(Text(f"  {end_words(decision)}", style="dim"))
            lines.append(Text(f"  {spent_words(decision, self.about.plan)}", style="dim"))
        elif self.verbose:
            spent = spent_words(decision, self.about.plan)
            lines.append(Text(f"  {stop_words(decision.stop)}, {spent}", style="dim"))
        if self.verbose:
            lines.append(Text(f"  {separated_words(decision)}", style="dim"))
        print_text(self.console, *lines)

    def error(self, path: str, error: str) -> None:
        print_text(self.console, self._layout.error(path, error))
