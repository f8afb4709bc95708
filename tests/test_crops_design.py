"""Crops are a part of a design: what is fitted on new crops an order is for such races, and for no others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_data import noise
from sweep_data import make_images

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.curves.file import read_curves
from anytime_cls.engine.encoded import SCREENED as VIEW_OF_SCREENS
from anytime_cls.engine.encoded import Views
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.attributes import provenance
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.written import read, write
from anytime_cls.race.decision import SCREENED
from anytime_cls.race.fitted import Design, Fitted
from anytime_cls.race.rules import CalibratedRule
from anytime_cls.replay.source import Source
from anytime_cls.traces.read import Trace
from anytime_cls_cli.main import main

RACES = ("--orders", "stratified", "--prefix", "16", "--max-orders", "8", "--device", "cpu", "-q")


@pytest.fixture(scope="module")
def made(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model calibrated on resized crops, the images, and the trace it was calibrated on."""
    folder = tmp_path_factory.mktemp("crops")
    images = make_images(folder / "images", 30)
    model, full = folder / "tiny", folder / "full.h5"
    shutil.copytree(tiny_model_dir, model)
    every = ("--rule", "fixed", "--record-prefixes", "4", "--record-screens", "gradient")
    words = [str(images), "--model", str(model), *RACES, *every, "--crops", "resized", "-o", str(full)]
    assert main(["sweep", *words]) == 0
    asked = ("--risk", "0.2,0.3", "--recommend", "0.3", "--screens", "gradient", "--rungs", "4")
    assert main(["calibrate", str(full), *asked, "--write-model", str(model)]) == 0
    return model, images, full


def test_what_a_calibration_writes_is_of_its_crops(made: tuple[Path, Path, Path]) -> None:
    model, _, full = made
    fields = json.loads((model / "model.json").read_text())
    assert fields["race"]["crops"] == "resized"
    entries = [entry for kind in ("calibrated", "abstain", "designs") for entry in fields[kind]]
    assert {entry["crops"] for entry in entries} == {"resized"}
    fitted = read_card(str(model)).fitted
    assert fitted.of("stratified", 16, "resized").priors and not fitted.of("stratified", 16).priors
    with Trace.open(full) as trace:
        assert (trace.crops, trace.varies, trace.noisy) == ("resized", True, False)
        assert Source(trace).design() == Design("stratified", 16, 8, 10, "resized")


def test_the_model_s_race_is_on_its_crops_and_no_other_is_calibrated(made: tuple[Path, Path, Path]) -> None:
    card = read_card(str(made[0]))
    plan = make(RaceOptions(), card)
    assert (plan.design.crops, plan.why["crops"], plan.rule.name) == ("resized", "recommended", "calibrated")
    assert make(RaceOptions(crops="resized"), card).rule == plan.rule
    assert "resized crops" in str(plan.design)
    as_is = RaceOptions(rule="calibrated", delta=0.3, orders="stratified", prefix=16, max_orders=8)
    for crops in ("center", "random"):
        other = make(RaceOptions(crops=crops), card)
        assert (other.design.crops, other.rule.name, other.whole) == (crops, "paired", True)
        with pytest.raises(ValueError, match=r"has no calibration for risk 0\.3 or less"):
            make(replace(as_is, crops=crops), card)
    assert make(RaceOptions(rule="fixed"), card).design.crops == "center"


