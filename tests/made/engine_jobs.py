"""A small transformer, engines on it and on slow ones, and jobs for them: for the engine's tests."""

import numpy as np
import torch

from anytime_cls.draws.orders import OrderSampler
from anytime_cls.engine.engine import Engine as EngineOf
from anytime_cls.engine.job import Job
from anytime_cls.race.peers import FunnelRule
from anytime_cls.race.race import Race
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig

N, C = 16, 6


def small_net():
    """Not narrower than 64: with fewer columns, MKL's AVX2 kernels round by a row's place in the batch."""
    torch.manual_seed(0)
    net = RandAR(RandARConfig(dim=64, n_layer=2, n_head=2, vocab_size=64, n_tokens=N, n_classes=C))
    torch.nn.init.normal_(net.output.weight, std=0.3)
    torch.nn.init.normal_(net.cls_embedding.weight, std=0.5)
    return net.eval()


def Engine(net, batch_size=None, identity=None):
    """An engine on a transformer, which nothing is encoded for."""
    return EngineOf(AnyOrder(net, None), batch_size, identity, probe=lambda: np.zeros(N, int))


def job(index, rule=None, k_max=8, budget=None, classes=None, sampler="uniform", prefixes=(), length=0):
    rng = np.random.default_rng(index)
    ids = np.arange(C) if classes is None else np.array(classes)
    orders = OrderSampler(sampler, N, seed=5, prefix=length or None)
    race = Race(len(ids), k_max // orders.block, rule or FunnelRule(), orders.block)
    content = index.to_bytes(2, "big")
    tokens = rng.integers(0, 24, N)
    return Job(index, tokens, content, race, ids, orders, length or N, 5, budget, prefixes=prefixes)


def by_index(jobs):
    return {j.index: j for j in jobs}


class SlowModel(torch.nn.Module):
    """A model whose passes take a given time on the clock; `noise` multiplies it, batch by batch."""

    def __init__(self, net, clock=None, seconds_per_pass=0.0, noise=lambda: 1.0):
        super().__init__()
        self.net, self.config, self.output = net, net.config, net.output
        self.clock, self.seconds_per_pass, self.noise = clock, seconds_per_pass, noise

    def forward(self, tokens, classes, orders, prefix=None):
        if self.clock:
            share = self.config.flops(prefix or N) / self.config.flops()
            self.clock.now += self.seconds_per_pass * len(tokens) * share * self.noise()
        return self.net(tokens, classes, orders, prefix)


class Stub(torch.nn.Module):
    """Answers at once: every token has the same probability, whatever the class."""

    def __init__(self):
        super().__init__()
        self.config, self.output = RandARConfig(8, 1, 1, 24, N, C), torch.nn.Linear(1, 1)

    def forward(self, tokens, classes, orders, prefix=None):
        return torch.full((len(tokens), prefix or N), -3.0)
