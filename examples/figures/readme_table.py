"""README's table: a row a model, written between its two marks.

    python examples/figures/readme_table.py cifar10=whole.h5,short.h5,race.h5 tiny-imagenet=...

Of each model, traces of the same images: full ones (`sweep --rule fixed`: whole orders, and the race's own)
and the default race (`sweep` as it is). What is as right for the least compute is found among all fixed
K and all screens that the files hold.
"""

import argparse
from pathlib import Path

from anytime_cls.curves.analysis import Analysis, analyse
from anytime_cls.curves.files import open_files
from anytime_cls.curves.study import join
from anytime_cls.pictures.wording import amount, baseline_words, times
from anytime_cls.stats.intervals import wilson

BEGIN, END = "<!-- readme_table.py -->", "<!-- end -->"
HEAD = (
    "model",
    "images",
    "all orders of every class: right",
    "the race: right",
    "passes, of all",
    "the cheapest as right",
)


def right(analysis: Analysis, index: int) -> str:
    share, n = float(analysis.y.value[index]), len(analysis.study.ids)
    low, high = wilson(share, n)
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def row(name: str, files: list[str]) -> list[str]:
    material = open_files(files)
    try:
        analysis = analyse(join(material.files))
    finally:
        material.close()
    race, all_orders = analysis.focus, analysis.reference
    everything = analysis.all_orders(race) if all_orders is None else float(analysis.x.value[all_orders])
    got = analysis.savings[race]
    rival = "not measured"
    if got is not None:
        rival = f"{baseline_words(analysis, got.index)}: {times(got.ratio)}×"
        rival += f" [{times(got.low)}, {times(got.high)}]"
        rival += " the race's compute" if got.reached else " (less right)"
    return [
        f"`{name}`", f"{len(analysis.study.ids):,}",
        "not measured" if all_orders is None else right(analysis, all_orders), right(analysis, race),
        f"{amount(float(analysis.x.value[race]))} of {amount(everything or float('nan'))}", rival,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="NAME=FILE,FILE,...")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    args = parser.parse_args()
    named = [text.partition("=") for text in args.rows]
    lines = [HEAD, ["---"] * len(HEAD), *(row(name, files.split(",")) for name, _, files in named)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = args.readme.read_text("utf-8")
    if BEGIN not in text or END not in text:
        parser.error(f"{args.readme} has no {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    args.readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
