"""What a shell offers for an option's value: looked up when it asks, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def _offer(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Those of the names that begin as what was typed."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _models() -> Iterable[str]:
    from anytime_cls.models.zoo import embedded_names

    return embedded_names()


def _rules() -> Iterable[str]:
    from anytime_cls.race.registry import CALIBRATED, RULES, SCREEN_RULES

    return (*RULES, *SCREEN_RULES, CALIBRATED)


def _orders() -> Iterable[str]:
    from anytime_cls.draws.orders import SAMPLERS

    return SAMPLERS


def _crops() -> Iterable[str]:
    from anytime_cls.draws.views import CROPS

    return CROPS


models, rules, orders, crops = _offer(_models), _offer(_rules), _offer(_orders), _offer(_crops)
screens = _offer(lambda: ("table", "gradient", "none"))
