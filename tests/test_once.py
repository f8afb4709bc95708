"""A request passes each room once: the card is read, the plan made and its rule made once.

And what is known of a model's races comes whole to whoever replays one of its traces.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from sweep_data import make_images

from anytime_cls.models import known, zoo
from anytime_cls.plan import make as making
from anytime_cls.sweeps import sweep as sweeping
from anytime_cls_cli.main import main


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a model.json is read, a plan made and a rule of it made, wherever they are called from."""
    seen: Counter[str] = Counter()

    def count(module: object, name: str, what: str) -> None:
        call = getattr(module, name)

        def counting(*args: object, **kwargs: object) -> object:
            seen[what] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)

    count(zoo, "_folder_card", "card")
    for module in (making, sweeping):
        count(module, "make", "plan")
    count(making, "fitted_rule", "rule")
    return seen


@pytest.mark.parametrize("command", ["classify", "sweep"])
def test_card_plan_and_rule_are_made_once(command, counted, tmp_path, photo, capsys):
    images = make_images(tmp_path / "images", 1, ["cat", "dog"])
    what = [str(photo), "--json"] if command == "classify" else [str(images), "-o", str(tmp_path / "t.h5")]
    assert main([command, *what, "--model", "cifar10"]) == 0
    assert counted == {"card": 1, "plan": 1, "rule": 1}


def test_a_replay_knows_all_that_the_model_does(tmp_path: Path, capsys):
    """A trace of 32 tokens a pass says what was known of those; the model knows of 16 tokens, too.

    Replayed at the fewer tokens that it recorded, `strict` was refused ("this model has none"), and `paired`
    silently raced without its prior.
    """
    images = make_images(tmp_path / "images", 1, ["goldfish", "tailed frog", "abacus"])
    full = str(tmp_path / "t.h5")
    line = ["sweep", str(images), "--model", "tiny-imagenet", "--classes", "goldfish,abacus,tailed frog"]
    line += ["--rule", "fixed", "--prefix", "32", "--max-orders", "4", "--crops", "resized"]
    assert main([*line, "--record-prefixes", "16", "-o", full, "-q"]) == 0
    assert main(["replay", full, "--prefix", "16", "--rule", "strict", "--delta", "0.1", "--json"]) == 0
    capsys.readouterr()
    with known.Trace.open(full) as trace:
        fitted = known.known_of(trace)
    card = zoo.read_card("tiny-imagenet")
    for draws in (("uniform", 16, "resized"), ("uniform", 32, "resized")):
        assert fitted.of(*draws).priors == card.fitted.of(*draws).priors != {}
    assert fitted.calibrated == card.fitted.calibrated
