"""The default picture: few names, each at its curve, on axes that can be read, whatever the files hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from curve_data import K_MAX, LABELS, curves, fixed_run, run, write_trace
from PIL import Image

from anytime_cls.curves.analysis import analyse
from anytime_cls.curves.full import full_curves
from anytime_cls.curves.leading import FIXED, MOST, RACE, RIVAL, leading
from anytime_cls.curves.stopped import stopped
from anytime_cls.curves.study import join
from anytime_cls.pictures.lead import LEAST_X, LEAST_Y, lead_figure, lead_looks
from anytime_cls.pictures.pgf import latex, pgf_text
from anytime_cls.pictures.style import Format
from anytime_cls.race.fitted import Recommended
from anytime_cls.replay.progress import Progress
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

N = 120
TRUTH = np.arange(N) % len(LABELS)


def answers(right: int):
    return np.where(np.arange(N) < right, TRUTH, (TRUTH + 1) % len(LABELS))


def fixed(scale: int = 1, **more):
    return [fixed_run(answers(r), k, **more) for k, r in ((1, 80), (2, 90), (4, 96), (8, 96))]


def racing(rule: str, name: str = "", **more):
    points = ((84, 8, 0.5), (96, 10, 0.05), (96, 16, 1e-3))
    named = {"rule": rule, "curve": name or rule}
    return [run(answers(r), p, knob_value=d, **(named | more)) for r, p, d in points]


def live(**more):
    named = {"rule": "calibrated", "curve": "calibrated", "source": "live", "knob_value": 0.01}
    return run(answers(95), 9, **(named | more))


def study(*files):
    return join([(f"{n}.h5", file) for n, file in enumerate(files)])


def one_live():
    return study(curves([live()], TRUTH))


def every_rule():
    rules = [r for number in range(23) for r in racing("paired", f"rule {number}")]
    return study(curves([*fixed(), *racing("calibrated"), *rules], TRUTH, full=answers(96)))


def two_models():
    files = [curves([*fixed(), *racing("calibrated"), *racing("value")], TRUTH, model=name) for name in "ab"]
    return study(*files)


def three_images():
    few = [run(TRUTH[:3], 9, rule="calibrated", curve="calibrated", source="live")]
    return study(curves(few, TRUTH[:3]))


def free_table():
    table = run(answers(97), 0.001, 0, rule="table", curve="table", knob="k_max", knob_value=8.0)
    return study(curves([*fixed(), *racing("calibrated"), table], TRUTH))


STUDIES = {f.__name__: f for f in (one_live, every_rule, two_models, three_images, free_table)}


@pytest.mark.parametrize("width", [2.2, 3.5, 400 / 96, 7.0])
@pytest.mark.parametrize("name", STUDIES)
def test_few_names_each_in_its_place(name, width):
    """No more than `MOST` names, none over another, a point or a bar, nothing past the edge; sane ranges."""
    analysis = analyse(STUDIES[name](), resamples=60)
    sooner = {}
    if name == "one_live":
        spent = np.tile(np.array([3.0, 6, 9]), (N, 1))
        leader = np.stack([answers(r) for r in (50, 80, 95)], axis=1)
        sooner = {"calibrated (live)": stopped(Progress(leader, spent, np.ones((N, 3))), TRUTH, 1.0)}
    figure = lead_figure(analysis, form=Format(width), stopped=sooner)
    figure.canvas.draw()
    (ax,) = figure.axes
    names = [t for t in ax.texts if t.get_bbox_patch() is not None]
    assert 1 <= len(names) <= MOST and not figure.legends
    boxes = [t.get_window_extent() for t in names]
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b), [t.get_text() for t in names]
    marked = [lead.point for lead in leading(analysis)]
    for at in marked:
        point = ax.transData.transform((analysis.x.value[at], analysis.y.value[at]))
        assert not any(box.contains(*point) for box in boxes)
    for text in [*ax.texts, *figure.texts, ax.xaxis.label, ax.yaxis.label]:
        if text.get_text():
            extent = text.get_window_extent()
            assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1, text.get_text()
            assert figure.bbox.y0 <= extent.y0 and extent.y1 <= figure.bbox.y1, text.get_text()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert right / left > LEAST_X - 1e-6 and top - bottom >= LEAST_Y and bottom > -0.1 and top < 1.6
    ticks = [t for t in ax.get_yticks() if bottom <= t <= top]
    assert len(ticks) >= 3 and all(abs(100 * t - round(100 * t, 1)) < 1e-6 for t in ticks)
    bars = [c for c in ax.containers if type(c).__name__ == "ErrorbarContainer"]
    races = sum(lead.role == RACE for lead in leading(analysis))
    assert len(bars) >= races >= 1


def test_who_is_named():
    leads = leading(analyse(every_rule(), resamples=20))
    assert [lead.role for lead in leads] == [RACE, FIXED]  # the rival is a fixed K of the same curve
    assert leads[0].series == "calibrated" and leads[1].series == "fixed"
    leads = leading(analyse(two_models(), resamples=20))
    assert [(lead.name, lead.model) for lead in leads[:4]] == [
        ("a: race", 0), ("b: race", 1), ("a: fixed K", 0), ("b: fixed K", 1),
    ]  # fmt: skip
    assert len(leads) < MOST
    table = next(lead for lead in leading(analyse(free_table(), resamples=20)) if lead.role == RIVAL)
    assert table.name == "table alone"  # as right as the race, for nearly nothing


def test_a_recorded_race_is_the_point_on_its_replayed_curve():
    analysis = analyse(study(curves([live(), *fixed(), *racing("calibrated")], TRUTH)), resamples=20)
    race = leading(analysis)[0]
    assert race.series == "calibrated" and analysis.study.runs[race.point].live
    assert not any(lead.series == "calibrated (live)" for lead in leading(analysis))
    assert analysis.focus == race.point


def test_a_replayed_race_is_marked_as_its_model_is_raced():
    files = curves([*fixed(), *racing("paired"), *racing("calibrated", k_max=K_MAX)], TRUTH)
    for delta in (0.5, 1e-3):
        race = Recommended("calibrated", delta, "uniform", K_MAX)
        analysis = analyse(study(files), resamples=20, recommended={"tiny": race})
        lead = leading(analysis)[0]
        assert analysis.study.runs[lead.point].settings["knob_value"] == delta
        assert analysis.default["calibrated"] == lead.point == analysis.focus


def test_nothing_looks_like_another():
    for made in STUDIES.values():
        looks = lead_looks(leading(analyse(made(), resamples=20))).values()
        assert (
            len({(o.colour, o.marker) for o in looks})
            == len(looks)
            == len({(o.colour, str(o.dash)) for o in looks})
        )


def test_races_stopped_sooner_are_what_they_answered_then():
    leader = np.array([[1, 0, 0], [2, 2, 2], [0, 3, 3]])
    spent = np.array([[1.0, 2, 4], [1, 1, 1], [1, 3, 3]])
    got = stopped(Progress(leader, spent, np.ones((3, 3))), np.array([0, 2, 3]), 2.0, points=200)
    assert got.cost[0] == 2 and got.share[0] == pytest.approx(1 / 3)  # each has spent one pass
    assert got.cost[-1] == pytest.approx(2 * 8 / 3) and got.share[-1] == 1
    assert list(got.cost) == sorted(set(got.cost))
    at = np.searchsorted(got.cost, 2 * 4 / 3 - 1e-9)  # 2, 1 and 1 passes: the first race has its answer
    assert got.cost[at] == pytest.approx(8 / 3) and got.share[at] == pytest.approx(2 / 3)


# --- for a paper -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lead")
    write_trace(path / "full.h5")
    write_trace(path / "paired.h5", "paired")
    return path


def plotted(folder: Path, *arguments: str) -> None:
    os.chdir(folder)
    assert main(["plot", *arguments, "--bootstrap", "50"]) == 0


def test_for_a_paper_text_is_text_and_the_numbers_are_beside(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    plotted(folder, "full.h5", "-o", "fig.svg", "--style", "paper", "--width", "3.3in")
    said = capsys.readouterr().out
    root = ElementTree.parse("fig.svg").getroot()
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(3.3 * 72, abs=0.01)
    words = " ".join("".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "passes per image" in words and "race" in words and "fixed K" in words
    table = Path("fig.md").read_text()
    caption, _, head, _, *rows = table.strip().splitlines()
    assert caption.startswith("Accuracy against passes per image (model tiny, data made-up).")
    assert caption in said and "95 % intervals" in caption and "--all" not in caption
    assert len({line.count("|") for line in [head, *rows]}) == 1 and rows[0].startswith("| race | δ = 0.05 |")
    source = Path("fig.tex").read_text()
    assert "\\includegraphics[width=3.3in]{fig.svg}" in source and "\\toprule" in source
    share = re.search(r"(\d+\.\d) \[", rows[0])[1]
    assert re.search(rf"race & .*{share} \[", source)  # the same numbers
    assert not re.search(r"(?<!\\)[%&_#](?=[^\n]*\})", source.split("caption{")[1].split("}\n")[0])


def test_a_pgf_picture_is_made_without_latex(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    plotted(folder, "full.h5", "-o", "fig.pgf", "--style", "paper")
    source = (folder / "fig.pgf").read_text()
    assert source.count("\\begin{pgfscope}") == source.count("\\end{pgfscope}") > 20
    assert "\\begin{pgfpicture}" in source and "race" in source and "δ" not in source
    assert latex("50 % of a_b, δ ≤ 1×") == (
        r"50 \% of a\_b, \ensuremath{\delta} \ensuremath{\leq} 1\ensuremath{\times}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_takes_the_picture_and_the_table(folder, tmp_path):
    plotted(folder, "full.h5", "paired.h5", "-o", str(tmp_path / "fig.pgf"), "--style", "paper")
    document = r"\documentclass{article}\usepackage{pgf,booktabs}\begin{document}\input{fig}\end{document}"
    (tmp_path / "all.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "not found" in done.stdout and ".sty" in done.stdout:
        pytest.skip("this LaTeX has no pgf or booktabs")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_widths_are_what_they_say(folder, capsys):
    for width, pixels in (("400px", 400), ("8.4cm", 992), ("3.3in", 990)):
        plotted(folder, "full.h5", "-o", "w.png", "-q", "--width", width)
        with Image.open(folder / "w.png") as image:
            assert abs(image.width - pixels) <= 1
    for width, why in (("wide", "takes a length such as"), ("1in", "must be 2 to 20 inches")):
        assert main(["plot", "full.h5", "-o", "w.png", "--width", width]) == 2
        assert why in capsys.readouterr().err


def test_all_names_every_curve(folder):
    with Trace.open(folder / "full.h5") as trace:
        analysis = analyse(join([("full.h5", full_curves(trace))]), resamples=20)
    assert len(leading(analysis)) < len(analysis.study.series)
    plotted(folder, "full.h5", "-o", "few.svg", "-q", "--style", "paper")
    plotted(folder, "full.h5", "-o", "all.svg", "-q", "--style", "paper", "--all")
    few, every = ((folder / name).read_text() for name in ("few.svg", "all.svg"))
    for series in analysis.study.series:
        assert f">{series}<" in every
    assert ">halving<" not in few and ">race<" in few


def test_pgf_of_equal_figures_is_equal():
    first, second = (pgf_text(lead_figure(analyse(free_table(), resamples=20))) for _ in range(2))
    assert first == second
