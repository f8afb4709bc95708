"""Which of a study's curves a reader needs: each model's race, the fixed K it replaces, its cheapest rival.

A replay of every rule has two dozen curves. A picture names at most `MOST` of them; what is left is drawn
without a name, or with `plot --all`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anytime_cls.curves.analysis import LIVE, Analysis, most_orders, race_of
from anytime_cls.curves.study import StudyRun

MOST = 6  # names in a picture, the Pareto front's among them
RACE, FIXED, RIVAL, OTHER = "race", "fixed", "rival", "other"


@dataclass(frozen=True)
class Lead:
    """A curve with a name. series: in the study; point: the run that stands for it; model: its number."""

    name: str
    role: str
    model: int
    series: str
    point: int


def leading(analysis: Analysis) -> list[Lead]:
    """The curves to name, the most important first; with the front no more than `MOST`.

    Of every model its race, the fixed K of most (whole) orders, and what the race's saving is against; where
    there is room, recorded races beside, and everything where all of it fits.
    """
    found: dict[str, Lead] = {}
    models = list(dict.fromkeys(run.model for run in analysis.study.runs))
    of_model = [dict(_of_model(analysis, number, model)) for number, model in enumerate(models)]
    for role in (RACE, FIXED, RIVAL):
        for leads in of_model:
            if role in leads:
                found.setdefault(leads[role].series, leads[role])
    rest = [name for name in analysis.default if name not in found and not _is_live_twin(name, found)]
    live = [name for name in rest if analysis.study.runs[analysis.default[name]].live]
    named = rest if len(found) + len(rest) < MOST else live
    for name in named:
        run = analysis.study.runs[analysis.default[name]]
        found[name] = Lead(name, OTHER, models.index(run.model), name, analysis.default[name])
    return list(found.values())[: MOST if len(of_model) > 2 else MOST - 1]


def _of_model(analysis: Analysis, number: int, model: str) -> Iterator[tuple[str, Lead]]:
    runs, several = analysis.study.runs, len({run.model for run in analysis.study.runs}) > 1
    head = f"{model}: " if several else ""
    race = race_of(runs, analysis.default, model, analysis.recommended.get(model))
    fixed = [i for i, run in enumerate(runs) if run.rule == "fixed" and run.model == model]
    if race is not None:
        series = runs[race].series
        twin = series.removesuffix(LIVE)
        yield RACE, Lead(f"{head}race", RACE, number, twin if twin in analysis.default else series, race)
    if fixed:
        most = most_orders(runs, fixed)
        yield FIXED, Lead(head + fixed_words(runs[most]), FIXED, number, runs[most].series, most)
    saved = analysis.savings[race] if race is not None else None
    if saved is not None:
        rival = runs[saved.index]
        words = fixed_words(rival) if rival.rule == "fixed" else f"{rival.rule} alone"
        yield RIVAL, Lead(head + words, RIVAL, number, rival.series, saved.index)


def fixed_words(run: StudyRun) -> str:
    """ "fixed K", and of how many tokens where its passes are not over whole orders."""
    return "fixed K" if run.whole else f"fixed K of {run.settings.get('prefix')} tokens"


def _is_live_twin(name: str, found: dict[str, Lead]) -> bool:
    """Whether this is the recorded race whose replayed curve has a name already."""
    return name.removesuffix(LIVE) in found and name.endswith(LIVE)
