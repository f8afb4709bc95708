"""Pictures damaged or made at random, decoded one by one: a picture or one line, in bounded memory and time.

    python examples/fuzz/images.py --count 500 --seed 0

A case is a small picture in one of the formats that are read, with bytes changed, cut off or put in; or one
that is made to take much: wide modes at the limit, long headers, many scans.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from harness import Answer, Tally, in_child
from PIL import Image

from anytime_cls.pixels.decode import ImageError, decode

KINDS = [
    ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}), ("RGB", "PNG", {}),
    ("RGBA", "PNG", {}), ("P", "PNG", {}), ("I;16", "PNG", {}), ("RGB", "WEBP", {}), ("RGBA", "WEBP", {}),
    ("P", "GIF", {}), ("RGB", "TIFF", {}), ("I", "TIFF", {}), ("F", "TIFF", {}), ("I;16", "TIFF", {}),
    ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "BMP", {}), ("RGB", "PPM", {}), ("L", "PPM", {}),
    ("RGB", "JPEG2000", {}), ("RGB", "AVIF", {}),
]  # fmt: skip


def small(rng: random.Random) -> tuple[str, bytes]:
    """A sound picture of up to 200 pixels a side."""
    mode, kind, options = rng.choice([entry for entry in KINDS if entry[1] in Image.SAVE])
    side = rng.choice((1, 8, 33, 200))
    noise = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (side, side, 3), np.uint8)
    image = Image.fromarray(noise)
    image = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"{kind} {mode} {side}", file.getvalue()


def damaged(rng: random.Random) -> tuple[str, bytes]:
    name, whole = small(rng)
    data = bytearray(whole)
    how = rng.choice(("bytes", "bytes", "head", "cut", "more", "twice", "sizes"))
    if how == "cut":
        data = data[: rng.randrange(len(data))]
    elif how == "more":
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice((1, 100, 10_000)))
    elif how == "twice":
        at = rng.randrange(len(data))
        data[at:at] = data[: rng.randrange(len(data))]
    elif how == "sizes":
        at = rng.randrange(min(len(data), 400))
        data[at : at + 4] = struct.pack(
            rng.choice(("<I", ">I")), rng.choice((0, 65535, 1 << 20, (1 << 32) - 1))
        )
    else:
        for _ in range(rng.choice((1, 10, 100))):
            data[rng.randrange(len(data) if how == "bytes" else min(len(data), 200))] = rng.randrange(256)
    return f"{name} {how}", bytes(data)


def png(width: int, height: int, bits: int, colour: int) -> bytes:
    """All of one value, and small on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + width * bits * {0: 1, 2: 3, 4: 2, 6: 4}[colour] // 8)
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def greedy(rng: random.Random) -> tuple[str, bytes]:
    """One that takes as much as it can."""
    share = rng.choice((0.2, 0.49, 0.99, 1.01))
    side = int((178_956_970 * share) ** 0.5)
    how = rng.choice(
        ("PNG", "PPM comment", "PPM blanks", "PPM maximum", "PPM plain", "scans", "TIFF", "JPEG")
    )
    if how == "PNG":
        bits, colour = rng.choice(((8, 2), (8, 6), (16, 0), (16, 2), (16, 6), (8, 4), (1, 0)))
        return f"{how} {bits} bit colour {colour} of {share:.0%}", png(side, side, bits, colour)
    if how.startswith("PPM"):
        filler = b"#" + b"x" * 50_000_000 + b"\n" if how == "PPM comment" else b" " * 50_000_000
        small_side = rng.choice((300, 900, 2_000))
        heads = {
            "PPM comment": b"P6\n" + filler + b"2 2 255\n", "PPM blanks": b"P5" + filler + b"2 2 255\n",
            "PPM maximum": b"P6 %d %d 254\n" % (small_side, small_side),
            "PPM plain": b"P3 %d %d 255\n" % (small_side, small_side),
        }  # fmt: skip
        return f"{how} {small_side}", heads[how] + b"1 " * (small_side**2 * 3)
    file = io.BytesIO()
    if how == "scans":
        Image.new("L", (1000, 1000)).save(file, "JPEG", progressive=True)
        data = file.getvalue()
        at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
        times = rng.choice((10, 90, 20_000))
        return f"JPEG of {times} more scans", data[:end] + data[at:end] * times + data[end:]
    mode = rng.choice(("I", "F", "RGB", "I;16")) if how == "TIFF" else "L"
    side = min(side, 6_000)
    packing = {"compression": "tiff_lzw"} if how == "TIFF" else {}
    Image.new(mode, (side, side)).save(file, how, **packing)
    return f"{how} {mode} {side}", file.getvalue()


def look(path: Path) -> int:
    """What the command does of a picture, in the child: decoded, or one line."""
    try:
        print(decode(path).size)
        return 0
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1


def case(seed: int, number: int, tally: Tally) -> Answer:
    rng = random.Random(f"{seed}/{number}")
    name, data = greedy(rng) if rng.random() < 0.2 else damaged(rng)
    with tempfile.NamedTemporaryFile(suffix=".img") as file:
        file.write(data)
        file.flush()
        del data
        got = in_child(lambda: look(Path(file.name)))
    tally.add(f"{number} ({name})", got)
    return got


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--count", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, help="this case alone")
    given = options.parse_args()
    Image.init()
    tally = Tally(seconds=30, peak=1_600_000_000)
    for number in range(given.count) if given.only is None else [given.only]:
        case(given.seed, number, tally)
    return tally.end("pictures")


if __name__ == "__main__":
    sys.exit(main())
