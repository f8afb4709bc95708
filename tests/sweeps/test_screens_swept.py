"""Screens through the commands: recorded, raced alone, replayed without the model."""

from __future__ import annotations

import numpy as np
import pytest
from sweep_data import make_images, sweep

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.curves.full import full_curves
from anytime_cls.curves.live import live_run
from anytime_cls.curves.progress import trace_progress
from anytime_cls.plan.options import RaceOptions
from anytime_cls.race.decision import SCREENED
from anytime_cls.traces.read import Trace


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "pictures", 3)


@pytest.fixture(scope="module")
def classifier(tiny_model_dir):
    return AnytimeClassifier.load(str(tiny_model_dir), "cpu")


def test_recorded_screens_replay_as_they_race(tiny_model_dir, classifier, images, tmp_path, capsys):
    """A full trace with screens: their estimates are what a race by a screen alone answers by, and cost."""
    out = tmp_path / "full.h5"
    options = ["--rule", "fixed", "--max-orders", "4", "--record-screens", "table,gradient"]
    code, _, err = sweep(capsys, images, "--model", tiny_model_dir, *options, "-o", out)
    assert code == 0, err
    with Trace.open(out) as trace:
        curves = full_curves(trace, rules=["table", "gradient", "fixed"])
        ids = [str(path) for path in trace.images["path"]]
        assert trace.attrs["screens"] == ["table", "gradient"]
        costs = dict(zip(trace.attrs["screens"], trace.attrs["screen_flops"], strict=True))
        whole = trace.attrs["flops"] * 4 * len(trace.labels)
        for run in curves.runs[:2]:
            name = run.settings["rule"]
            live = [classifier.classify(path, RaceOptions(rule=name)) for path in ids]
            names = [trace.labels[i] for i in run.prediction]
            assert names == [decision.label for decision in live]
            assert (run.orders == 0).all() and (run.passes == 0).all()
            np.testing.assert_allclose(run.token_fraction, costs[name] / whole)
            assert live[0].flops == pytest.approx(costs[name]) and live[0].prefix == SCREENED
        screened = trace.images["flops"] - trace.attrs["flops"] * 4 * len(trace.labels)
        np.testing.assert_allclose(screened, sum(costs.values()), rtol=1e-6)
    by_it = ["--rule", "gradient", "-o", tmp_path / "g.h5"]
    code, found, _ = sweep(capsys, images, "--model", tiny_model_dir, *by_it)
    assert code == 0 and found is not None and found["rule"] == "gradient"


@pytest.mark.parametrize("screen", ["table", None])
def test_a_screen_answers_where_no_order_fits(classifier, images, screen):
    """A budget of less than one order of all classes: the screen's answer, and not a token's."""
    path = sorted(images.rglob("*.png"))[0]
    alone = classifier.classify(path, RaceOptions(rule="table"))
    decision = classifier.classify(path, RaceOptions(rule="paired", screen=screen, budget="1passes"))
    assert (decision.label, decision.stop, decision.orders) == (alone.label, "budget", 0)
    assert decision.prefix == SCREENED and decision.passes <= 1 and decision.shortlist is None
    none = classifier.classify(path, RaceOptions(rule="paired", screen="none", budget="1passes"))
    assert none.prefix is not None and none.prefix > 0


def test_a_budget_for_part_of_an_order_is_spent_on_a_shortlist(
    classifier, images, tiny_model_dir, tmp_path, capsys
):
    """Two orders of the table's best, and the decision says so; a sweep's trace replays what it answered."""
    path = sorted(images.rglob("*.png"))[0]
    table = classifier.classify(path, RaceOptions(rule="table"))
    decision = classifier.classify(path, RaceOptions(rule="fixed", budget="4passes"))
    assert decision.shortlist == 2 and decision.orders == 1 and decision.passes <= 4
    raced = [s.label for s in decision.ranking if s.alive]
    assert sorted(raced) == sorted(s.label for s in table.ranking[:2])
    assert decision.to_dict()["shortlist"] == 2 and "shortlist" not in table.to_dict()
    out = tmp_path / "short.h5"
    options = ["--rule", "paired", "--budget", "5passes", "-o", out]
    code, _, err = sweep(capsys, images, "--model", tiny_model_dir, *options)
    assert code == 0, err
    with Trace.open(out) as trace:
        assert trace.attrs["screens"] == ["table"]
        assert (live_run(trace).rank < len(trace.labels)).all()
        race = trace_progress(trace)
        assert (race.at(5.0) == trace.images["prediction"]).all() and (race.at(0.1) >= 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"screen": "nearest"}, "no screen 'nearest': it has table, gradient"),
        ({"screens": ["x"], "rule": "fixed"}, "no screen 'x'"),
        ({"screen": "table", "latent_noise": 0.1}, "screens see an image without noise"),
    ],
)
def test_screens_that_make_no_sense_are_one_line(classifier, images, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        classifier.classify(next(images.rglob("*.png")), RaceOptions(**options))
    assert "\n" not in str(caught.value)


def test_a_shape_says_what_its_screens_cost(classifier):
    """The card's numbers are the scorer's."""
    scorer = classifier.scorer
    assert set(scorer.screens) == set(scorer.shape.screens)
    for name, screen in scorer.screens.items():
        shared, each = scorer.shape.screens[name]
        for classes in (2, 5):
            assert screen.flops(classes) == pytest.approx(shared + each * classes)


def test_where_there_is_no_table_a_gradient_makes_the_shortlist(tiny_model_dir, images, monkeypatch):
    """As for a RandAR-L, whose table would be 16 GiB: 2.9 passes rank all, the rest is spent on the best."""
    monkeypatch.setattr("anytime_cls.scorers.shapes.TABLE_NUMBERS", 1)
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    path = sorted(images.rglob("*.png"))[0]
    ranked = classifier.classify(path, RaceOptions(rule="gradient"))
    screen, asked = classifier.scorer.screens["gradient"], []
    again = type(screen).estimate
    monkeypatch.setattr(type(screen), "estimate", lambda self, *args: asked.append(1) or again(self, *args))
    decision = classifier.classify(path, RaceOptions(rule="fixed", budget="9passes"))
    assert asked == [1]  # of this image; nothing is to be prepared
    assert decision.shortlist == 3 and decision.orders == 2 and 8 < decision.passes <= 9
    raced = {s.label for s in decision.ranking if s.alive}
    assert raced == {s.label for s in ranked.ranking[:3]}


@pytest.mark.parametrize(("share", "screened"), [(0.99, True), (1.01, False)])
def test_where_a_token_of_every_class_costs_more_than_the_gradient_the_gradient_answers(
    tiny_model_dir, images, monkeypatch, share, screened
):
    """As with 1,000 classes of a RandAR-L: the budget is too small for either, and no answer is cheaper."""
    monkeypatch.setattr("anytime_cls.scorers.shapes.TABLE_NUMBERS", 1)
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    path = sorted(images.rglob("*.png"))[0]
    gradient, shape = classifier.classify(path, RaceOptions(rule="gradient")), classifier.scorer.shape
    token = shape.flops(1, len(gradient.ranking))
    assert token > 1e5
    screen = type(classifier.scorer.screens["gradient"])
    monkeypatch.setattr(screen, "flops", lambda self, classes: share * token)
    decision = classifier.classify(path, RaceOptions(rule="paired", budget="0.1mflop"))
    assert (decision.prefix, decision.stop) == (SCREENED if screened else 1, "budget")
    assert not screened or decision.label == gradient.label
