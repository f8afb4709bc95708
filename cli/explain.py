"""`anytime-cls explain`: why this class and not that one, token by token."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as option
from .errors import FAILED, Refused, complain, explained, readable
from .outputs import check_output
from .replay import progress_bar

if TYPE_CHECKING:
    import numpy as np

    from anytime_cls.classifier import AnytimeClassifier
    from anytime_cls.explain.tokens import Explanation, TokenAccuracy
    from anytime_cls.pixels.inputs import Input

Option = typer.Option
_FORMATS = ("png", "svg", "pdf", "html")


def explain(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES", show_default=False, help="Files, folders, globs, or - (an image on stdin)."
        ),
    ],
    out: Annotated[
        Path, Option("--out", "-o", metavar="FILE", show_default=False, help="FILE.png, .svg, .pdf or .html.")
    ],
    model: option.Model = "cifar10",
    orders: Annotated[int, Option(metavar="K", min=1, max=1024, help="Orders that are averaged.")] = 8,
    why: Annotated[
        str | None,
        Option(metavar="CLASS", show_default=False, help="The class to explain. Default: the answer."),
    ] = None,
    rather: Annotated[
        str | None,
        Option(
            "--not", metavar="CLASS", show_default=False,
            help="The class that it is held against. Default: the best other one.",
        ),
    ] = None,
    most: Annotated[
        int, Option("--images", metavar="N", min=1, help="Most pictures to score, of every folder alike.")
    ] = 50,
    show: Annotated[int, Option(metavar="N", min=1, max=200, help="Most pictures to draw.")] = 4,
    classes: option.Classes = None,
    seed: option.Seed = 0,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    batch_size: option.BatchSize = "auto",
    max_pixels: option.MaxPixels = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace FILE if it is there.")] = False,
    json: Annotated[
        bool, Option("--json", help="JSON Lines with every map, in place of a line a picture.")
    ] = False,
    quiet: option.Quiet = False,
) -> int:  # fmt: skip
    """Draw which parts of a picture speak for its class, and against the best other one.

    For each picture: what single token orders say, evidence per token of single orders and of all together,
    and the probability of the answer as the most or the least telling tokens are read first (insertion and
    deletion). Where folders are named after classes, also how often single tokens are right, by their place
    and by how much was read before. Takes K x classes whole passes a picture.

    \b
    Example: anytime-cls explain photo.jpg -o why.png
             anytime-cls explain photo.jpg --why cat --not dog -o why.html
             anytime-cls explain DATA/cifar10/test --images 100 -o tokens.html
    """
    ending = out.suffix.lower().removeprefix(".")
    if ending not in _FORMATS:
        raise Refused(f"-o takes FILE.png, .svg, .pdf or .html; got {str(out)!r}")
    check_output("-o", out, overwrite, images)
    from anytime_cls.explain.choose import choose
    from anytime_cls.models.zoo import read_card
    from anytime_cls.pixels.inputs import collect

    try:
        card = read_card(model, option.names(classes))
        ids = card.class_ids(option.names(classes))
        asked = [_position(card, ids, name) for name in (why, rather)]
        if asked[0] is not None and asked[0] == asked[1]:
            raise Refused(f"--why and --not name one class, {card.labels[ids[asked[0]]]!r}: name two")
        rows = option.batch_size(batch_size)
        skipped: Counter[str] = Counter()
        found = list(collect(images, None, skipped))
        good = [item for item in found if item.source is not None]
        code = 0
        for item in found:
            if item.source is None:
                code = complain(f"{item.name}: {item.error}", FAILED)
        if not good:
            return code or complain("no pictures were found", FAILED)
        from anytime_cls.classifier import AnytimeClassifier
        from anytime_cls.explain.score import check_explains

        classifier = AnytimeClassifier.load(card, device, dtype, rows)
        check_explains(classifier)
    except ValueError as error:
        raise Refused(str(error)) from None
    request = _Request(orders, seed, ids, asked[0], asked[1], json, quiet)
    chosen = choose(good, most, seed)
    drawn, accuracy, failed = _score(classifier, chosen, choose(chosen, show, seed), request)
    if not drawn:
        return FAILED
    command = readable(shlex.join(["anytime-cls", *context.obj]))
    try:
        _write(out, ending, drawn, accuracy, orders, command)
    except OSError as error:
        return complain(explained(error), FAILED)
    if not quiet:
        print(readable(f"{out}: {len(drawn)} of {len(chosen)} pictures drawn"), file=sys.stderr)
    return max(code, failed)


@dataclass(frozen=True, eq=False)
class _Request:
    """What is asked of every picture. why, rather : positions in ids."""

    orders: int
    seed: int
    ids: np.ndarray
    why: int | None
    rather: int | None
    json: bool
    quiet: bool


def _position(card: Any, ids: np.ndarray, name: str | None) -> int | None:
    """Where a class is among those raced. Raises ValueError."""
    if name is None:
        return None
    found = card.class_index.find(name.strip())
    at = [place for place, one in enumerate(ids.tolist()) if len(found) == 1 and one == found[0]]
    if not at:
        raise ValueError(f"{name!r} is no class that is scored here, or more than one")
    return at[0]


def _score(
    classifier: AnytimeClassifier, chosen: list[Input], shown: list[Input], request: _Request
) -> tuple[list[Explanation], TokenAccuracy | None, int]:
    """Explanations of those shown, accuracies over all that have a label, and the exit code."""
    from anytime_cls.explain.choose import truth_of
    from anytime_cls.explain.score import explain as explain_one
    from anytime_cls.explain.tokens import TokenAccuracy
    from anytime_cls.pixels.decode import ImageError

    accuracy = TokenAccuracy(classifier.card.tokens)
    drawn: list[Explanation] = []
    code = 0
    with ExitStack() as stack:
        tick = stack.enter_context(progress_bar(request.quiet, "pictures"))
        for done, item in enumerate(chosen, 1):
            truth = truth_of(classifier.card, item.name, request.ids)
            assert item.source is not None
            try:
                found, scores = explain_one(
                    classifier, item.source, item.name, request.orders, request.seed, request.ids,
                    request.why, request.rather, truth,
                )  # fmt: skip
            except ImageError as error:
                code = complain(f"{item.name}: {error}", FAILED)
                continue
            if truth >= 0:
                accuracy.add(scores, truth)
            if any(item is one for one in shown):
                drawn.append(found)
            _say(found, request)
            if tick is not None:
                tick(done, len(chosen))
    if accuracy.images > 1:
        _say_tokens(accuracy, request)
    return drawn, accuracy if accuracy.images > 1 else None, code


def _say(one: Explanation, request: _Request) -> None:
    from anytime_cls.stats.wording import percent

    from .show.output import named, print_json

    answer, rival = one.labels[one.answer], one.labels[one.rival]
    if request.json:
        areas = {name: round(value, 4) for name, value in one.scores().items()}
        print_json(named(one.name) | {
            "label": answer, "rival": rival, "probability": one.probability,
            "truth": one.labels[one.truth] if one.truth >= 0 else None, "orders": len(one.answers),
            "single_orders": one.votes(), **areas, "content": one.content,
            "evidence": one.contrast.mean(axis=0).reshape(one.side).tolist(),
        })  # fmt: skip
        return
    votes = ", ".join(f"{label} {count}" for label, count in one.votes().items())
    said = ", ".join(f"{name} {percent(value)}" for name, value in one.scores().items())
    print(readable(
        f"{one.name}: {answer} {percent(one.probability)}, not {rival}; single orders: {votes}; {said}"
    ), flush=True)  # fmt: skip


def _say_tokens(accuracy: TokenAccuracy, request: _Request) -> None:
    """Figures 4 and 5 in numbers: the middle against the rest, and eight stretches of an order."""
    import numpy as np

    from anytime_cls.explain.tokens import centre_and_border, grid
    from anytime_cls.stats.wording import percent

    from .show.output import print_json

    if request.json:
        print_json({
            "images": accuracy.images, "orders": request.orders, "by_step": accuracy.by_step.tolist(),
            "one": grid(accuracy.one).tolist(), "all": grid(accuracy.all).tolist(),
        })  # fmt: skip
        return
    for name, places in (("1 order", accuracy.one), (f"{request.orders} orders", accuracy.all)):
        centre, border = centre_and_border(grid(places))
        print(f"one token is right, {name}: {percent(centre)} in the middle, {percent(border)} around it")
    stretches = np.array_split(np.arange(len(accuracy.by_step)), min(8, len(accuracy.by_step)))
    shares = ", ".join(f"{a[0]}-{a[-1]} {percent(accuracy.by_step[a].mean())}" for a in stretches)
    print(f"one token is right, by the tokens read before it: {shares}")


def _write(
    out: Path,
    ending: str,
    drawn: list[Explanation],
    accuracy: TokenAccuracy | None,
    orders: int,
    command: str,
) -> None:
    """The picture or the page, whole or not at all. Raises OSError."""
    from anytime_cls.files import replace_file, replacing

    if ending == "html":
        from anytime_cls.pictures.explain_page import page

        title = (
            f"Why {drawn[0].labels[drawn[0].answer]}?" if len(drawn) == 1 else f"Why? {len(drawn)} pictures"
        )
        replace_file(out, page(drawn, accuracy, orders, title, command).encode())
        return
    from anytime_cls.pictures.explain import draw
    from anytime_cls.pictures.style import save

    figure = draw(drawn, accuracy, orders)
    with replacing(out) as temporary:
        save(figure, temporary, ending)
