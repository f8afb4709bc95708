"""README's picture of a race: what `anytime-cls classify` draws in a terminal, as SVG (rich's export).

python examples/figures/race_picture.py examples/bird.jpg -o docs/race.svg
"""

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from anytime_cls import AnytimeClassifier
from anytime_cls_cli.show.live import Frame, picture

WIDTH = 84  # columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("-o", "--out", type=Path, default=Path("race.svg"))
    args = parser.parse_args()
    classifier = AnytimeClassifier.load(args.model)
    frames: dict[int, list] = {}  # by classes left: the race's own moments, not the clock's

    def keep(job) -> None:
        left = int(job.race.alive.sum())
        frames[left] = picture(job, classifier.labels, WIDTH, args.image)

    decision = classifier.classify(args.image, on_update=keep)
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    shown = sorted(frames, reverse=True)
    for left in dict.fromkeys([shown[0], shown[-1]]):  # as it begins to thin out, and as it ends
        console.print(Frame(frames[left]))
        console.print()
    console.print(f"{decision.label} {100 * decision.probability:.1f} %", style="bold", highlight=False)
    svg = console.export_svg(title=f"anytime-cls classify {args.image}", unique_id="race")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # would be fetched
    args.out.write_text(svg, encoding="utf-8")
    print(f"wrote {args.out}: {decision!r}")


if __name__ == "__main__":
    main()
