"""`anytime-cls trace import`: other programs' results become a trace."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FAILED, USAGE, Refused, complain, explained, readable
from .outputs import check_output

if TYPE_CHECKING:
    from anytime_cls.traces.foreign import Foreign


def run(
    files: list[Path],
    out: Path,
    names: Path | None,
    targets: Path | None,
    elements: int | None,
    common: bool,
    in_order: bool,
    dataset: str,
    overwrite: bool,
    command: tuple[str, ...],
) -> int:
    """Returns the exit code. Raises Refused for files of no known layout."""
    check_output("-o", out, overwrite, files)
    from anytime_cls.environment import versions
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.imported import Names, read_names, read_run
    from anytime_cls.traces.foreign import mixed, shared_draws, write_foreign
    from anytime_cls.traces.schema import TraceError

    def prepared() -> Iterator[Foreign]:
        for one in found.images():
            scores = shared_draws(one.scores) if common else one.scores
            if not len(scores):
                raise ValueError(f"image {one.id!r} has no draw that every class has")
            yield replace(one, scores=scores if in_order else mixed(scores, one.id.encode()))

    try:
        found = read_run(files, Names() if names is None else read_names(names), targets, elements)
        attrs = {
            "model": found.program, "method": "imported", "unit": found.unit, "dataset": dataset,
            "draws": "as taken" if in_order else "shuffled",
            "command": readable(shlex.join(("anytime-cls", *command))),
            **{f"version_{name}": version for name, version in versions().items()},
        }  # fmt: skip
        count, full = write_foreign(out, prepared, found.labels, attrs, overwrite)
    except TraceError as error:
        return complain(str(error), FAILED if isinstance(error.__cause__, OSError) else USAGE)
    except (ModelError, ValueError) as error:
        raise Refused(str(error)) from None
    except OSError as error:
        return complain(explained(error), FAILED)
    left = f", {found.missing:,} left out that not every class has" if found.missing else ""
    print(readable(f"{out}: {count:,} images of {len(found.labels):,} classes from {found.program}{left}"))
    if not full:
        print(
            "not every class has every draw: it can be shown and plotted; --common keeps what can be replayed"
        )
    return 0
