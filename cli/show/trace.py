"""What `anytime-cls trace info` says of a trace: as data for JSON, and as a table for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anytime_cls.stats.wording import percent, percent_interval
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import TraceError
from anytime_cls.traces.summary import outcome

from ..errors import readable
from .output import amount, count, duration, stop_words, times

_SLAB = 1 << 20  # rows of a column read at once
# Provenance that has a place of its own in the table; the rest follows as it is.
_PLACED = {
    "schema", "model", "model_sha256", "tokenizer_sha256", "dataset", "dataset_fingerprint", "images",
    "shard", "priors", "calibrated", "rule", "delta", "k_max", "budget", "aggregate", "seed",
    "order_sampler", "device", "dtype", "tokens", "pass_tokens", "pass_flops", "prefixes",
    "prefix_flops", "flops", "command",
    "git_revision", "full_passes", "method", "plan", "unit", "keyed", "flops_steps", "flops_shared",
    "flops_class",
}  # fmt: skip


def describe(trace: Trace) -> dict[str, Any]:
    """`outcome` of a trace, with its accuracy and interval as one entry, and the provenance.

    accuracy: {value, low, high, n} over labelled images, or None. prefixes: tokens at which log-likelihoods
    are kept. resume: the command that goes on, if any.
    """
    found = outcome(trace)
    n, value = found.pop("labelled"), found.pop("accuracy")
    low, high = found.pop("accuracy_low"), found.pop("accuracy_high")
    return {
        "path": str(trace.path),
        **found,
        "accuracy": {"value": value, "low": low, "high": high, "n": n} if n else None,
        "bytes_per_call": found["bytes"] / found["calls"] if found["calls"] else None,
        "prefixes": prefixes(trace),
        "resume": None if trace.complete else resume_command(trace.attrs),
        "provenance": trace.attrs,
        "labels": trace.labels,
    }


def describe_curves(path: Path) -> dict[str, Any] | None:
    """What is in a file of `replay`'s, which is no trace; None for any other."""
    from anytime_cls.curves.file import CurvesError, read_curves

    try:
        curves = read_curves(path)
    except (CurvesError, OSError):
        return None
    return {
        "path": str(path),
        "kind": "curves",
        "images": len(curves.ids),
        "labelled": int((curves.label >= 0).sum()),
        "classes": len(curves.labels),
        "runs": len(curves.runs),
        "curves": {name: len(curves.curve(name)) for name in curves.names},
        "bytes": path.stat().st_size,
        "provenance": curves.attrs,
    }


