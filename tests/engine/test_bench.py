"""The benchmark: what it times is what a pass does, and the search for a batch keeps to memory and time."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from anytime_cls.engine import bench
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig, SigmaConfig
from anytime_cls.scorers.sigma import SigmaGPT

CPU = torch.device("cpu")
SHAPE = RandARConfig(dim=32, n_layer=3, n_head=2, vocab_size=50, n_tokens=16, n_classes=5)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def model():
    return bench.random_model(SHAPE, CPU, torch.float32)


def test_shapes_by_name_and_by_number():
    published = bench.parse_shape("randar-l")
    assert (published.dim, published.n_layer, published.n_head, published.vocab_size) == (1024, 24, 16, 16384)
    assert bench.parse_shape("randar-xl").n_layer == 36
    assert bench.parse_shape("32,3,2,50,5,16") == SHAPE


@pytest.mark.parametrize(
    "text", ["randar-s", "", "1,2,3", "32,3,2,50,5,x", "32,0,2,50,5,16", "32,3,2,50,5,-16"]
)
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="a shape is randar-l, randar-xl or DIM,LAYERS"):
        bench.parse_shape(text)


def test_random_weights_give_probabilities_that_depend_on_the_class(model):
    with torch.inference_mode():
        log_p = model(*bench.rows_of(model, 3))
    assert log_p.shape == (3, 16) and (log_p < 0).all() and not torch.equal(log_p[0], log_p[1])


def test_rows_are_one_image_in_one_order_over_classes(model):
    tokens, classes, orders = bench.rows_of(model, 7)
    assert (tokens == tokens[0]).all() and (orders == orders[0]).all()
    assert classes.tolist() == [0, 1, 2, 3, 4, 0, 1] and sorted(orders[0].tolist()) == list(range(16))


@pytest.mark.parametrize(
    ("net", "spared"),
    [
        # RandAR's last layer does wo, w13, w2 and a third of wqkv at position tokens only: half of them
        (lambda: RandAR(SHAPE), lambda p: p * 16 * 2 * (2 * 32 * 32 + 3 * 32 * SHAPE.hidden_dim)),
        (lambda: SigmaGPT(SigmaConfig(**SHAPE.to_dict())), lambda p: 0),
    ],
)
def test_the_products_are_a_pass_without_its_attention(net, spared):
    net = net()
    products = [(linear, n) for linears, n in bench.products(net, 3, 16) for linear in linears]
    assert len(products) == 4 * 3 + 1 and products[-1] == (net.output, 3 * 16)
    flops = sum(2 * n * linear.weight.numel() for linear, n in products) - spared(3)
    attention = 3 * net.config.flops() - flops
    assert 0 < attention < 0.05 * flops


def test_the_ceiling_is_the_rate_of_the_products_that_it_runs(model, monkeypatch):
    """Every position costs a second here, whatever is multiplied."""
    ceiling = bench.Ceiling(model, 2, 16)
    ran = []

    def second_a_position(work, device):
        work()
        ran.append(work.__defaults__[1].shape[0] * len(work.__defaults__[0]))
        return float(ran[-1])

    monkeypatch.setattr(bench, "seconds_of", second_a_position)
    rate = ceiling()
    weights = 3 * (4 * 32**2 + 3 * 32 * SHAPE.hidden_dim)
    assert ran == [3 * 64] * 4 + [32]
    assert rate == pytest.approx(2 * (64 * weights + 32 * 32 * 50) / (4 * 3 * 64 + 32))


def test_measure_repeats_every_size_in_turns(model):
    calls = []

    def run(tokens, classes, orders, prefix):
        calls.append((len(tokens), prefix))
        return model(tokens, classes, orders, prefix)

    rows = bench.measure(model, [4, 1], [8, 16], seconds=0.0, run=run)
    sizes = [(1, 8), (4, 8), (1, 16), (4, 16)]
    assert [(row.rows, row.prefix) for row in rows] == sizes
    assert calls == sizes + bench.LEAST * sizes  # once for memory, then in turns
    for row in rows:
        out = row.to_dict()
        assert out["repetitions"] == bench.LEAST == len(row.ceilings)
        assert row.flops == row.rows * SHAPE.flops(row.prefix)
        assert 0 < out["share_of_ceiling"]["min"] <= out["share_of_ceiling"]["median"]


def test_a_row_gives_medians_and_spread():
    row = bench.Row(rows=4, prefix=8, flops=100.0, seconds=[1.0, 4.0, 2.0], ceilings=[200.0, 50.0, 100.0])
    out = row.to_dict()
    assert out["passes_per_second"] == 2 and out["flops_per_second"] == 50
    assert out["seconds"] == {"median": 2, "min": 1, "max": 4}
    assert out["share_of_ceiling"] == {"median": 0.5, "min": 0.5, "max": 0.5}


@linux
def test_peak_memory_sees_what_a_call_holds():
    size = 64 << 20

    def hold():
        return bytearray(size).find(1)  # touched page by page, freed on return

    hold()
    for _ in range(2):  # what the first call freed does not hide the second's
        assert 0.95 * size < bench.peak_memory(hold, CPU) < 1.2 * size


@linux
def test_the_estimate_of_a_tile_covers_what_it_needs():
    net = bench.random_model(RandARConfig(256, 2, 4, 4096, 64, 10), CPU, torch.float32)
    with torch.inference_mode():
        needed = bench.peak_memory(lambda: net(*bench.rows_of(net, 16)), CPU)
    assert (4 << 20) < needed < bench.tile_bytes(net, 16)


def test_free_memory_is_of_this_machine():
    assert (1 << 20) < bench.free_memory(CPU) < (1 << 50)


def fake_clock(monkeypatch, speed):
    """Seconds by rows, in place of a clock."""
    asked = []

    def seconds_of(work, device):
        rows = len(work.args[0])
        asked.append(rows)
        return rows / speed(rows)

    monkeypatch.setattr(bench, "seconds_of", seconds_of)
    return asked


def test_the_smallest_tile_within_two_percent_of_the_fastest_is_chosen(model, monkeypatch):
    asked = fake_clock(monkeypatch, lambda rows: 1e6 * {1: 1, 2: 5, 4: 9.9, 8: 10}.get(rows, 8))
    found = bench.largest_batch(model, most=64)
    assert found.tile == 4 and found.rows == 64
    assert list(found.passes_per_second) == [1, 2, 4, 8, 16]  # two doublings in a row brought nothing
    assert max(asked) == 16


def test_no_tile_is_tried_that_does_not_fit(model, monkeypatch):
    fake_clock(monkeypatch, lambda rows: 1e6 * rows)
    memory = int(bench.tile_bytes(model, 8) / bench.SHARE_OF_MEMORY) + 1
    found = bench.largest_batch(model, memory=memory)
    assert (found.rows, found.tile, list(found.passes_per_second)) == (8, 8, [1, 2, 4, 8])
    assert bench.largest_batch(model, memory=0).tile == 1  # one row is always tried


def test_the_search_ends_where_memory_does_all_the_same(model, monkeypatch):
    def speed(rows):
        if rows == 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1e6 * rows

    fake_clock(monkeypatch, speed)
    found = bench.largest_batch(model)
    assert (found.rows, found.tile) == (4, 4)


def test_not_even_one_row_is_an_error(model, monkeypatch):
    def speed(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    fake_clock(monkeypatch, speed)
    with pytest.raises(torch.OutOfMemoryError):
        bench.largest_batch(model)


def test_the_search_keeps_to_its_time(model, monkeypatch):
    now = [0.0]
    fake_clock(monkeypatch, lambda rows: 1.0)
    clock = bench.seconds_of

    def seconds_of(work, device):
        took = clock(work, device)
        now[0] += took
        return took

    monkeypatch.setattr(bench, "seconds_of", seconds_of)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    found = bench.largest_batch(model, seconds=10)
    assert list(found.passes_per_second) == [1, 2] and now[0] <= 10


def test_the_search_measures_a_real_model(model):
    found = bench.largest_batch(model, seconds=0.2, most=4)
    assert found.rows == 4 and found.tile in found.passes_per_second
    assert all(np.isfinite(speed) and speed > 0 for speed in found.passes_per_second.values())
