"""The models that an any-order one is compared with learn what there is to learn, at toy size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anytime_cls.scorers.dit import DiT
from anytime_cls.scorers.peers import DiscriminativeConfig, DiTConfig, HeadConfig, RasterConfig
from anytime_cls.scorers.reader import Discriminative, Head
from anytime_cls.scorers.sigma import SigmaGPT
from anytime_cls.training.peers import (
    Limit,
    Schedule,
    fit,
    fit_autoregressive,
    fit_discriminative,
    fit_dit,
    fit_head,
)
from anytime_cls.training.weighting import errors_of, fit_weighting

IMAGES, CLASSES, CODES, PLACES = 300, 3, 32, 16
QUICK = Schedule(Limit(steps=120), batch_size=64, lr=5e-3)
SMALL = {"vocab_size": CODES, "n_tokens": PLACES, "n_classes": CLASSES}
BLOCKS = {"dim": 32, "n_layer": 1, "n_head": 1, "multiple_of": 32, **SMALL}


@pytest.fixture(scope="module")
def data():
    """Classes with a typical token (half the time) at each place, and a typical latent under noise."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (IMAGES,), generator=g)
    typical = torch.randint(CODES, (CLASSES, PLACES), generator=g)
    other = torch.randint(CODES, (2, IMAGES, PLACES), generator=g)
    tokens = torch.where(torch.rand(other.shape, generator=g) < 0.5, typical[labels], other).int()
    mean = torch.randn(CLASSES, 4, 4, 4, generator=g)[labels]
    latents = mean + torch.randn(2, IMAGES, 4, 4, 4, generator=g)
    return tokens, (3 + latents / 4).half(), labels


def accuracy(scores, labels):
    return (scores.argmax(1) == labels).float().mean().item()


def test_raster(data):
    tokens, _, labels = data
    model = fit_autoregressive(tokens[:1, :200], labels[:200], RasterConfig(**BLOCKS), QUICK)
    raster = torch.arange(PLACES).expand(100, -1)
    with torch.inference_mode():
        scores = torch.stack(
            [model(tokens[0, 200:].long(), torch.full((100,), c), raster).sum(1) for c in range(CLASSES)], 1
        )
    assert accuracy(scores, labels[200:]) > 0.9 and not model.training


def test_class_vectors_of_raster_orders_learn_at_their_rate(data):
    """As those of the any-order model that it is compared with: seven times as far as the tokens' vectors."""
    tokens, _, labels = data
    few = dataclasses.replace(QUICK, limit=Limit(steps=2), weight_decay=0.0)
    moved = {}
    for rate in (1.0, 7.0):
        schedule = dataclasses.replace(few, class_rate=rate)
        model = fit_autoregressive(tokens, labels, RasterConfig(**BLOCKS), schedule, class_dropout=0.0)
        torch.manual_seed(schedule.seed + 1)
        begun = SigmaGPT(RasterConfig(**BLOCKS))
        moved[rate] = [
            (getattr(model, name).weight - getattr(begun, name).weight).abs().max().item()
            for name in ("cls_embedding", "tok_embeddings")
        ]
    assert moved[1.0][0] == pytest.approx(moved[1.0][1], rel=0.02)
    assert moved[7.0] == pytest.approx([7 * moved[1.0][0], moved[1.0][1]], rel=0.02)


@pytest.mark.parametrize("kind", ["transformer", "head"])
def test_discriminative(kind, data):
    tokens, _, labels = data
    seen = tokens[:, :200], labels[:200]
    net: nn.Module = (
        fit_discriminative(*seen, DiscriminativeConfig(**BLOCKS), QUICK)
        if kind == "transformer"
        else fit_head(*seen, HeadConfig(16, **SMALL), QUICK)
    )
    with torch.inference_mode():
        assert accuracy(net(tokens[0, 200:].long()), labels[200:]) > 0.9


def test_dit_and_its_weighting(data):
    _, latents, labels = data
    config = DiTConfig(32, 1, 1, 4, PLACES, CLASSES)
    net = fit_dit(latents[:, :200], labels[:200], config, dataclasses.replace(QUICK, limit=Limit(steps=250)))
    z = net.standardised(latents[0].float())
    assert z.mean().abs() < 0.2 and (z.std() - 1).abs() < 0.1
    errors, times = errors_of(net, latents[0, 200:], draws=8)
    assert errors.shape == (100, 8, CLASSES) and ((times >= 0) & (times < 1)).all()
    assert (np.sort(times, axis=1)[:, ::2] < np.arange(1, 5) / 4 + 1e-6).all()  # one or two in each quarter
    weighting = fit_weighting(errors, times, labels[200:].numpy())
    t, w = np.array(weighting).T
    assert t[0] == 0 and t[-1] == 1 and (w > 0).all()
    scores = -(np.exp(np.interp(times, t, np.log(w)))[:, :, None] * errors).sum(1)
    assert accuracy(torch.from_numpy(scores), labels[200:]) > 0.7


