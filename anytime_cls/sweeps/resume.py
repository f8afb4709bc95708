"""Whether the images that a trace holds are still those of the data set, before a sweep goes on from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from anytime_cls.pixels.crops import center_crop, content_key
from anytime_cls.pixels.decode import decode
from anytime_cls.sweeps.reading import Reader
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import TraceError

if TYPE_CHECKING:
    from anytime_cls.datasets.base import Dataset
    from anytime_cls.pixels.decode import Source
    from anytime_cls.traces.write import TraceWriter

_NAMED = 5  # changed images that a message names; with them known, no more are looked for


def compare(
    dataset: Dataset, writer: TraceWriter, size: int, tell: Callable[[int], None] | None = None
) -> None:
    """Refuses to go on where an image that needs no scoring any more is not the one that was raced.

    Every file is looked at for its size and time of change. Images where these are not the trace's, or
    unknown, are read, and their crop's content compared: a data set that was copied is the same data set.
    size : pixels a side of the model's crop. tell : hears how many images are to be read, if any.

    Raises TraceError, naming images that changed.
    """
    if writer.compared or not writer.done:
        return
    with Trace.open(writer.path) as trace:
        names = ("id", "content", "size", "modified", "error")
        rows = zip(*(trace.images[name].tolist() for name in names), strict=True)
        was = {
            key: (content, (size_, modified)) for key, content, size_, modified, error in rows if not error
        }
    there = [sample for sample in dataset.samples if sample.id in was]
    unsure = [s for s in there if s.stamp() != was[s.id][1] or not was[s.id][1][1]]
    unsure = [sample for sample in unsure if was[sample.id][0]]  # schema 1 knew no contents
    if unsure and tell is not None:
        tell(len(unsure))
    changed, read = [], Reader()
    for sample in unsure:
        why = _change(read(sample)[1], size, was[sample.id][0])
        if why is not None:
            changed.append(f"{sample.path!r}{why}")
        if len(changed) == _NAMED:
            break
    read.close()
    if changed:
        raise TraceError(
            f"cannot resume {writer.path}: images have changed since they were raced: {', '.join(changed)}"
            f"{', and perhaps more' if len(changed) == _NAMED else ''}; put them back, or begin anew "
            "(--overwrite)"
        )
    writer.compared = True


def _change(source: Source | Exception, size: int, content: str) -> str | None:
    """What is to be said of an image behind its name if it is not the one with this content; else None."""
    try:
        if isinstance(source, Exception):
            raise source
        picture = decode(source)
    except Exception as error:  # whatever a data set's reader raises
        return f" ({' '.join(str(error).split())})"
    return None if content_key(center_crop(picture, size)).hex() == content else ""
