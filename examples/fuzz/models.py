"""Model folders and checkpoints damaged at random: every one is raced as it is, or refused in one line.

    python examples/fuzz/models.py --count 300 --seed 0

A case is the embedded model `cifar10` with its model.json or its weights damaged, or a file as torch.save
writes them. `models ls`, `classify` and `models convert` are asked about it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from harness import Tally, answer

from anytime_cls.models.zoo import EMBEDDED

ROOT = Path(__file__).parents[2]
RAW = "@raw:"  # what stands behind it goes into the file as it is
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 10**9, 1 << 31, 1 << 40, 1 << 63, 10**30, 1e9, 1e308,
    -1e308, 1e-308, math.nan, math.inf, -math.inf, "", "x", "1", "NaN", "a\0b", "\u202e", "\n\n",
    "x" * 100_000, [], {}, [[]], [1], [1.5], ["a"], [None], {"a": 1}, {"": {}},
    list(range(10_000)), [["a"] * 100] * 100,
    RAW + "1e999", RAW + "-1e999", RAW + "0" * 50 + "1", RAW + "1" * 5000, RAW + "0." + "1" * 5000,
    RAW + '"\\ud800"', RAW + "[" * 200 + "]" * 200, RAW + "[" * 100_000 + "]" * 100_000,
    RAW + '{"a":' * 100_000 + "1" + "}" * 100_000, RAW + "[" * 100_000, RAW + "nul", RAW + "",
]  # fmt: skip


def damaged_json(rng: random.Random, text: str) -> tuple[str, bytes]:
    """(what was done, the new text)."""
    kind = rng.random()
    if kind < 0.12:
        data = bytearray(text.encode())
        for _ in range(rng.choice((1, 3, 100))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return "bytes of model.json", bytes(data)
    if kind < 0.2:
        return "model.json cut", text.encode()[: rng.randrange(len(text))]
    if kind < 0.24:
        whole = rng.choice([b"\xff\xfe" + text.encode("utf-16-le"), b"\xef\xbb\xbf" + text.encode(),
                            b"", b"\0" * 1000, text.encode() * 2, b" " * 10_000_000 + text.encode(),
                            *(str(plain(value)).encode() for value in VALUES)])  # fmt: skip
        return "another model.json", whole
    fields = json.loads(text)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place: Any = fields
        key = rng.choice(list(place))
        path = str(key)
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            path += f".{key}"
        how = rng.random()
        if how < 0.15 and isinstance(place, dict):
            del place[key]
            done.append(f"no {path}")
        elif how < 0.25 and isinstance(place[key], list):
            place[key] = place[key] * rng.choice((2, 1000))
            done.append(f"longer {path}")
        elif how < 0.35 and isinstance(place[key], int | float):
            place[key] = place[key] * rng.choice((-1, 2, 10, 1e6, 1e-6, 0.999))
            done.append(f"{path} scaled")
        else:
            place[key] = rng.choice(VALUES)
            done.append(f"{path}={str(place[key])[:20]!r}")
        if not fields:
            break
    return ", ".join(done), written(fields)


def plain(value: Any) -> str:
    return value.removeprefix(RAW) if isinstance(value, str) and value.startswith(RAW) else json.dumps(value)


def written(fields: Any) -> bytes:
    text = json.dumps(fields)
    for value in VALUES:
        if isinstance(value, str) and value.startswith(RAW):
            text = text.replace(json.dumps(value), value.removeprefix(RAW))
    return text.encode()


def damaged_weights(rng: random.Random, path: Path) -> str:
    """Damages a safetensors file in place."""
    from safetensors.numpy import load_file, save_file

    data = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "header", "cut", "longer", "length", "not finite", "huge", "drop", "more",
                       "empty", "shape", "type"))  # fmt: skip
    size = int.from_bytes(data[:8], "little")
    if kind == "flip":
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "header":
        for _ in range(rng.choice((1, 5))):
            data[8 + rng.randrange(size)] = rng.randrange(32, 127)
    elif kind == "cut":
        data = data[: rng.choice((0, 4, 8, 100, rng.randrange(len(data))))]
    elif kind == "longer":
        data += bytes(rng.choice((1, 4, 1000)))
    elif kind == "length":
        data[:8] = rng.choice((0, 1, size - 1, size + 1, 1 << 31, 1 << 40, (1 << 64) - 1)).to_bytes(
            8, "little"
        )
    elif kind == "empty":
        data = bytearray((2).to_bytes(8, "little") + b"{}")
    else:
        tensors = {name: value.copy() for name, value in load_file(path).items()}
        name = rng.choice(sorted(tensors))
        if kind == "not finite" and tensors[name].dtype.kind == "f" and tensors[name].size:
            tensors[name].flat[rng.randrange(tensors[name].size)] = rng.choice(
                (math.nan, math.inf, -math.inf)
            )
        elif kind == "huge" and tensors[name].dtype.kind == "f":
            tensors[name][...] = 6e4
        elif kind == "more":
            tensors[rng.choice(("x", "", "é\n", name + ".weight"))] = tensors[name]
        elif kind == "shape":
            tensors[name] = tensors[name].reshape(-1)
        elif kind == "type":
            tensors[name] = tensors[name].astype(rng.choice(("i8", "f8", "u1", "?")))
        else:
            del tensors[name]
        kind += f" {name}"
        path.unlink()
        save_file(tensors, path)
        return kind
    path.unlink()
    path.write_bytes(data)
    return kind


def pickled(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """A file of torch.save's, or what looks like one."""
    import torch

    path = folder / f"model{rng.choice(('.pt', '.pth', '.bin', '.ckpt'))}"
    kind = rng.choice(("bomb", "many members", "many storages", "code", "claims", "list", "nested", "cut",
                       "old", "names", "sparse", "bytes", "two copies", "stored bomb"))  # fmt: skip
    small = {"tok_embeddings.weight": torch.zeros(8, 64)}
    if kind in ("bomb", "many members", "stored bomb"):
        packed = zipfile.ZIP_STORED if kind == "many members" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", packed) as archive:
            archive.writestr("model/data.pkl", b"\x80\x02}q\x00.")
            archive.writestr("model/version", b"3\n")
            for i in range(20_000 if kind == "many members" else 2):
                archive.writestr(f"model/data/{i}", b"\0" * (8 if kind == "many members" else 100_000_000))
        if kind == "stored bomb":  # says that it is not compressed
            data = path.read_bytes().replace(b"PK\x01\x02\x14\x00\x14\x00\x00\x00\x08\x00",
                                             b"PK\x01\x02\x14\x00\x14\x00\x00\x00\x00\x00")  # fmt: skip
            path.write_bytes(data)
    elif kind == "many storages":
        torch.save({f"layers.{i}.x": torch.zeros(1) for i in range(rng.choice((1000, 30_000)))}, path)
    elif kind == "code":

        class Run:
            def __reduce__(self) -> Any:
                return os.system, ("touch /tmp/anytime-cls-fuzz-ran",)

        torch.save({"model": small, "x": Run()}, path)
    elif kind == "claims":
        torch.save({"tok_embeddings.weight": torch.zeros(1).expand(1 << 16, 1 << 16)}, path)
    elif kind == "nested":
        deep: Any = small
        for _ in range(rng.choice((10, 200))):
            deep = {"model": deep}
        torch.save(deep, path)
    elif kind == "cut":
        torch.save(small, path)
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "bytes":
        torch.save(small, path)
        data = bytearray(path.read_bytes())
        for _ in range(10):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    else:
        what = {
            "list": [1, 2, 3], "old": small, "names": {"\n\x1b[31m": torch.zeros(1), 3: torch.zeros(2)},
            "sparse": {"tok_embeddings.weight": torch.eye(8).to_sparse()},
            "two copies": {"model": small, "ema": small},
        }[kind]  # fmt: skip
        torch.save(what, path, _use_new_zipfile_serialization=kind != "old")
    return kind, path


