"""Methods side by side: each choice made on other images, ratios that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from curve_data import LABELS, curves, fixed_run, run

from anytime_cls.curves import compare
from anytime_cls.curves.compare import Contestant, choose, full_run, half_of, measured, outcome, ratio
from anytime_cls.curves.compared import compared
from anytime_cls.curves.study import StudyError, join

N = 400
LABEL = np.arange(N) % 6
IDS = [f"im{i}" for i in range(N)]
HALF = half_of(IDS)


def answers(right: np.ndarray) -> np.ndarray:
    """Predictions that are right where this says so."""
    return np.where(right, LABEL, (LABEL + 1) % 6)


def some(share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(N) < share


def study(*files, label=LABEL):
    named = [(f"f{at}", curves(list(runs), label, ids=IDS[: len(label)], model=f"m{at}"))
             for at, runs in enumerate(files)]  # fmt: skip
    return join(named)


def test_halves_are_of_ids_alone_and_of_a_size():
    assert np.array_equal(half_of(IDS[::-1])[::-1], HALF) and 0.4 < HALF.mean() < 0.6


def test_a_half_is_answered_by_what_was_chosen_on_the_other():
    """A run that is right on half 0 only looks best there, so it answers half 1, where it is wrong."""
    lucky = run(answers(HALF == 0), 5, knob_value=0.9)
    found = study([lucky, fixed_run(answers(np.ones(N, bool)), 8)])
    method = Contestant("a", "autoregressive", (0,))
    choice = choose(found, method)
    assert choice.best == (0, "fixed", 8.0)  # on all images only it is as good as itself
    assert choice.halves == ((0, "fixed", 8.0), (0, "paired", 0.9))
    got = outcome(found, method, choice)
    assert got.right[HALF == 0].all() and not got.right[HALF == 1].any()
    assert (got.passes == np.where(HALF == 0, 48, 5)).all()
    assert (got.flops == 1e9 * got.passes).all()  # the file's flops a pass
    row = measured(got, 200)
    assert row["accuracy"] == pytest.approx((HALF == 0).mean()) and row["images"] == N
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert row["flops_low"] < row["flops"] < row["flops_high"]


def test_the_best_is_the_cheapest_that_is_good_enough():
    all_right = np.ones(N, bool)
    runs = [run(answers(all_right), passes, knob_value=value) for passes, value in ((9, 0.1), (7, 0.2))]
    runs.append(run(answers(some(0.5)), 2, knob_value=0.3))  # cheaper, and worse
    found = study([*runs, *(fixed_run(answers(all_right), k) for k in (1, 2, 8))])
    method = Contestant("a", "autoregressive", (0,))
    choice = choose(found, method)
    assert choice == compare.Choice((0, "fixed", 1.0), ((0, "fixed", 1.0),) * 2)
    assert found.runs[full_run(found, method)].k_max == 8
    several = study([*runs, *(fixed_run(answers(some(share)), k) for share, k in ((0.5, 1), (1.0, 8)))])
    assert choose(several, method).best == (0, "paired", 0.2)


def test_a_lucky_run_is_not_taken_for_a_good_one():
    """As accurate as all draws, but on other images: within a standard error it may be worse."""
    first, second = np.arange(N) % 10 == 1, np.arange(N) % 10 == 2
    full, lucky = ~first, ~second  # 10 % wrong each, on different images
    found = study([run(answers(lucky), 5, knob_value=0.9), fixed_run(answers(full), 8)])
    method = Contestant("a", "autoregressive", (0,))
    assert choose(found, method).best == (0, "fixed", 8.0)
    nearly = full & (np.arange(N) % 200 != 3)  # half a point worse, on the same images
    found = study([run(answers(nearly), 5, knob_value=0.9), fixed_run(answers(full), 8)])
    assert choose(found, method).best == (0, "paired", 0.9)


def test_other_images_are_all_answered_by_the_best_run():
    lucky = run(answers(HALF == 0), 5, knob_value=0.9)
    found = study([lucky, fixed_run(answers(np.ones(N, bool)), 8)])
    method = Contestant("a", "autoregressive", (0,))
    assert outcome(found, method, choose(found, method), own=False).right.all()


def test_a_ratio_is_of_the_cheapest_as_accurate():
    ours = run(answers(some(0.6)), 3)
    theirs = [fixed_run(answers(some(share)), k) for share, k in ((0.4, 1), (0.6, 4), (0.9, 8))]
    found = study([ours, fixed_run(answers(some(0.6)), 8)], theirs)
    a, b = Contestant("a", "autoregressive", (0,)), Contestant("b", "diffusion", (1,))
    point = outcome(found, a, compare.Choice.only((0, "paired", 0.05)))
    got = ratio(found, point, b.runs(found), 300)
    assert found.runs[got.cost.index].k_max == 4 and got.cost.reached
    assert got.cost.ratio == pytest.approx(24 / 3)  # 4 orders of 6 classes against 3 passes
    assert got.cost.low <= got.cost.ratio <= got.cost.high <= 16
    # nothing of theirs is as cheap, so the lead is over their cheapest
    assert got.lead == pytest.approx(point.right.mean() - some(0.4).mean())
    assert got.lead_low < got.lead < got.lead_high
    worse = ratio(found, point, [b.runs(found)[0]], 300)
    assert not worse.cost.reached and worse.cost.ratio == pytest.approx(2)


def test_a_lead_is_over_the_best_that_costs_no_more():
    theirs = [fixed_run(answers(some(share)), k) for share, k in ((0.5, 1), (0.3, 2), (0.9, 8))]
    found = study([run(answers(some(0.8)), 12), fixed_run(answers(some(0.8)), 8)], theirs)
    point = outcome(found, Contestant("a", "autoregressive", (0,)), compare.Choice.only((0, "paired", 0.05)))
    got = ratio(found, point, Contestant("b", "diffusion", (1,)).runs(found), 0)
    assert got.lead == pytest.approx(some(0.8).mean() - some(0.5).mean())
    assert (got.lead_low, got.lead_high) == (got.lead, got.lead)  # no resamples, no interval


def table_run(right: np.ndarray):
    return run(answers(right), 0, rule="table", curve="table", knob="k_max", knob_value=8.0)


def sets():
    """Two methods on two sets of images; on the second the first method has no curve `paired`."""
    good = [run(answers(some(0.8)), 6), table_run(some(0.7, 1)), fixed_run(answers(some(0.8)), 8)]
    other = [run(answers(some(0.7)), 30), *(fixed_run(answers(some(0.7)), k) for k in (1, 8))]
    fewer = [table_run(some(0.2)), fixed_run(answers(some(0.3, 2)), 8)]
    return {"clean": study(good, other), "fog:5": study(fewer, other)}


def test_a_comparison_has_a_row_a_method_and_one_a_screen():
    methods = [Contestant("ours", "autoregressive", (0,)), Contestant("theirs", "diffusion", (1,))]
    got = compared(sets(), methods, {"clean": True, "fog:5": True}, 200)
    assert [row["method"] for row in got.rows] == ["ours", "ours table", "theirs"]
    ours, table, theirs = got.rows
    assert ours["rule"] == "paired, δ = 0.05" and ours["accuracy"] == pytest.approx(some(0.8).mean())
    assert ours["full_accuracy"] == ours["accuracy"] and ours["full_flops"] == pytest.approx(48e9)
    assert table["kind"] == "screen" and table["accuracy"] == pytest.approx(some(0.7, 1).mean())
    assert np.isnan(table["full_accuracy"]) and table["flops"] == 1.0  # what costs nothing is one FLOP
    assert theirs["rule"] == "fixed, K = 1" and not theirs["times_reached"]
    assert theirs["times"] == pytest.approx(1.0) and theirs["times_run"] == "fixed, K = 1"
    assert got.ratios["ours fixed"].cost.ratio == pytest.approx(8)
    assert set(got.ratios) == {
        "theirs",
        *(f"{a} {b}" for a in ("ours", "theirs") for b in ("fixed", "whole")),
    }
    there = {(row["images of"], row["method"]): row for row in got.set_rows}
    assert len(there) == 6 and list(dict.fromkeys(key for key, _ in there)) == ["clean", "fog:5"]
    assert there["fog:5", "ours"]["rule"] == "fixed, K = 8"  # all draws, where it cannot be raced so
    assert there["fog:5", "ours"]["accuracy"] == pytest.approx(some(0.3, 2).mean())


def test_the_words_say_what_was_found():
    from anytime_cls.pictures.compare_words import MAIN, document, headline, main_cells, markdown, set_cells

    methods = [Contestant("ours", "autoregressive", (0,)), Contestant("theirs", "diffusion", (1,))]
    got = compared(sets(), methods, {"clean": True, "fog:5": True}, 200)
    first, own = headline(got)[:2]
    assert first.startswith("The race of ours (paired, δ = 0.05) is right on") and "of 400 images" in first
    assert "than theirs (none is as accurate; the best is fixed, K = 1)" in first
    assert "Against its fixed draws" in first and "8.0× fewer FLOPs" in own and "its own fixed K" in own
    assert "the paper's classifier: 8.0× [" in own
    cells = main_cells(got.rows)
    assert all(len(row) == len(MAIN) for row in cells) and cells[2][-1].startswith("> 1.00")
    heads, rows = set_cells(got.set_rows)
    assert heads == ["images", "ours", "ours table", "theirs"] and [r[0] for r in rows] == ["clean", "fog:5"]
    page = document(got, "anytime-cls compare it", "somewhere")
    assert page.startswith("# 2 methods on 400 images of made-up") and "anytime-cls compare it" in page
    assert markdown(["a|b"], [["c"]]) == "| a\\|b |\n| --- |\n| c |\n"
    # whoever wins
    other = [fixed_run(answers(some(0.9)), 1)]
    loses = study([run(answers(some(0.5)), 20), fixed_run(answers(some(0.5)), 8)], other)
    lost = compared({"clean": loses}, methods, {"clean": True}, 0)
    assert "× more FLOPs" in headline(lost)[0]
    assert "At least as accurate for no more than the race's" in headline(lost)[-1]
    assert "theirs (" in headline(lost)[-1]
    nobody = compared({"clean": loses}, [Contestant("b", "diffusion", (1,))], {"clean": True}, 0)
    assert headline(nobody)[0].startswith("No any-order autoregressive model takes part")


def test_every_method_is_in_the_picture():
    from anytime_cls.pictures.compare import compare_figure

    methods = [Contestant("ours", "autoregressive", (0,)), Contestant("theirs", "diffusion", (1,)),
               Contestant("head", "discriminative", (2,))]  # fmt: skip
    ours = [run(answers(some(0.8)), 6), run(answers(some(0.85)), 9, knob_value=0.01), table_run(some(0.7))]
    ours += [fixed_run(answers(some(0.8)), k) for k in (1, 2, 8)]
    theirs = [fixed_run(answers(some(0.7)), k) for k in (1, 8)]
    files = (ours, theirs, [fixed_run(answers(some(0.75)), 1)])
    got = compared({"clean": study(*files)}, methods, {"clean": True}, 100)
    figure = compare_figure(got, "a title")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:3] == ["ours (autoregressive)", "theirs (diffusion)", "head (discriminative)"]
    axes = figure.axes[0]
    assert "ours table, next to no compute" in [text.get_text() for text in axes.texts]
    drawn = [line for line in axes.lines if len(line.get_xdata()) > 1]
    assert len(drawn) >= 3  # two methods' fixed K, ours at its best rule
    low, high = axes.get_ylim()
    assert low < 0.7 and high > 0.81


def test_without_labels_or_costs_it_is_refused():
    found = study([fixed_run(answers(some(0.5)), 8)], label=np.full(N, -1))
    with pytest.raises(StudyError, match="no image has a label"):
        compare.labelled(found)
    half = np.where(np.arange(N) % 2, LABEL, -1)
    known = compare.labelled(study([fixed_run(answers(some(0.5)), 8)], label=half))
    assert len(known.ids) == N // 2
    free = join([("f", curves([fixed_run(answers(some(0.5)), 8)], LABEL, ids=IDS, flops=None))])
    with pytest.raises(StudyError, match="in FLOPs"):
        choose(free, Contestant("a", "autoregressive", (0,)))
    assert len(LABELS) == 6
