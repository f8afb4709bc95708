"""What was fitted to a model's races on held-out traces: one type, whoever says it.

A model's `model.json`, a file of `anytime-cls calibrate`, a trace's attributes and a merge of two of these
are all a :class:`Fitted`. Priors and temperatures belong to a kind of draw and its steps, calibrations and
prices to a whole :class:`Design`. What is read is checked: types, ranges, and no numbers that are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert, to_builtins

from anytime_cls.race.bounds import VariancePrior
from anytime_cls.race.rules import Screening

WHOLE = "whole"  # the kind of draw of whole orders: which sampler they are from makes no difference to them
DISAGREEMENT, ACCURACY = "disagreement", "accuracy"  # what a calibration holds down (certify.risk)


@dataclass(frozen=True)
class Design:
    """Which races: the key of priors, temperatures and calibrations."""

    draws: str  # the sampler: "uniform", "stratified", ...
    steps: int  # tokens of an order that are scored; always a number
    k_max: int  # orders; no more than there are different ones
    n_classes: int
    crops: str = "center"  # what an order sees of the image, one of views.CROPS

    def __str__(self) -> str:
        crops = "" if self.crops == "center" else f" on {self.crops} crops"
        return f"{self.k_max} {self.draws} orders of {self.steps} tokens{crops} and {self.n_classes} classes"


@dataclass(frozen=True)
class Fit:
    """What is known of one kind of draw at so many steps. priors: of single orders, under `paired` and
    `marginal`. temperature: soft-max of mean log-likelihoods over it is a probability; None: not fitted."""

    priors: Mapping[str, VariancePrior] = field(default_factory=dict)
    temperature: float | None = None

    def of_pulls(self, block: int) -> dict[str, VariancePrior]:
        """Priors of pulls of `block` orders.

        A pull varies 1/block as much, or less where the orders of a block are negatively correlated, as
        antithetic ones are (docs/method.md).
        """
        return {key: replace(prior, scale=prior.scale / block) for key, prior in self.priors.items()}


@dataclass(frozen=True)
class Certified:
    """What was certified to hold a risk, for which races, and the prior it was certified with (of pulls)."""

    design: Design
    risk: float
    loss: str  # DISAGREEMENT or ACCURACY
    prior: VariancePrior

    def __str__(self) -> str:
        held = "risk" if self.loss == DISAGREEMENT else "accuracy drop"
        return f"{held} {self.risk:g} at {self.design}"


@dataclass(frozen=True)
class Calibration(Certified):
    """Thresholds of rule `calibrated` (docs/calibrate.md)."""

    thresholds: tuple[tuple[int, float], ...]  # (pulls, α of a pair), in rising pulls
    rungs: tuple[tuple[int, float], ...] = ()  # (tokens, gap in nats), in rising tokens
    temperature: float | None = None
    screening: Screening | None = None


@dataclass(frozen=True)
class Price(Certified):
    """A price of rule `value`, with the temperature of its posterior."""

    price: float
    temperature: float


@dataclass(frozen=True)
class Abstention:
    """With how little evidence (`races.evidence`) a picture is answered "none of these", in which races."""

    design: Design
    rule: str  # "fixed", or "calibrated" to hold `risk`
    risk: float | None  # None for fixed
    thresholds: tuple[tuple[float, float], ...]  # (at most this share of the model's own pictures, nats)

    def at(self, rate: float) -> float | None:
        """The threshold of the largest share up to this; None where none is so small."""
        return next((nats for share, nats in reversed(self.thresholds) if share <= rate), None)

    def rarity(self, evidence: float) -> float | None:
        """The smallest share at whose threshold a picture of such evidence is none of these, if any."""
        return next((share for share, nats in self.thresholds if evidence < nats), None)


@dataclass(frozen=True)
class Recommended:
    """The race to run where nobody says how: fields of `RaceOptions`; prefix None for whole orders."""

    rule: str
    delta: float
    orders: str
    max_orders: int
    prefix: int | None = None
    crops: str = "center"


@dataclass(frozen=True)
class Fitted:
    """Everything known of a model's races. tokens: an image's."""

    tokens: int
    # (kind of draw, steps, crops) → what is known
    fits: Mapping[tuple[str, int, str], Fit] = field(default_factory=dict)
    calibrated: tuple[Calibration, ...] = ()
    prices: tuple[Price, ...] = ()
    abstain: tuple[Abstention, ...] = ()
    race: Recommended | None = None
    screens: Mapping[str, float] = field(default_factory=dict)  # name → the temperature of its estimates

    @classmethod
    def read(cls, fields: Mapping[str, Any], tokens: int) -> Fitted:
        """From the fields of a file. Raises ValueError naming what is wrong, and where."""
        mine = {key: fields[key] for key in _File.__struct_fields__ if key in fields}
        try:
            return convert(mine, _File).fitted(tokens)
        except ValidationError as error:
            raise ValueError(f"what was fitted does not make sense: {error}") from None
        except RecursionError:
            raise ValueError("what was fitted does not make sense: it is nested too deeply") from None

    def of(self, draws: str, steps: int, crops: str = "center") -> Fit:
        """What is known of such draws, scored for so many steps on such crops."""
        return self.fits.get((WHOLE if steps >= self.tokens else draws, steps, crops), Fit())

    def merge(self, other: Fitted) -> Fitted:
        """Both; where both know something, the other's. No entry is lost."""

        def joined(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple({(entry.design, entry.loss, entry.risk): entry for entry in mine + theirs}.values())

        calibrated = joined(self.calibrated, other.calibrated)
        prices = joined(self.prices, other.prices)
        both = {(entry.design, entry.rule, entry.risk): entry for entry in self.abstain + other.abstain}
        abstain = tuple(both.values())
        fits = {**self.fits, **{key: fit for key, fit in other.fits.items() if fit.priors}}
        screens = {**self.screens, **other.screens}
        return Fitted(self.tokens, fits, calibrated, prices, abstain, other.race or self.race, screens)


# ---- as it is written: model.json and calibration files, where whole orders lie at the top

_Share = Annotated[float, Meta(gt=0, lt=1)]
_Positive = Annotated[float, Meta(gt=0, le=1e12)]
_Temperature = Annotated[float, Meta(ge=1e-9, le=1e9)]
_Count = Annotated[int, Meta(ge=1, lt=1 << 31)]


class _Prior(Struct):
    scale: _Positive
    power: Annotated[float, Meta(ge=-10, le=10)]
    df: _Positive
    gap_floor: _Positive = 0.1

    def read(self) -> VariancePrior:
        return VariancePrior(float(self.scale), float(self.power), float(self.df), float(self.gap_floor))


class _Entry(Struct, kw_only=True):
    risk: _Share
    k_max: _Count
    order_sampler: str
    n_classes: _Count
    prior: _Prior
    loss: Literal["disagreement", "accuracy"] = "disagreement"
    prefix: _Count | None = None
    crops: str = "center"

    def certified(self, tokens: int) -> dict[str, Any]:
        steps = self.prefix or tokens
        design = Design(self.order_sampler, steps, self.k_max, self.n_classes, self.crops)
        return {"design": design, "risk": self.risk, "loss": self.loss, "prior": self.prior.read()}


class _Screening(Struct):
    screen: str
    scale: Annotated[float, Meta(ge=0, le=1e12)]
    gap: Annotated[float, Meta(ge=0, le=1e12)]
    weight: Annotated[float, Meta(ge=0, le=1e12)] = 0.0


class _Calibration(_Entry, kw_only=True):
    thresholds: dict[Annotated[str, Meta(pattern=r"^[1-9]\d{0,8}$")], _Share]
    rungs: list[tuple[_Count, Annotated[float, Meta(ge=0, le=1e12)]]] = []
    temperature: _Temperature | None = None
    screening: _Screening | None = None

    def read(self, tokens: int) -> Calibration:
        thresholds = tuple(sorted((int(n), float(alpha)) for n, alpha in self.thresholds.items()))
        rungs = tuple(sorted((m, float(gap)) for m, gap in self.rungs))
        screening = None if self.screening is None else Screening(**to_builtins(self.screening))
        return Calibration(
            **self.certified(tokens), thresholds=thresholds, rungs=rungs, temperature=self.temperature,
            screening=screening,
        )  # fmt: skip


class _Price(_Entry, kw_only=True):
    price: _Positive
    temperature: _Temperature

    def read(self, tokens: int) -> Price:
        return Price(**self.certified(tokens), price=self.price, temperature=self.temperature)


class _Abstention(Struct, kw_only=True):
    rule: Literal["fixed", "calibrated"]
    k_max: _Count
    order_sampler: str
    n_classes: _Count
    thresholds: dict[Annotated[str, Meta(pattern=r"^0\.\d{1,6}$")], Annotated[float, Meta(ge=-1e12, le=1e12)]]
    prefix: _Count | None = None
    risk: _Share | None = None
    crops: str = "center"

    def read(self, tokens: int) -> Abstention:
        steps = self.prefix or tokens
        design = Design(self.order_sampler, steps, self.k_max, self.n_classes, self.crops)
        rising = tuple(sorted((float(share), float(nats)) for share, nats in self.thresholds.items()))
        return Abstention(design, self.rule, self.risk, rising)


class _Fit(Struct):
    priors: dict[Literal["paired", "marginal"], _Prior] = {}
    temperature: _Temperature | UnsetType = UNSET

    def read(self) -> Fit:
        priors = {str(key): prior.read() for key, prior in self.priors.items()}
        return Fit(priors, None if self.temperature is UNSET else float(self.temperature))


class _DesignFit(_Fit, kw_only=True):
    order_sampler: str
    prefix: _Count
    crops: str = "center"


class _Race(Struct):
    rule: str
    delta: _Share
    orders: str
    max_orders: Annotated[int, Meta(ge=1, lt=1 << 16)]
    prefix: _Count | None = None
    crops: str = "center"


class _File(_Fit):
    designs: list[_DesignFit] = []
    calibrated: list[_Calibration] = []
    prices: list[_Price] = []
    abstain: list[_Abstention] = []
    race: _Race | None = None
    screens: dict[str, _Positive] = {}

    def fitted(self, tokens: int) -> Fitted:
        fits = {
            (WHOLE if fit.prefix >= tokens else fit.order_sampler, fit.prefix, fit.crops): fit.read()
            for fit in self.designs
        }
        whole = _Fit.read(self)
        if whole != Fit():
            fits[WHOLE, tokens, "center"] = whole
        race = self.race
        return Fitted(
            tokens,
            fits,
            tuple(entry.read(tokens) for entry in self.calibrated),
            tuple(entry.read(tokens) for entry in self.prices),
            tuple(entry.read(tokens) for entry in self.abstain),
            None if race is None else Recommended(**to_builtins(race)),
            self.screens,
        )