def test_live_races_are_what_replay_says(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Screens, rungs, orders and views of a live race are those of the trace."""
    model, images, full = made
    out, curves = tmp_path / "live.h5", tmp_path / "curves.h5"
    assert main(["sweep", str(images), "--model", str(model), "--device", "cpu", "-o", str(out)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "8 stratified orders of 16 tokens, resized crops" in said
    assert "--rule fixed --orders stratified --prefix 16 --max-orders 8 --crops resized" in said
    assert main(["replay", str(full), "--model", str(model), "--rule", "calibrated", "-o", str(curves)]) == 0
    with Trace.open(out) as live, Trace.open(full) as trace:
        assert live.attrs["crops"] == "resized" and list(live.images["id"]) == list(trace.images["id"])
        plan = read(live.attrs, live.labels)
        assert isinstance(plan.rule, CalibratedRule) and plan.design.crops == "resized"
        runs = [run for run in read_curves(curves).runs if run.settings.get("delta") == plan.rule.holds]
        assert runs
        np.testing.assert_array_equal(live.images["prediction"], runs[0].prediction)
        np.testing.assert_allclose(live.images["token_fraction"], runs[0].token_fraction, rtol=1e-4)
        for i in range(len(live)):  # the same numbers: screens see the centre crop, orders their own
            mine, all_of_it = live.scores(i), trace.scores(i)
            known = {(int(o), int(c), int(p)): float(v) for o, c, p, v in zip(
                all_of_it.order, all_of_it.cls, all_of_it.prefix, all_of_it.value, strict=True)}  # fmt: skip
            for o, c, p, v in zip(mine.order, mine.cls, mine.prefix, mine.value, strict=True):
                assert known[int(o), int(c), int(p)] == pytest.approx(float(v), abs=2e-3)


def test_plans_from_before_designs_had_crops_are_read(made: tuple[Path, Path, Path]) -> None:
    card = read_card(str(made[0]))
    plan = make(RaceOptions(rule="fixed", crops="random"), card)
    old = json.loads(write(plan))
    old["crops"] = old["design"].pop("crops")
    attrs = provenance(plan, card, "files") | {"plan": json.dumps(old)}
    assert read(attrs, plan.labels).design == plan.design


def test_whole_orders_on_crops_are_a_design_of_their_own() -> None:
    prior = {"scale": 1.0, "power": 0.0, "df": 20.0}
    whole = {"order_sampler": "uniform", "prefix": 64, "crops": "resized", "priors": {"paired": prior}}
    fitted = Fitted.read({"designs": [whole | {"temperature": 2.0}], "temperature": 3.0}, 64)
    assert fitted.of("raster", 64, "resized").temperature == 2.0
    assert fitted.of("uniform", 64).temperature == 3.0 and not fitted.of("uniform", 64, "random").priors


def test_calibrations_whose_stages_were_not_recorded_are_left_out(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a trace without their screen or rung: by default in silence, asked for by name with what lacks."""
    model, images, _ = made
    bare, staged = tmp_path / "bare.h5", tmp_path / "tiny"
    words = [str(images), "--model", str(model), *RACES, "--rule", "fixed", "--crops", "resized"]
    assert main(["sweep", *words, "-o", str(bare)]) == 0
    shutil.copytree(model, staged)
    fields = json.loads((staged / "model.json").read_text())

    def replayed(name: str, *rules: str) -> int:
        (staged / "model.json").write_text(json.dumps(fields))
        words = ["replay", str(bare), "--model", str(staged), *rules]
        return main([*words, "-o", str(tmp_path / name)])

    fields["calibrated"][0]["rungs"] = [[4, 1.0]]
    assert replayed("some.h5", "--rule", "calibrated") == 0
    assert len(read_curves(tmp_path / "some.h5").runs) == 1
    fields["calibrated"][1]["rungs"] = [[4, 1.0]]
    assert replayed("all.h5") == 0
    assert "calibrated" not in {run.settings["rule"] for run in read_curves(tmp_path / "all.h5").runs}
    capsys.readouterr()
    assert replayed("none.h5", "--rule", "calibrated") == 2
    said = capsys.readouterr().err
    assert "--record-prefixes 4" in said and said.count("\n") == 1


def test_screens_see_the_centre_crop_whatever_orders_see(tiny_model_dir: Path) -> None:
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    with torch.no_grad():  # its random weights give all pictures one token
        classifier.scorer.tokenizer.to_code.weight.mul_(1000)  # type: ignore[attr-defined]
    picture = noise(50, 70, 3)
    found = {}
    for crops in ("center", "resized"):
        options = RaceOptions(rule="fixed", max_orders=2, crops=crops, screens=("gradient",))
        decision = classifier.classify(picture, options)
        screened = [record.values for record in decision.records if record.prefix == SCREENED]
        scored = [record.values for record in decision.records if record.prefix != SCREENED]
        assert len(screened) == 1 and len(scored) == 2
        found[crops] = screened[0], scored[0]
    np.testing.assert_array_equal(found["center"][0], found["resized"][0])
    assert not np.array_equal(found["center"][1], found["resized"][1])


def test_a_view_is_made_when_an_order_asks_for_it(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenising one may take longer than the screen: a race that its screen decides needs none."""
    made: list[int] = []
    encode = Views._encode

    def counted(self: Views, view: int) -> object:
        made.append(view)
        return encode(self, view)

    monkeypatch.setattr(Views, "_encode", counted)
    classifier = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    options = RaceOptions(rule="gradient", crops="resized")
    classifier.classify(noise(50, 70, 2), options)  # looks at the machine with a picture of its own
    made.clear()
    assert classifier.classify(noise(50, 70, 3), options).orders == 0 and made == [VIEW_OF_SCREENS]
    made.clear()
    orders = RaceOptions(rule="fixed", max_orders=2, crops="resized")
    assert classifier.classify(noise(50, 70, 3), orders).orders == 2 and made == [0, 1]
    made.clear()
    classifier.classify(noise(50, 70, 3), replace(orders, screens=("gradient",)))
    assert made == [VIEW_OF_SCREENS, 0, 1]