def finite(out: str) -> str:
    """What is wrong with the answers of `classify --json`, else nothing."""
    for line in out.splitlines():
        row = json.loads(line)
        numbers = [entry["probability"] for entry in row.get("top", ())] or [0.5]
        if not all(isinstance(p, float | int) and 0 <= p <= 1 + 1e-6 for p in numbers):
            return f"probabilities {numbers}"
    return ""


def case(seed: int, number: int, folder: Path, tally: Tally) -> None:
    rng = random.Random(f"{seed}/{number}")
    model = folder / "model"
    if rng.random() < 0.15:
        done, path = pickled(rng, folder)
    else:
        shutil.copytree(EMBEDDED / "cifar10", model)
        path = model
        if rng.random() < 0.7:
            done, data = damaged_json(rng, (model / "model.json").read_text(encoding="utf-8"))
            (model / "model.json").write_bytes(data)
        else:
            name = rng.choice(("transformer", "tokenizer")) + ".safetensors"
            done = f"{name}: {damaged_weights(rng, model / name)}"
            if rng.random() < 0.8:  # else the hash says so
                fields = json.loads((model / "model.json").read_text(encoding="utf-8"))
                fields["sha256"][name] = hashlib.sha256((model / name).read_bytes()).hexdigest()
                (model / "model.json").write_text(json.dumps(fields), encoding="utf-8")
    name = f"{number} ({done})"
    photo = str(ROOT / "examples" / "cat.jpg")
    got = answer(["classify", photo, "--model", str(path), "--budget", "12passes", "--json", "-q"])
    tally.add(f"{name} classify", got, fault=finite(got.out) if got.code == 0 else "")
    tally.add(f"{name} ls", answer(["models", "ls", str(path), "--json"]))
    if path.suffix:
        tally.add(f"{name} convert", answer(["models", "convert", str(path), str(folder / "out")]))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, help="this case alone")
    given = options.parse_args()
    import torch

    import anytime_cls.classifier
    import anytime_cls.models.convert  # noqa: F401

    torch.set_num_threads(1)
    tally = Tally(seconds=20, peak=1 << 30)
    for number in range(given.count) if given.only is None else [given.only]:
        with tempfile.TemporaryDirectory() as folder:
            case(given.seed, number, Path(folder), tally)
    return tally.end(f"commands on {given.count} damaged models")


if __name__ == "__main__":
    sys.exit(main())
