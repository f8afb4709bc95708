"""Pictures: files that are whole, the same every time, and show what the numbers say; the plot command."""

import csv
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from curve_data import LABELS, curves, fixed_run, run, write_trace
from PIL import Image

from anytime_cls.curves.analysis import analyse
from anytime_cls.curves.file import write_curves
from anytime_cls.curves.files import Material
from anytime_cls.curves.full import full_curves
from anytime_cls.curves.study import join
from anytime_cls.pictures import draw as album
from anytime_cls.pictures import figures as plots
from anytime_cls.pictures import style
from anytime_cls.pictures.pareto import pareto_figure
from anytime_cls.stats.reliability import reliability
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

N = 120
TRUTH = np.arange(N) % len(LABELS)


def answers(right: int):
    return np.where(np.arange(N) < right, TRUTH, (TRUTH + 1) % len(LABELS))


@pytest.fixture
def analysis():
    fixed = [fixed_run(answers(r), k) for k, r in ((1, 80), (2, 90), (4, 96), (8, 96))]
    racing = [run(answers(r), p, knob_value=d) for r, p, d in ((84, 8, 0.5), (96, 10, 0.05), (96, 16, 1e-3))]
    marginal = [run(answers(90), 30, rule="marginal", curve="marginal")]
    return analyse(
        join([("a.h5", curves([*racing, *fixed, *marginal], TRUTH, full=answers(96)))]), resamples=100
    )


def texts(figure) -> list[str]:
    found = [text.get_text() for ax in figure.axes for text in ax.texts] + [
        t.get_text() for t in figure.texts
    ]
    return [text for text in found if text]


@pytest.mark.parametrize("bands", ["paired", "absolute", "none"])
def test_pareto_shows_every_point_the_front_and_the_saving(analysis, bands):
    figure = pareto_figure(analysis, "A title", bands)
    (ax,) = figure.axes
    shown = np.concatenate([c.get_offsets() for c in ax.collections if hasattr(c, "get_sizes")])
    for point in zip(analysis.x.value, analysis.y.value, strict=True):
        assert (np.abs(shown - point).max(axis=1) < 1e-12).any()
    steps = next(line for line in ax.lines if line.get_label() == "Pareto front")
    assert steps.get_drawstyle() == "steps-post" and steps.get_xdata()[0] == 6
    assert ax.get_xscale() == "log"
    said = "\n".join(texts(figure))
    assert "fewer passes at 80.0 %" in said and "2.4× [" in said
    assert "than K = 4 (4.8× fewer than K = 8)" in said
    assert "A title" in said
    bands_drawn = [
        c for c in ax.collections if type(c).__name__ in ("FillBetweenPolyCollection", "PolyCollection")
    ]
    assert len(bands_drawn) == (0 if bands == "none" else 2)  # of the two curves; marginal is a point
    bottom, top = ax.get_ylim()
    for drawn in bands_drawn:  # within the picture
        heights = drawn.get_paths()[0].vertices[:, 1]
        assert bottom < heights.min() and heights.max() < top


def test_nothing_is_written_over_anything(analysis):
    figure = pareto_figure(analysis, "A title")
    figure.canvas.draw()
    (ax,) = figure.axes
    box = next(t for t in ax.texts if "fewer" in t.get_text()).get_window_extent()
    points = ax.transData.transform(np.stack([analysis.x.value, analysis.y.value], axis=1))
    assert not any(box.contains(*point) for point in points)
    labels = [
        t for t in ax.texts if t.get_text() and t.get_text()[0] in "K248" and "fewer" not in t.get_text()
    ]
    assert len(labels) == 4 and not any(box.overlaps(t.get_window_extent()) for t in labels)
    whole = figure.bbox
    for text in [*ax.texts, *figure.texts, *figure.legends[0].texts, ax.xaxis.label, ax.yaxis.label]:
        if text.get_text():
            extent = text.get_window_extent()
            assert whole.x0 <= extent.x0 and extent.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= extent.y0 and extent.y1 <= whole.y1, text.get_text()


def test_series_differ_without_colour(analysis):
    looks = list(style.looks(analysis).values())
    assert (
        len({(look.marker, str(look.dash)) for look in looks}) == len(looks) == len({o.colour for o in looks})
    )


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_figures_are_equal_files(analysis, tmp_path, kind):
    files = []
    for number in (0, 1):
        path = tmp_path / f"{number}.{kind}"
        style.save(pareto_figure(analysis), path, kind)
        files.append(path.read_bytes())
    assert files[0] == files[1] and len(files[0]) > 5000
    assert not any(word in files[0] for word in (b"<dc:date>", b"CreationDate"))


def test_a_users_matplotlibrc_changes_nothing(analysis):
    import matplotlib

    before = style.svg_text(pareto_figure(analysis))
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": None}):
        assert style.svg_text(pareto_figure(analysis)) == before


def test_reliability_shows_bins_and_ece():
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.2, 1, 400)
    got = reliability(probability, rng.random(400) < probability)
    figure = plots.reliability_figure(got, "paired", "#0072B2")
    bars = [p for p in figure.axes[0].patches if p.get_height() > 0]
    assert len(bars) == len(got.count) and f"ECE {100 * got.ece:.1f} %" in figure.axes[0].get_title(
        loc="left"
    )


def test_one_point_alone_can_be_drawn(tmp_path):
    alone = analyse(join([("a", curves([run(answers(100), 9, source="live")], TRUTH))]), resamples=20)
    for bands in ("paired", "none"):
        style.save(pareto_figure(alone, "", bands), tmp_path / "one.png", "png")
    style.save(plots.orders_figure(alone), tmp_path / "k.png", "png")
    right = analyse(join([("a", curves([run(TRUTH, 9), fixed_run(TRUTH, 1)], TRUTH))]), resamples=20)
    style.save(pareto_figure(right), tmp_path / "perfect.png", "png")  # 100 %, nothing varies


