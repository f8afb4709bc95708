"""A folder of shifted pictures: to train on, to look at, or for another tool.

    python examples/shifted_folder.py DATA/cifar10/train shortcut/train --shift patch:0.95
    python examples/shifted_folder.py DATA/cifar10/test shortcut/test --shift patch:0.95

makes a training set in which a coloured patch says the class in 95 of 100 pictures, so that

    anytime-cls train shortcut -o marked/
    anytime-cls compare DATA/cifar10/test --models marked/ --shift clean,patch:1,patch:0 -o marks

says who falls for it: accuracy where every patch is right, and where every one is wrong. docs/shifts.md has
the names.
"""

import argparse
from pathlib import Path

from PIL import Image

from anytime_cls.datasets.names import class_names, open_dataset
from anytime_cls.models.card import ModelCard

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("data", help="a folder of class folders, or a named data set")
parser.add_argument("out", type=Path, help="a new folder")
parser.add_argument("--shift", required=True, help="NAME or NAME:HOW")
parser.add_argument("--size", type=int, default=32, help="pixels a side of the centre crop")
parser.add_argument("--limit", type=int, help="only so many images, of every class alike")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

labels = class_names(args.data)
card = ModelCard("none", Path("."), {"labels": labels, "image_size": args.size})
data = open_dataset(args.data, card, limit=args.limit, seed=args.seed, shift=args.shift)
for sample in data.samples:
    path = args.out / labels[sample.label] / Path(sample.id).with_suffix(".png").name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:  # of two of a name in one class, the second is refused
        Image.fromarray(sample.load()).save(file, "PNG")
print(f"{len(data.samples)} pictures of {data.name} in {args.out}")
