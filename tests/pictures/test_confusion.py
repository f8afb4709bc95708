"""Accuracy by class and confusions: the counts, the picture, the command."""

import csv
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from curve_data import LABELS, curves, run, write_trace

from anytime_cls.curves import confusion as tally
from anytime_cls.curves.analysis import analyse
from anytime_cls.curves.study import StudyError, join
from anytime_cls.pictures import confusion, style
from anytime_cls.stats.intervals import wilson
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main


def study(label, answers, **attrs):
    made = curves([run(np.array(answers), 9)], np.array(label), **attrs)
    return analyse(join([("a.h5", made)]), resamples=0)


def made_up(n_classes: int, per_class: int = 10) -> tally.Confusion:
    """Class c is right on all but c of its images, which go to the next class."""
    counts = np.zeros((n_classes, n_classes), int)
    for c in range(n_classes):
        wrong = c % (per_class + 1)
        counts[c, c], counts[c, (c + 1) % n_classes] = per_class - wrong, wrong
    return tally.Confusion("paired", "δ = 0.05", [f"class {c}" for c in range(n_classes)], counts)


def words(figure) -> list[str]:
    found = [t for ax in figure.axes for t in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels())]
    return [t.get_text() for t in (*found, *figure.texts) if t.get_text()]


def test_counts_by_hand():
    got = tally.of_run(study([0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 0]), 0)
    assert got.counts[:3, :3].tolist() == [[1, 2, 0], [0, 2, 0], [1, 0, 0]] and got.counts.sum() == 6
    assert got.order().tolist() == [1, 0, 2]  # classes without images are left out
    assert got.pairs() == [(0, 1, 2), (2, 0, 1)] and got.overall == 0.5
    rows = got.rows()
    assert [(r["class"], r["answer"], r["count"], r["images"]) for r in rows] == [
        ("dog", "dog", 2, 2), ("cat", "cat", 1, 3), ("cat", "dog", 2, 3),
        (LABELS[2], LABELS[2], 0, 1), (LABELS[2], "cat", 1, 1),
    ]  # fmt: skip
    assert (rows[1]["low"], rows[1]["high"]) == wilson(1 / 3, 3) and rows[1]["share"] == pytest.approx(1 / 3)
    assert "dog" in got.caption and "cat is taken for dog (2 times)" in got.caption


def test_a_matrix_has_every_cell_and_every_interval():
    got = made_up(8)
    figure = confusion.confusion_figure(got, "A title")
    matrix, bars = figure.axes
    assert [t.get_text() for t in matrix.get_yticklabels()] == [f"class {c}" for c in range(8)]  # best first
    cells = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in matrix.texts}
    expected = {(c, c): f"{100 - 10 * c}" for c in range(8)}
    expected |= {(c, (c + 1) % 8): f"{10 * c}" for c in range(1, 8)}
    assert cells == expected and len(matrix.patches) == len(cells)
    assert {round(p.get_height(), 2) for p in bars.patches} == {0.72} and len(bars.patches) == 8
    np.testing.assert_allclose([p.get_width() for p in bars.patches], 1 - np.arange(8) / 10)
    low, high = wilson(0.7, 10)
    assert f"70 [{100 * low:.0f}, {100 * high:.0f}]" in words(figure) and "A title" in words(figure)


@pytest.mark.parametrize("n_classes", [2, 20, 21, 200])
def test_everything_is_inside_of_the_picture(n_classes):
    figure = confusion.confusion_figure(made_up(n_classes), "A title")
    assert len(figure.axes) == (2 if n_classes <= 20 else 1)
    figure.canvas.draw()
    whole = figure.bbox
    for text in [*figure.texts, *(t for ax in figure.axes for t in (*ax.texts, *ax.get_yticklabels()))]:
        if text.get_text():
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0 and box.y1 <= whole.y1, text
    svg = style.svg_text(figure)
    ElementTree.fromstring(svg)
    assert svg == style.svg_text(confusion.confusion_figure(made_up(n_classes), "A title"))


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    got = made_up(40, 30)
    said = words(confusion.confusion_figure(got))
    assert "class 30 → class 31" in said and "class 1 → class 2" not in said
    assert any("0 [0, 11]" in word for word in said)  # the hardest, never right
    assert "class 0" in said  # the easiest


def test_names_are_drawn_as_they_are():
    got = tally.Confusion("a", "b", ["$x$ \\frac", "a\u0007b", "no image"], np.diag([2, 1, 0]))
    figure = confusion.confusion_figure(got)
    style.svg_text(figure)
    assert "a\ufffdb" in words(figure) and "no image" not in words(figure)
    assert any("1 classes have no image" in word for word in words(figure))


def test_without_labels_it_is_refused():
    nameless = curves([run(np.zeros(5, int), 9)], np.full(5, -1), full=np.zeros(5))
    unlabelled = analyse(join([("a", nameless)]), y_kind="agreement", resamples=0)
    with pytest.raises(StudyError, match="needs labels"):
        tally.of_run(unlabelled, 0)


@pytest.mark.parametrize("rule", ["fixed", "paired"])
def test_the_command_takes_any_trace(tmp_path, monkeypatch, capsys, rule):
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "t.h5", rule, failed=3)
    assert main(["plot", "t.h5", "-o", "c.svg", "--kind", "confusion"]) == 0
    out, err = capsys.readouterr()
    assert "wrote c.svg, c.csv" in err and "images right" in out and "taken for" in out
    with open("c.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with Trace.open("t.h5") as trace:
        good = trace.images["error"] == ""
        right = (trace.images["prediction"] == trace.images["label"])[good]
    assert {row["curve"] for row in rows} == {f"{rule} (live)"}  # as it was run, nothing replayed
    assert sum(int(row["count"]) for row in rows) == good.sum()
    assert sum(int(row["count"]) for row in rows if row["right"] == "1") == right.sum()