def test_every_kind_from_one_full_trace(tmp_path):
    with Trace.open(write_trace(tmp_path / "full.h5", failed=5)) as trace:
        material = Material([("full.h5", full_curves(trace))], [trace])
        analysis = analyse(join(material.files), resamples=30)
        drawn, missing = album.draw(analysis, material, album.KINDS)
    assert [d.kind for d in drawn] == list(album.KINDS) and not missing
    assert all(d.rows and d.caption for d in drawn) and analysis.study.left_out == 1
    for picture in drawn:
        ElementTree.fromstring(style.svg_text(picture.figure))


# --- the command -------------------------------------------------------------------------------------------


def command(*arguments, cwd):
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "anytime_cls_cli", "plot", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """full.h5, its curves.h5, and a live paired.h5."""
    path = tmp_path_factory.mktemp("plot")
    with Trace.open(write_trace(path / "full.h5")) as trace:
        write_curves(path / "curves.h5", full_curves(trace, ["fixed", "paired", "halving"]))
    write_trace(path / "paired.h5", "paired")
    return path


def rows_of(path: Path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_full_trace_becomes_a_picture_and_a_table(folder):
    done = command("full.h5", "-o", "a.png", "--bootstrap", "50", cwd=folder)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "a.png") as image:
        image.load()
        assert image.width == 1050 and image.height > 700  # 3.5 inches at 300 dpi
    rows = rows_of(folder / "a.csv")
    by_curve = {row["curve"] for row in rows}
    assert {"fixed", "paired", "strict", "marginal", "halving"} <= by_curve
    assert sum(row["curve"] == "paired" for row in rows) >= 20
    for word in ("paired", "fixed", "K = 8", "accuracy %", "saving"):
        assert word in done.stdout
    assert "wrote a.png, a.csv" in done.stderr


def test_curves_and_a_live_trace_in_svg_and_pdf(folder):
    done = command("curves.h5", "paired.h5", "-o", "b.svg", "--x", "seconds", "--y", "agreement",
                   "--bootstrap", "0", "-q", cwd=folder)  # fmt: skip
    assert done.returncode == 0 and done.stdout == "" == done.stderr
    assert ElementTree.parse(folder / "b.svg").getroot().tag.endswith("svg")
    live = [row for row in rows_of(folder / "b.csv") if row["source"] == "live"]
    assert len(live) == 1 and live[0]["curve"] == "paired (live)" and live[0]["seconds_kind"] == "measured"
    done = command("curves.h5", "-o", "c.pdf", "--kind", "k", "--bootstrap", "0", cwd=folder)
    content = (folder / "c.pdf").read_bytes()
    assert done.returncode == 0 and content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    assert {"curve", "orders", "share"} <= set(rows_of(folder / "c.csv")[0])


def test_all_kinds_get_files_of_their_own(folder):
    done = command("curves.h5", "full.h5", "-o", "all.png", "--kind", "all", "--bootstrap", "20", cwd=folder)
    assert done.returncode == 0, done.stderr
    for kind in ("", "-k", "-classes-left", "-budget", "-reliability", "-confusion"):
        assert (folder / f"all{kind}.png").stat().st_size > 5000 and rows_of(folder / f"all{kind}.csv")
    assert {row["curve"] for row in rows_of(folder / "all-budget.csv")} == {"fixed", "paired", "halving"}
    assert not list(folder.glob("*.tmp"))


def test_kinds_that_need_more_are_left_out_and_said(folder):
    done = command("curves.h5", "-o", "d.png", "--kind", "all", "--bootstrap", "0", cwd=folder)
    assert done.returncode == 0 and "left out budget: needs the scores" in done.stderr
    assert not (folder / "d-budget.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.h5", "-o", "x.png"], "there is no trace at missing.h5"),
        (["curves.h5", "-o", "x.jpg"], "-o takes a file ending in .png, .svg, .pdf, .pgf, .html"),
        (["curves.h5", "-o", "nowhere/x.png"], "is not a folder"),
        (["curves.h5", "-o", "x.png", "--x", "money"], "--x takes passes, flops, seconds, orders"),
        (["curves.h5", "-o", "x.png", "--y", "luck"], "--y takes accuracy, agreement, top5"),
        (["curves.h5", "-o", "x.png", "--kind", "pie"], "--kind takes pareto"),
        (["curves.h5", "-o", "x.png", "--kind", "budget"], "name the trace too"),
        (["paired.h5", "-o", "x.png", "--y", "agreement"], "use --y accuracy"),
        (["text.h5", "-o", "x.png"], "text.h5"),
        (["-o", "x.png"], "FILES"),
    ],
)
def test_a_mistake_is_one_line(folder, arguments, message, monkeypatch, capsys):
    (folder / "text.h5").write_text("no HDF5")
    monkeypatch.chdir(folder)
    code = main(["plot", *arguments])
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert message in err and err.count("\n") == 1
    assert not (folder / "x.png").exists()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "svg", ""])
def test_the_backend_of_the_environment_is_of_no_account(backend, folder):
    """Notebooks set one that other environments lack. It stays what it was for who else draws."""
    script = (
        "import os, sys\nfrom anytime_cls_cli.main import main\n"
        "code = main(['plot', 'curves.h5', '-q', '--bootstrap', '0', '-o', 'backend.png'])\n"
        "print(os.environ['MPLBACKEND'])\nsys.exit(code)"
    )
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{backend}\n")
    with Image.open(folder / "backend.png") as picture:
        picture.load()
