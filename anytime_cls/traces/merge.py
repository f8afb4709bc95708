"""Merge the traces of shards into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anytime_cls.files import destination
from anytime_cls.traces.hdf5 import _cannot_write, _files
from anytime_cls.traces.publish import _merge
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import MATCH_KEYS, TraceError, _must_match


def merge_traces(
    paths: Sequence[str | Path], out: str | Path, overwrite: bool = False, allow_unfinished: bool = False
) -> None:
    """Joins shards of one run into `out`, sorted by index; an image in several is taken from the first.

    Provenance outside MATCH_KEYS that differs becomes the list of its values, as text. Raises TraceError if a
    MATCH_KEY differs, a shard is unfinished (unless allowed: then `out` counts as unfinished too), or `out`
    exists and not `overwrite`.
    """
    try:
        out = destination(out)
    except OSError as error:
        raise _cannot_write(Path(out), error) from error
    if _files(out) and not overwrite:
        raise TraceError(f"{out} exists already: choose another name or replace it (--overwrite)")
    if _files(out) not in ([], [out]):
        raise TraceError(f"{out} is a run that is not finished: choose another name")
    attrs: dict[str, Any] = {}
    seen: dict[str, list[Any]] = {}
    files: list[Path] = []
    complete = True
    for path in paths:
        with Trace.open(path) as shard:
            if not (shard.complete or allow_unfinished):
                raise TraceError(f"{path} is unfinished ({len(shard)} images so far): resume it first")
            now = shard.attrs | {"labels": shard.labels}
            attrs = attrs or now
            _must_match(f"merge {path} with {paths[0]}", attrs, now, MATCH_KEYS)
            files += shard.files
            complete &= shard.complete
            for key, value in shard.attrs.items():
                if value not in seen.setdefault(key, []):
                    seen[key].append(value)
    if not files:
        raise TraceError("no traces to merge")
    with Trace(out, files) as trace:
        trace.attrs = {k: v[0] if len(v) == 1 else [str(value) for value in v] for k, v in seen.items()}
        _merge(trace, out, out.parent, complete)
