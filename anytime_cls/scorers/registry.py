"""Methods by name: ours, and those that other packages bring (entry-point group `anytime_cls.methods`)."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points

from anytime_cls.scorers.base import Method

GROUP = "anytime_cls.methods"
BUILT_IN = {  # lazily: "module:object", as an entry point says it
    "randar": "anytime_cls.models.load:any_order",
    "sigma": "anytime_cls.models.load:any_order",
    "raster": "anytime_cls.models.load:any_order",
    "masked": "anytime_cls.models.peers:masked",
    "discriminative": "anytime_cls.models.peers:discriminative",
    "head": "anytime_cls.models.peers:head",
    "diffusion": "anytime_cls.models.peers:diffusion",
    "dit": "anytime_cls.models.others.dit:dit",
    "sit": "anytime_cls.models.others.dit:sit",
    "llamagen": "anytime_cls.models.others.llamagen:llamagen",
    "var": "anytime_cls.models.others.var:var",
    "timm": "anytime_cls.models.others.references:timm",
    "efficientnet": "anytime_cls.models.others.references:lite0",
}
# of the built-in ones, those named METHOD:SOURCE: of other people's weights, and another use of our own
OTHERS = ("dit", "sit", "llamagen", "var", "timm", "masked")


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Every method there is."""
    return (*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - BUILT_IN.keys()))


def is_third_party(name: str) -> bool:
    """Whether another package brings this method."""
    return name not in BUILT_IN and name in names()


def takes_source(name: str) -> bool:
    """Whether models of this method are named METHOD:SOURCE."""
    return name in OTHERS or is_third_party(name)


def method(name: str) -> Method:
    """The method of this name. Raises ValueError, naming the nearest, for one that is not installed or that
    cannot be imported."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: Method = getattr(import_module(module), attribute)
        return found
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                loaded = point.load()
            except (ImportError, AttributeError) as error:
                raise ValueError(f"method {name!r} ({point.value}) cannot be loaded: {error}") from None
            made: Method = loaded() if isinstance(loaded, type) else loaded
            return made
    near = get_close_matches(name, names(), 1)
    hint = f" (did you mean {near[0]!r}?)" if near else f": there is {', '.join(names())}"
    raise ValueError(f"no method {name!r}{hint}")
