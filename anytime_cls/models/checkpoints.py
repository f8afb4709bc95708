"""Bare files of weights: what is in one, told from its tensors' names and shapes before any of them is read.

A transformer is RandAR's, under its reference code's names (github.com/ziqipang/RandAR), as `.safetensors` or
as torch.save wrote it: a state dict, or one inside a training checkpoint. A tokenizer is one that
`load.load_vq` reads. No code in a file is ever run: a pickle may hold tensors and plain data only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytime_cls.files import replacing
from anytime_cls.models.card import ModelError
from anytime_cls.models.pickles import unpickled
from anytime_cls.scorers.shapes import expected_shapes, hidden_dim

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
HEAD_DIM = 64  # of every published configuration (L, XL); no tensor's shape shows it
N_TOKENS = 256  # 16 × 16, the reference's block_size: no tensor's shape shows that either
MAX_TOKENS = 1 << 16
NAMES = {"randar": "RandAR", "llamagen": "LlamaGen"}
METADATA = "anytime_cls"  # what `convert` adds to a safetensors file's metadata: JSON
WRAPPERS = ("model", "module", "state_dict", "ema")  # where training checkpoints keep the weights
# torch.compile, DataParallel and FSDP put these before or into the names
_WRAPPED = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# buffers that generation leaves behind; they are no weights
_IGNORED = re.compile(r"freqs_cis|causal_mask|layers\.\d+\.attention\.kv_cache\.\w+")
_HEADER = 1 << 24  # bytes of a safetensors header; one of 1,000 tensors has 0.1 MB
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SHAPE_KEYS = (
    "cls_embedding.embedding_table.weight",
    "tok_embeddings.weight",
    "layers.0.feed_forward.w1.weight",
)


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its shape, and its dtype in safetensors' terms ("F32", "BF16", ...)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Contents:
    """What is in a file. note: for people, which of several copies of weights is meant; else empty."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    note: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A RandAR transformer in a file, none of its weights read.

    keys: the reference's name → the file's; shape: what `shapes.RandARConfig` takes; metadata: what `convert`
    wrote into the file ({"model": {}} for a file from elsewhere); note: as of `Contents`. layout: "randar",
    or "llamagen" for its GPT.
    """

    path: Path
    keys: Mapping[str, str]
    shape: Mapping[str, int]
    metadata: Mapping[str, Any]
    note: str = ""
    layout: str = "randar"

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return sum(math.prod(shape) for shape in expected_shapes(self.shape, self.layout).values())


@dataclass(frozen=True)
class VQ:
    """A VQ tokenizer in a file: which one, codes, pixels a side of a token."""

    kind: str  # "llamagen" or "maskgit"
    vocab_size: int
    stride: int
    note: str = ""


def inspect(
    path: Path, n_head: int | None = None, n_tokens: int | None = None, layout: str = "randar"
) -> Checkpoint:
    """The transformer in a file. n_head, n_tokens: for a file whose shapes do not show them.

    Raises ModelError for a file that is missing, truncated, hostile, or not a whole transformer of RandAR's
    (or, as layout says, of LlamaGen's).
    """
    contents = entries(path)
    try:
        return _inspected(path, contents, n_head, n_tokens, layout)
    except ModelError as error:
        raise ModelError(f"{error}{contents.note and f' ({contents.note})'}") from None


def _inspected(
    path: Path, contents: Contents, n_head: int | None, n_tokens: int | None, layout: str
) -> Checkpoint:
    found = contents.tensors
    keys = {name: key for name, key in plain_names(path, found).items() if not _IGNORED.fullmatch(name)}
    known = {name: found[key] for name, key in keys.items()}
    if not any(name in known for name in _SHAPE_KEYS):
        some = ", ".join(repr(name) for name in sorted(known)[:3]) or "nothing"
        raise ModelError(
            f"{path}: not a {NAMES[layout]} transformer; it holds {some}{', ...' if len(known) > 3 else ''}"
        )
    own = _own_metadata(contents.metadata)
    shape = _shape(
        path, known, n_head or own["model"].get("n_head"), n_tokens or own["model"].get("n_tokens")
    )
    expected = expected_shapes(shape, layout)
    if layout == "randar" and "pos_instruct_embeddings" not in known and set(known) <= set(expected):
        raise ModelError(
            f"{path}: lacks the tensor 'pos_instruct_embeddings', as LlamaGen's GPT does: if it is one, "
            f"name it llamagen:{path}"
        )
    for name in (*expected, *sorted(known.keys() - expected.keys())):
        if name not in known:
            raise ModelError(
                f"{path}: lacks the tensor {name!r}; the file is incomplete, or of another model"
            )
        if name not in expected:
            raise ModelError(
                f"{path}: {name!r} is no part of a {NAMES[layout]} transformer; it is another model's file"
            )
        if known[name].shape != expected[name]:
            raise ModelError(
                f"{path}: {name} has shape {list(known[name].shape)} where {NAMES[layout]} has "
                f"{list(expected[name])}"
            )
        if known[name].dtype not in _FLOATS:
            raise ModelError(
                f"{path}: {name} is stored as {known[name].dtype}; expected floating point weights"
            )
    return Checkpoint(path, {name: keys[name] for name in expected}, shape, own, contents.note, layout)


def _shape(path: Path, known: Mapping[str, Entry], n_head: Any, n_tokens: Any) -> dict[str, int]:
    """RandARConfig's fields, from the tensors that show them."""
    for name in _SHAPE_KEYS:
        if name not in known:
            raise ModelError(
                f"{path}: lacks the tensor {name!r}; the file is incomplete, or of another model"
            )
        if len(known[name].shape) != 2 or 0 in known[name].shape:
            raise ModelError(f"{path}: {name} has shape {list(known[name].shape)}, expected a matrix")
    (rows, dim), (vocab_size, _), (hidden, _) = (known[name].shape for name in _SHAPE_KEYS)
    if rows < 3 or rows == 1000:  # 1,000 classes are 1,001 rows
        raise ModelError(f"{path}: the class embedding has {rows} rows, and none for the null class")
    n_head = dim // HEAD_DIM if n_head is None else n_head
    if not isinstance(n_head, int) or n_head < 1 or dim % n_head or dim // n_head % 4:
        raise ModelError(
            f"{path}: width {dim} is not made of {n_head} heads; 'models convert --heads' says how many"
        )
    n_tokens = N_TOKENS if n_tokens is None else n_tokens
    if (
        not isinstance(n_tokens, int)
        or not 1 <= n_tokens <= MAX_TOKENS
        or math.isqrt(n_tokens) ** 2 != n_tokens
    ):
        raise ModelError(f"{path}: {n_tokens} tokens an image are no square grid")
    for multiple_of in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        if hidden == hidden_dim(dim, multiple_of):
            break
    else:
        raise ModelError(
            f"{path}: a SwiGLU of {hidden} for width {dim}, where RandAR has {hidden_dim(dim, 256)}"
        )
    layers = {name.split(".")[1] for name in known if re.match(r"layers\.\d+\.", name)}
    return {
        "dim": dim, "n_layer": len(layers), "n_head": n_head, "vocab_size": vocab_size,
        "n_tokens": n_tokens, "n_classes": rows - 1, "multiple_of": multiple_of,
    }  # fmt: skip


def inspect_tokenizer(path: Path) -> VQ:
    """The VQ tokenizer in a file. Raises ModelError if there is none, or the file cannot be read."""
    contents = entries(path, ("ema", "model", "state_dict"))  # as load_vq
    found = contents.tensors
    for kind, levels in (("maskgit", "encoder.down."), ("llamagen", "encoder.conv_blocks.")):
        n_levels = len({name.split(".")[2] for name in found if name.startswith(levels)})
        codes = found.get("quantize.embedding.weight")
        if n_levels and codes and len(codes.shape) == 2:
            return VQ(kind, codes.shape[0], 1 << (n_levels - 1), contents.note)
    raise ModelError(f"{path}: neither LlamaGen's VQ-16 nor MaskGIT's VQGAN is in it")


def read_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights under the reference's names, as stored, mapped from the file where that can be.

    Raises ModelError if they are not all finite numbers, or the file is no longer what was inspected.
    """
    return read_tensors(checkpoint.path, checkpoint.keys)


def read_tensors(
    path: Path, keys: Mapping[str, str], wrappers: Iterable[str] = WRAPPERS
) -> dict[str, Tensor]:
    """Tensors of a file as stored, under other names.

    keys: our names → the file's; wrappers: as `entries` takes them. Raises
    ModelError if they are not all finite numbers, or are not there.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: Mapping[str, Tensor] = load_file(path)
        else:
            tensors, _ = _load_pickle(path, wrappers)
        state = {name: tensors[key] for name, key in keys.items()}
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: cannot be read ({_first_line(error)})") from None
    check_finite(path, state)
    return state


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises ModelError, naming the first tensor with a number that is not finite."""
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: {name} holds numbers that are not finite; the file is damaged")


def write_safetensors(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Tensors into a safetensors file, whole or not at all. Raises OSError if it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask says; safetensors makes it private
        try:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            save_file(tensors, temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise OSError(errno.EIO, _first_line(error), str(path)) from None
        temporary.chmod(mode)


def entries(path: Path, wrappers: Iterable[str] = WRAPPERS) -> Contents:
    """The tensors in a file, and its metadata; none is read. Raises ModelError if it is no file of weights.

    wrappers: under which names a training checkpoint may keep them, the first that is there.
    """
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path}: not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _safetensors_entries(path)
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    tensors, note = _load_pickle(path, wrappers)
    # a tensor of stride 0 may claim a size it does not store, and would take that memory once copied
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > path.stat().st_size:
        raise ModelError(f"{path}: its tensors claim to be larger than the file; not a weights file")
    found = {}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        found[name] = Entry(tuple(tensor.shape), names.get(dtype, dtype))
    return Contents(found, {}, note)


def _safetensors_entries(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as head:
            if int.from_bytes(head.read(8), "little") > _HEADER:
                raise ValueError(f"a header of over {_HEADER:,} bytes")
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            found = {
                name: Entry(tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()
            }
            return Contents(found, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: truncated, or not a safetensors file ({_first_line(error)}); get it again"
        ) from None


def _load_pickle(path: Path, wrappers: Iterable[str] = WRAPPERS) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file of torch.save's, and a note where that is one of several."""
    import torch

    def tensors_of(thing: Any) -> dict[str, Tensor]:
        items = thing.items() if isinstance(thing, dict) else ()
        return {
            str(name): value
            for name, value in items
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }

    loaded, note = unpickled(path), ""
    if isinstance(loaded, dict):
        there = [wrapper for wrapper in wrappers if isinstance(loaded.get(wrapper), dict)]
        others = [repr(wrapper) for wrapper in there[1:] if tensors_of(loaded[wrapper])]
        others += ["tensors beside it"] if there and tensors_of(loaded) else []
        if others:
            note = f"its weights are those under {there[0]!r}; not read: {', '.join(others)}"
        tensors = tensors_of(loaded[there[0]] if there else loaded)
        if tensors:
            return tensors, note
    raise ModelError(
        f"{path}: holds no state dict; expected tensors by name, bare or under 'model'{note and f' ({note})'}"
    )


def plain_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The reference's name → the file's, which wrappers of the model may have lengthened."""
    plain: dict[str, str] = {}
    for name in names:
        short = ".".join(part for part in name.split(".") if part not in _WRAPPED)
        if plain.setdefault(short, name) != name:
            raise ModelError(f"{path}: both {plain[short]!r} and {name!r} would be {short!r}")
    return plain


def _own_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What `convert` wrote, and an empty "model" if it did not (or someone else used the key)."""
    own: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        own = json.loads(metadata.get(METADATA, "{}"))
    own = own if isinstance(own, dict) else {}
    return own if isinstance(own.get("model"), dict) else {**own, "model": {}}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