def test_weights_are_those_of_the_times_that_tell():
    """Only early times tell the classes apart here, and late ones mislead: w falls with t."""
    rng = np.random.default_rng(0)
    times = rng.random((400, 16))
    labels = rng.integers(0, 4, 400)
    errors = rng.normal(0, 1, (400, 16, 4))
    errors -= np.where(times[:, :, None] < 0.4, 2.0, 0.0) * np.eye(4)[labels][:, None]
    w = dict(fit_weighting(errors, times, labels))
    assert w[0.125] > 3 * w[0.875] and w[0.25] > 3 * w[0.75]


def test_a_training_that_was_cut_short_goes_on_as_if_it_had_not_been(data, tmp_path, monkeypatch):
    tokens, _, labels = data
    config, schedule = HeadConfig(8, **SMALL), Schedule(Limit(steps=48), batch_size=64)
    whole = fit_head(tokens, labels, config, schedule).state_dict()
    saved = dataclasses.replace(schedule, checkpoint=tmp_path / "c.pt")

    def stopped(stage, step, steps, loss, rate):
        if step == 32:
            raise KeyboardInterrupt

    now = iter(range(0, 10**6, 61))  # a minute a look: every look is written down
    monkeypatch.setattr("anytime_cls.training.peers.time.monotonic", lambda: next(now))
    with pytest.raises(KeyboardInterrupt):
        fit_head(tokens, labels, config, dataclasses.replace(saved, report=stopped))
    assert (tmp_path / "c.pt").exists()
    resumed = fit_head(tokens, labels, config, saved).state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_limits():
    assert Limit(flops=1e6).steps_of(1e4) == 100 and Limit(seconds=5).steps_of(1e4) is None
    assert Limit(steps=7, flops=1e6).steps_of(1e4) == 7
    with pytest.raises(ValueError, match="needs a limit"):
        Limit()


def test_the_clock_ends_a_training_and_its_rate(monkeypatch):
    """A second a look at the clock, of which there is one a step: ten seconds are about ten steps."""
    now = iter(range(10**6))
    monkeypatch.setattr("anytime_cls.training.peers.time.monotonic", lambda: next(now))
    net = nn.Linear(2, 2)
    seen = []

    def loss_of(model, index, generator):
        seen.append(index)
        return model(torch.ones(len(index), 2)).square().mean()

    fit("made up", net, 10, 1.0, loss_of, Schedule(Limit(seconds=10), batch_size=5))
    assert 8 <= len(seen) <= 12
    assert sorted(torch.cat(seen[:2]).tolist()) == list(range(10))  # an epoch has every example once
    assert sorted(torch.cat(seen[2:4]).tolist()) == list(range(10)) and not torch.equal(seen[0], seen[2])


def test_a_loss_that_is_none_is_an_error():
    def loss_of(model, index, generator):
        return model(torch.ones(1, 2)).sum() * torch.inf

    with pytest.raises(ValueError, match="made up: the loss became"):
        fit("made up", nn.Linear(2, 2), 4, 1.0, loss_of, Schedule(Limit(steps=1)))


@pytest.mark.parametrize(
    "net",
    [
        SigmaGPT(RasterConfig(128, 4, 4, 1024, 64, 10, multiple_of=64)),
        Discriminative(DiscriminativeConfig(128, 4, 4, 1024, 64, 10, multiple_of=64)),
        Head(HeadConfig(64, 1024, 64, 10)),
        DiT(DiTConfig(128, 4, 4, 16, 64, 10)),
    ],
    ids=lambda net: type(net).__name__,
)
def test_sizes_and_costs(net):
    """All are small enough to ship, and the counted FLOPs are those that torch counts."""
    numbers = sum(value.numel() for value in net.state_dict().values())
    assert 2 * numbers <= 3e6
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    place = torch.arange(64)[None]
    given = {
        "SigmaGPT": lambda: net(tokens, torch.zeros(1, dtype=torch.int64), place),
        "Discriminative": lambda: net(tokens),
        "Head": lambda: net(tokens),
        "DiT": lambda: net(torch.zeros(1, 16, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64)),
    }[type(net).__name__]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        given()
    steps = 64 if isinstance(net, SigmaGPT) else 1  # of which causal attention is counted half
    assert counter.get_total_flops() == pytest.approx(net.config.flops(steps), rel=0.04)