def curves_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a file of curves is and came from, as (name, text)."""
    attrs = found["provenance"]
    yield "what", "curves of 'replay': what rules would have done to every image of a recorded sweep"
    yield (
        "images",
        f"{found['images']:,}, {found['labelled']:,} of them labelled, {found['classes']:,} classes",
    )
    each = (f"{name} {n}" for name, n in found["curves"].items())
    yield "runs", f"{found['runs']:,}: {', '.join(each)}"
    yield "model", _joined(_text(attrs.get("model")), _hash("sha256", attrs, "model_sha256"))
    yield "data set", _text(attrs.get("dataset"))
    yield "command", _text(attrs.get("replay_command"))
    yield "on disk", f"{found['bytes'] / 1e6:,.2f} MB"
    yield "draw them", f"anytime-cls plot {found['path']} -o curves.png"


def prefixes(trace: Trace) -> list[int]:
    """The tokens at which log-likelihoods are kept, ascending. Reads that column alone, a slab at a time."""
    found: set[int] = set()
    for path in trace.files:
        try:
            with h5py.File(path, "r", locking=False) as file:
                column = file["scores/prefix"]
                for at in range(0, len(column), _SLAB):
                    found.update(np.unique(column[at : at + _SLAB]).tolist())
        except FileNotFoundError as error:
            raise TraceError(f"{trace.path} was finished while being read: look again") from error
        except (KeyError, OSError) as error:
            raise TraceError(f"{path} is damaged ({' '.join(str(error).split())})") from error
    return sorted(found)


def resume_command(attrs: Mapping[str, Any]) -> str | None:
    """The command that goes on with an unfinished run; None if unknown, or of a command that cannot."""
    command = attrs.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return None
    if words[1:2] != ["sweep"]:
        return None
    return shlex.join([*(word for word in words if word not in ("--resume", "--overwrite")), "--resume"])


def images_to_do(attrs: Mapping[str, Any]) -> int | None:
    """How many images the run, or the shard of it, is of; None where that is not written down."""
    images, shard = attrs.get("images"), attrs.get("shard")
    if not isinstance(images, int):
        return None
    share = re.fullmatch(r"(\d+)/(\d+)", shard) if isinstance(shard, str) else None
    if share and int(share[2]):
        return len(range(int(share[1]) - 1, images, int(share[2])))  # every n-th, as sweep.Shard has it
    return images


def print_info(found: Mapping[str, Any], apart: bool = False) -> None:
    """The table for people. apart: an empty line first."""
    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    is_curves = found.get("kind") == "curves"
    rows = curves_rows(found) if is_curves else [*origin_rows(found), ("", " "), *result_rows(found)]
    for name, value in rows:
        if value:
            table.add_row(name, Text(readable(value)))
    if apart:
        console.print()
    console.print(Text(readable(found["path"]), "bold underline"), soft_wrap=True)
    console.print(table)
    if not is_curves and not found["complete"] and found["resume"]:  # unwrapped, to be copied
        console.print(Text.assemble(("go on with ", "bold"), readable(found["resume"])), soft_wrap=True)


def origin_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """How far the run is and where it came from, as (name, text); empty text where nothing is known."""
    attrs = found["provenance"]
    yield "run", _state(found)
    model_hashes = _hash("sha256", attrs, "model_sha256"), _hash("tokenizer", attrs, "tokenizer_sha256")
    yield "model", _joined(_text(attrs.get("model")), _given("method", attrs), *model_hashes)
    dataset = _text(attrs.get("dataset")), _hash("fingerprint", attrs, "dataset_fingerprint")
    yield "data set", _joined(*dataset, count(found["classes"], "class"), _given("shard", attrs))
    settings = _given("δ", attrs, "delta"), _given("K_max", attrs, "k_max"), _given("budget", attrs)
    yield "rule", _joined(_text(attrs.get("rule")), *settings, _given("aggregate", attrs))
    a_pass = f"{attrs['pass_tokens']} of them a call" if "pass_tokens" in attrs else ""
    tokens = _joined(_given("tokens", attrs), a_pass)
    yield "orders", _joined(_text(attrs.get("order_sampler")), _given("seed", attrs), tokens)
    yield "device", _joined(_text(attrs.get("device")), _text(attrs.get("dtype")))
    versions = {key: value for key, value in attrs.items() if key.startswith("version")}
    named = (f"{key[len('version_') :]} {_text(value)}".strip() for key, value in versions.items())
    yield "versions", _joined(*named, _hash("git", attrs, "git_revision"))
    yield "command", _text(attrs.get("command"))
    rest = {key: value for key, value in attrs.items() if key not in _PLACED | versions.keys()}
    yield "also", _joined(*(f"{key} {_text(value)}" for key, value in sorted(rest.items())))


def result_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the run came to, in the same form."""
    answered = found["images"] - found["errors"]
    errors = f"{found['errors']:,} of them failed" if found["errors"] else ""
    yield "images", _joined(amount(found["images"]), errors)
    got = found["accuracy"]
    if got:
        of = f"of {count(got['n'], 'labelled image')} (95 % interval)"
        yield "accuracy", f"{percent_interval(got['value'], got['low'], got['high'])} {of}"
    else:
        yield "accuracy", "unknown: no image has both an answer and a label"
    if answered:
        mean, median, p95 = (found[f"orders_{name}"] for name in ("mean", "median", "p95"))
        yield "orders used", f"mean {mean:.2f}, median {median:g}, 95th percentile {p95:g}"
        if found["passes_mean"] is not None:
            few, all_of_them = (amount(round(found[name], 1)) for name in ("passes_mean", "full_passes"))
            yield "passes", f"{few} an image of {all_of_them}, {amount(round(found['passes'], 1))} in all"
        yield "calls", f"{amount(round(found['calls_mean'], 1))} an image, {found['calls']:,} in all"
        if found["saving"]:
            share = percent(found["token_fraction_mean"])
            full = "all classes on all whole orders"
            less = f"{times(found['saving'])}× less compute than {full} ({share} of it)"
            one = found["full_passes"] == 1 < found["classes"]
            none = f"none: {'one pass answers all classes' if one else 'all classes on all orders'}"
            yield "saving", none if found["saving"] == 1 else less
        stops = (
            f"{stop_words(name) or 'not said'} {n:,} ({percent(n / answered)})"
            for name, n in found["stop"].items()
        )
        yield "stopped", _joined(*stops)
        each = duration(found["seconds"] / answered)
        yield "time", f"{each} an image, {duration(found['seconds'])} added up"
    kept = f"at {', '.join(map(str, found['prefixes']))} tokens" if found["prefixes"] else ""
    yield "kept", _joined(count(found["scores"], "log-likelihood"), kept)
    a_call = f"{found['bytes_per_call']:.1f} bytes a call" if found["bytes_per_call"] else ""
    yield "on disk", _joined(f"{found['bytes'] / 1e6:,.2f} MB", a_call)


def _state(found: Mapping[str, Any]) -> str:
    total, done = images_to_do(found["provenance"]), found["images"]
    of = f" of {total:,}" if total and total != done else ""
    if found["complete"]:
        return f"finished, but has {done:,}{of} images" if of else "finished"
    return f"not finished: {done:,}{of} images"


def _text(value: Any) -> str:
    """A provenance value; a list is what merged shards or a setting of several values have."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _given(name: str, attrs: Mapping[str, Any], key: str = "") -> str:
    text = _text(attrs.get(key or name))
    return f"{name} {text}" if text else ""


def _hash(name: str, attrs: Mapping[str, Any], key: str) -> str:
    """The start of a hash: enough to tell files apart by eye (--json has all of it)."""
    text = re.sub("[0-9a-f]{13,}", lambda long: long[0][:12], _text(attrs.get(key)))
    return f"{name} {text}" if text else ""


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
