"""The single-stream transformer: a proper any-order density, and RandAR's interface."""

import itertools

import numpy as np
import pytest
import torch

from anytime_cls.models.load import build_transformer
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig, SigmaConfig
from anytime_cls.scorers.sigma import SigmaGPT

SHAPE = {"dim": 32, "n_layer": 2, "n_head": 2, "vocab_size": 11, "n_tokens": 16, "n_classes": 3}


def scrambled(model):
    """Weights large enough that every input matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return scrambled(SigmaGPT(SigmaConfig(**SHAPE)))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, 11, (6, 16)))
    orders = torch.from_numpy(np.stack([rng.permutation(16) for _ in range(6)]))
    return tokens, torch.tensor([0, 1, 2, 3, 0, 1]), orders  # 3 is the null class


@pytest.mark.parametrize("layout", ["randar", "sigma"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_the_probabilities_of_all_images_sum_to_one(layout, order):
    """Σ_x p(x | order, class) = 1 over all 3⁴ images: a density, whatever the order."""
    small = scrambled(build_transformer(layout, SHAPE | {"vocab_size": 3, "n_tokens": 4}))
    images = torch.tensor(list(itertools.product(range(3), repeat=4)))
    orders = torch.tensor([order]).expand(len(images), 4)
    with torch.inference_mode():
        log_p = small(images, torch.full((len(images),), 1), orders).double().sum(dim=1)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert log_p.std() > 0.1


def test_a_later_token_changes_nothing_before_it(model, rows):
    tokens, classes, orders = rows
    changed = tokens.clone()
    at = orders[:, 9:10]
    changed.scatter_(1, at, (tokens.gather(1, at) + 1) % 11)
    with torch.inference_mode():
        before, after = model(tokens, classes, orders), model(changed, classes, orders)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_the_places_of_read_and_next_token_matter(model, rows):
    """Swapping the last two places of an order moves the prediction, though the same tokens were read."""
    tokens, classes, orders = rows
    same = torch.full_like(tokens, 4)
    other = orders.clone()
    other[:, [14, 15]] = orders[:, [15, 14]]
    with torch.inference_mode():
        a, b = model(same, classes, orders), model(same, classes, other)
    assert torch.equal(a[:, :14], b[:, :14]) and not torch.allclose(a[:, 14], b[:, 14])


@pytest.mark.parametrize("prefix", [1, 5, 15, 16])
def test_a_prefix_gives_the_first_tokens(model, rows, prefix):
    with torch.inference_mode():
        part, whole = model(*rows, prefix), model(*rows)
    assert part.shape == (6, prefix)
    assert torch.allclose(part, whole[:, :prefix], atol=1e-5)


def test_a_prefix_out_of_range_is_refused(model, rows):
    with pytest.raises(ValueError, match="prefix must be 1 to 16, got 17"):
        model(*rows, 17)


@pytest.mark.parametrize("numbers", [1, 700, 1 << 30])
def test_scoring_in_place_equals_scoring_with_gradients(model, rows, numbers, monkeypatch):
    monkeypatch.setattr("anytime_cls.scorers.transformer.SLICE", numbers)
    with torch.inference_mode():
        in_place = model(*rows)
    with torch.enable_grad():
        written = model(*rows).detach()
    assert torch.allclose(in_place, written, atol=1e-5)


def test_weights_round_trip_and_wrong_ones_are_named(model, rows):
    again = SigmaGPT(model.config)
    again.load_reference(model.reference_state())
    with torch.inference_mode():
        assert torch.equal(again.eval()(*rows), model(*rows))
    state = model.reference_state()
    with pytest.raises(ValueError, match=r"norm\.weight"):
        again.load_reference({k: v for k, v in state.items() if k != "norm.weight"})
    with pytest.raises(ValueError, match=r"output\.weight has shape \(2, 2\)"):
        again.load_reference(state | {"output.weight": torch.zeros(2, 2)})


def test_a_pass_costs_about_half_of_randar():
    shape = SHAPE | {"dim": 256, "n_layer": 6, "n_head": 4, "n_tokens": 64}
    half = SigmaConfig(**shape).flops() / RandARConfig(**shape).flops()
    assert 0.5 < half < 0.6  # RandAR's last layer skips half of its work already
    config = SigmaConfig(**shape)
    matrices = sum(p.numel() for n, p in SigmaGPT(config).named_parameters() if "layers" in n and p.ndim == 2)
    dense = 2 * 64 * (matrices + 256 * 11)
    assert dense < config.flops() < 1.1 * dense


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="unknown layout 'gpt': choose from randar, sigma"):
        build_transformer("gpt", SHAPE)
    assert isinstance(build_transformer("randar", SHAPE), RandAR)
