"""An explanation drawn: the paper's Figures 1 and 3 for one picture, 4 and 5 for many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from anytime_cls.explain.tokens import Explanation, TokenAccuracy, grid
from anytime_cls.pictures.style import FAINT, INK, styled

Array = np.ndarray
RIGHT, WRONG = "#0072B2", "#D55E00"  # an order that says as all do, and one that does not (Wong 2011)
HEAT = "inferno"
ORDERS = 4  # single orders whose maps are drawn
NAME = 28  # characters of a file's name or a class


def draw(explained: Sequence[Explanation], accuracy: TokenAccuracy | None, orders: int) -> Figure:
    """All in one picture: a row an explained picture, and Figures 4 and 5 below, where there are any."""
    with styled():
        rows = len(explained) + (accuracy is not None)
        heights = [1.0] * len(explained) + ([1.1] if accuracy is not None else [])
        figure = Figure(figsize=(10.4, 1.95 * sum(heights)), layout="constrained")
        engine = figure.get_layout_engine()
        assert engine is not None
        engine.set(h_pad=0.08)  # type: ignore[call-arg]
        parts = list(figure.subfigures(rows, 1, height_ratios=heights, squeeze=False)[:, 0])
        for part, one in zip(parts, explained, strict=False):
            _explanation(part, one)
        if accuracy is not None:
            _accuracy(parts[-1], accuracy, orders)
    return figure


def draw_one(one: Explanation) -> Figure:
    """Figures 1 and 3 of one picture, with insertion and deletion."""
    return draw([one], None, len(one.answers))


def draw_accuracy(accuracy: TokenAccuracy, orders: int) -> Figure:
    """Figures 4 and 5."""
    return draw([], accuracy, orders)


def _explanation(part: SubFigure, one: Explanation) -> None:
    """The picture; up to four single orders, each with its answer; all together; insertion, deletion."""
    answer, rival = _short(one.labels[one.answer]), _short(one.labels[one.rival])
    truth = f", is {_short(one.labels[one.truth])}" if one.truth >= 0 else ""
    part.suptitle(
        f"{_short(one.name)}: {answer} {one.probability:.0%}{truth} — why {answer}, not {rival}\n",
        fontsize=8.5, x=0.01, ha="left", linespacing=0.5,
    )  # fmt: skip
    shown = min(ORDERS, len(one.answers))
    axes = part.subplots(1, shown + 3, width_ratios=[1.0] * (shown + 2) + [1.55])
    _picture(axes[0], one.crop, None, one.side)
    axes[0].set_title("the picture")
    most = float(np.maximum(one.contrast[:shown], 0).max()) or 1.0
    for k in range(shown):
        _picture(axes[k + 1], one.crop, np.maximum(one.contrast[k], 0).reshape(one.side), one.side, most)
        same = one.answers[k] == one.answer
        title = f"order {k + 1}:\n{_short(one.labels[one.answers[k]], 18)}"
        axes[k + 1].set_title(title, color=RIGHT if same else WRONG)
    agree = int((one.answers == one.answer).sum())
    together = axes[shown + 1]
    _picture(together, one.crop, one.map, one.side)
    together.set_title(f"all {len(one.answers)}\n({agree} alone say so)")
    for axis, top in ((axes[1], most), (together, float(one.map.max()))):
        axis.text(0, -0.03, f"brightest: {top:.1f} nats", transform=axis.transAxes, va="top", fontsize=6.5)
    _curves(axes[-1], one, answer)


def _picture(axis: Axes, crop: Array, heat: Array | None, side: tuple[int, int], most: float = 0.0) -> None:
    """The crop, or heat over it in grey, as strong as there is evidence. most: nats of the strongest."""
    rows, columns = side
    box = (0, columns, rows, 0)
    if heat is None:
        axis.imshow(crop, extent=box, interpolation="nearest")
    else:
        axis.imshow(crop.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=box, interpolation="nearest")
        top = most or float(heat.max()) or 1.0
        axis.imshow(
            heat, cmap=HEAT, vmin=0, vmax=top, alpha=0.15 + 0.75 * np.clip(heat / top, 0, 1), extent=box,
            interpolation="nearest",
        )  # fmt: skip
    axis.set_axis_off()


def _curves(axis: Axes, one: Explanation, answer: str) -> None:
    """Probability of the answer by the share of tokens read."""
    share = np.linspace(0, 100, len(one.chance))
    areas = one.scores()
    for curve, name, colour, dash in (
        (one.insertion, "most telling first", RIGHT, "-"), (one.chance, "random orders", FAINT, (0, (3, 1))),
        (one.deletion, "least telling first", WRONG, "-"),
    ):  # fmt: skip
        area = areas[{RIGHT: "insertion", WRONG: "deletion"}.get(colour, "random")]
        axis.plot(share, 100 * curve, color=colour, linestyle=dash, label=f"{name} {100 * area:.0f}")
    axis.set(xlabel="% of tokens read", ylabel=f"p({answer}), %", ylim=(0, 101), xlim=(0, 100))
    axis.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), title="tokens read, and area in %", title_fontsize=6.5,
        fontsize=6.5,
    )  # fmt: skip


def _accuracy(part: SubFigure, accuracy: TokenAccuracy, orders: int) -> None:
    """Figure 4's two grids and Figure 5's curve."""
    part.suptitle(f"{accuracy.images} labelled pictures", fontsize=8.5, x=0.01, ha="left")
    n = len(accuracy.by_step)
    axes = part.subplots(1, 3, width_ratios=[1, 1, 1.6])
    grids = (accuracy.one, accuracy.all)
    low, high = min(g.min() for g in grids), max(g.max() for g in grids)
    for axis, places, name in zip(axes, grids, ("1 order", f"{orders} orders"), strict=False):
        drawn = axis.imshow(100 * grid(places), vmin=100 * low, vmax=100 * high, cmap="viridis")
        axis.set_title(f"one token is right, %, {name}")
        axis.set_axis_off()
        part.colorbar(drawn, ax=axis, shrink=0.8)
    axes[2].plot(np.arange(n), 100 * accuracy.by_step, color=INK)
    axes[2].set(xlabel="tokens read before", ylabel="one token is right, %", ylim=(0, None), xlim=(0, n - 1))


def _short(text: str, most: int = NAME) -> str:
    """No longer than that; a path keeps its end. Dollars would be mathematics."""
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if len(clean) > most:
        clean = "…" + clean[1 - most :] if "/" in clean else clean[: most - 1] + "…"
    return clean.replace("$", r"\$")
