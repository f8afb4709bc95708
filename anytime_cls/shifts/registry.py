"""Shifts by name: NAME or NAME:HOW. Light to import; what makes them is imported when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from anytime_cls.shifts.chance import Array, Chance

#: CIFAR-10-C's fifteen, and the four that it keeps for validation. Those of 32×32 pictures.
STANDARD = (
    "gaussian-noise", "shot-noise", "impulse-noise", "defocus-blur", "glass-blur", "motion-blur", "zoom-blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic-transform", "pixelate", "jpeg-compression",
)  # fmt: skip
EXTRA = ("speckle-noise", "gaussian-blur", "spatter", "saturate")
MIX = "corruptions"  # one of STANDARD an image
CLEAN = "clean"
LOOKS = ("greyscale", "sketch")
SWAPS = ("texture", "backgrounds")  # made with a picture of another class
SHORTCUTS = ("patch", "tint")
NAMES = (MIX, *STANDARD, *EXTRA, *LOOKS, *SWAPS, *SHORTCUTS)
SEVERITY, SEVERITIES = 3, (1, 2, 3, 4, 5)


class ShiftError(ValueError):
    """A shift that there is not, or that does not go with these pictures; one line."""


@final
@dataclass(frozen=True)
class Shift:
    """One shift. severity: 0 of `corruptions` draws one an image. share: how often a shortcut is right."""

    kind: str
    severity: int = 0
    share: float = 0.0

    @property
    def name(self) -> str:
        """As it is typed, and as a data set's name has it behind a +."""
        if self.kind in SHORTCUTS:
            return f"{self.kind}:{self.share:g}"
        return f"{self.kind}:{self.severity}" if self.severity else self.kind

    @property
    def side(self) -> int | None:
        """The only size of picture that its parameters are for, in pixels; None: any."""
        return 32 if self.kind in (MIX, *STANDARD, *EXTRA) else None

    @property
    def needs_other(self) -> bool:
        """Whether it is made with a picture of another class."""
        return self.kind in SWAPS

    @property
    def needs_label(self) -> bool:
        return self.kind in (*SWAPS, *SHORTCUTS)

    def apply(
        self, picture: Array, chance: Chance, label: int = -1, classes: int = 0, other: Array | None = None
    ) -> Array:
        """A picture uint8 [S, S, 3] shifted. label: its class of so many; other: a picture like it, of
        another class, where one is needed."""
        from anytime_cls.shifts import looks, shortcuts
        from anytime_cls.shifts.corruptions import corrupt

        if self.side is not None:
            kind, severity = self.kind, self.severity
            if kind == MIX:
                kind = STANDARD[int(chance.integers(0, len(STANDARD)))]
                severity = severity or int(chance.integers(1, 6))
            return corrupt(picture, kind, severity, chance)
        if self.kind in SHORTCUTS:
            said = shortcuts.said_class(label, classes, self.share, chance)
            return getattr(shortcuts, self.kind)(picture, said, classes)  # type: ignore[no-any-return]
        if self.kind in LOOKS:
            return getattr(looks, self.kind)(picture)  # type: ignore[no-any-return]
        assert other is not None
        if self.kind == "texture":
            return looks.texture(picture, other, chance)
        return looks.swapped(picture, other)


def parse(text: str) -> Shift:
    """`fog:5`, `greyscale`, `patch:0.95`; _ is as good as -. Raises ShiftError."""
    kind, colon, how = text.strip().lower().replace("_", "-").partition(":")
    if kind not in NAMES:
        near = get_close_matches(kind, NAMES, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else f": there is {', '.join(NAMES)}"
        raise ShiftError(f"no shift {text!r}{hint}")
    if kind in SHORTCUTS:
        try:
            share = float(how) if colon else 0.0
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ShiftError(
                f"{kind} takes how often it says the true class, 0 to 1, as {kind}:0; got {text!r}"
            )
        return Shift(kind, share=share)
    if kind in (*LOOKS, *SWAPS):
        if colon:
            raise ShiftError(f"shift {kind!r} has no severity: leave out :{how}")
        return Shift(kind)
    if colon and how not in map(str, SEVERITIES):
        raise ShiftError(f"a severity is 1 to 5, as {kind}:3; got {text!r}")
    return Shift(kind, int(how) if colon else 0 if kind == MIX else SEVERITY)


def is_shift(text: str) -> bool:
    """Whether this names a shift, well or badly, and not a data set."""
    return text.strip().lower().replace("_", "-").partition(":")[0] in NAMES
