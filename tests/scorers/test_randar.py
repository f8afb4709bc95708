"""The transformer against the reference code's numbers, and against itself where only we can know."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig
from anytime_cls.scorers.transformer import score_tokens

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    shape = json.loads((GOLDEN / "randar_small.json").read_text())
    config = RandARConfig(
        dim=shape["dim"], n_layer=shape["n_layer"], n_head=shape["n_head"], vocab_size=shape["vocab_size"],
        n_tokens=shape["block_size"], n_classes=shape["num_classes"],
    )  # fmt: skip
    model = RandAR(config).eval()
    state = load_file(GOLDEN / "randar_small.safetensors")
    model.load_reference(state)
    return model, state, np.load(GOLDEN / "randar_small.npz")


def rows(data):
    n = len(data["classes"])
    tokens = torch.from_numpy(data["tokens"]).expand(n, -1)
    return tokens, torch.from_numpy(data["classes"]), torch.from_numpy(data["orders"])


def test_token_log_probs_equal_the_reference(golden):
    model, _, data = golden
    with torch.inference_mode():
        ours = model(*rows(data)).double().numpy()
    assert np.abs(ours - data["token_log_prob"]).max() < 1e-4
    assert np.abs(ours.sum(1) - data["log_likelihood"]).max() < 1e-3


@pytest.mark.parametrize("prefix", [1, 2, 7, 63, 64])
def test_a_prefix_gives_the_first_tokens(golden, prefix):
    model, _, data = golden
    with torch.inference_mode():
        ours = model(*rows(data), prefix).double().numpy()
    assert ours.shape == (5, prefix)
    assert np.abs(ours - data["token_log_prob"][:, :prefix]).max() < 1e-4


def test_training_attention_equals_inference_attention(golden):
    model, _, data = golden
    with torch.inference_mode():
        fused = model(*rows(data))
    with torch.enable_grad():  # takes the written-out attention on the CPU
        written = model(*rows(data)).detach()
    assert torch.allclose(fused, written, atol=1e-5)


def test_scoring_in_place_equals_scoring_with_gradients(golden, monkeypatch):
    """Without gradients, on a CPU, layers overwrite what they read, a slice at a time."""
    model, state, data = golden
    for prefix in (None, 5):
        with torch.enable_grad():
            out_of_place = model(*rows(data), prefix).detach()
        for numbers in (1, 5000, 1 << 30):
            monkeypatch.setattr("anytime_cls.scorers.transformer.SLICE", numbers)
            with torch.inference_mode():
                assert torch.allclose(model(*rows(data), prefix), out_of_place, atol=1e-5)
    back = model.reference_state()
    assert all(torch.equal(back[key], state[key]) for key in state), "scoring changed the weights"


def test_two_threads_may_score_at_once(golden):
    """What layers overwrite belongs to one call."""
    model, _, data = golden
    tokens, classes, orders = (x.repeat(8, *[1] * (x.ndim - 1)) for x in rows(data))

    @torch.inference_mode()
    def score(shift):
        return model(tokens, (classes + shift) % model.config.n_classes, orders)

    alone = [score(shift) for shift in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(score, [0, 1, 2, 3] * 3))
    assert all(torch.equal(got, alone[i % 4]) for i, got in enumerate(together))


def test_rows_do_not_depend_on_their_batch(golden):
    model, _, data = golden
    tokens, classes, orders = rows(data)
    with torch.inference_mode():
        together = model(tokens, classes, orders)
        alone = torch.cat([model(tokens[i : i + 1], classes[i : i + 1], orders[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_later_token_changes_nothing_before_it(golden):
    """Causality: log p of the first t tokens of an order cannot see token t + 1."""
    model, _, data = golden
    tokens, classes, orders = rows(data)
    changed = tokens.clone()
    last = orders[:, 40:41]
    changed.scatter_(1, last, (tokens.gather(1, last) + 1) % model.config.vocab_size)
    with torch.inference_mode():
        before, after = model(tokens, classes, orders), model(changed, classes, orders)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.equal(before[:, 40:], after[:, 40:])


def test_probabilities_over_the_vocabulary_sum_to_one(golden):
    """Σ_v p(x_1 = v) = 1: the fused log-softmax-gather is normalised."""
    model, _, data = golden
    v, n = model.config.vocab_size, model.config.n_tokens
    order = torch.from_numpy(data["orders"][0]).expand(v, n)
    tokens = torch.from_numpy(data["tokens"]).repeat(v, 1)
    tokens[torch.arange(v), order[:, 0]] = torch.arange(v)
    with torch.inference_mode():
        log_p = model(tokens, torch.full((v,), 3), order, prefix=1).double()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_logits_in_chunks_equal_logits_at_once(golden, monkeypatch):
    model, _, data = golden
    with torch.inference_mode():
        whole = model(*rows(data))
        few = {"cpu": 7 * model.config.vocab_size}
        monkeypatch.setattr("anytime_cls.scorers.transformer.LOGIT_CHUNK", few)
        chunked = model(*rows(data))
    assert torch.allclose(whole, chunked, atol=1e-5)


def test_huge_logits_do_not_overflow():
    """log-sum-exp subtracts the largest logit first, in place and with gradients."""
    output = torch.nn.Linear(4, 40, bias=False)
    with torch.no_grad():
        output.weight.copy_(torch.randn(40, 4, generator=torch.Generator().manual_seed(2)))
    hidden = 1e4 * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(3))
    tokens, orders = torch.tensor([[1, 7, 39, 0]] * 3), torch.tensor([[2, 0, 3, 1]] * 3)
    with torch.no_grad():
        expected = (
            output(hidden).double().log_softmax(-1).gather(2, tokens.gather(1, orders)[..., None])[..., 0]
        )
        in_place = score_tokens(output, hidden, tokens, orders)
    assert in_place.abs().max() > 1e4 and in_place.dtype == torch.float32
    for got in (in_place, score_tokens(output, hidden, tokens, orders).detach()):
        assert torch.allclose(got.double(), expected, rtol=1e-6, atol=1e-2)


def test_reference_state_round_trips(golden):
    model, state, _ = golden
    back = model.reference_state()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layers.1.attention.wo.weight"), "layers.1.attention.wo.weight"),
        (lambda s: s.update({"output.weight": torch.zeros(3, 64)}), "output.weight has shape"),
        (lambda s: s.update({"norm.weight": "text"}), "norm.weight has type str"),
        (lambda s: s.update({"layers.2.ffn_norm.weight": torch.ones(64)}), "more layers"),
    ],
)
def test_wrong_weights_are_refused_by_name(golden, change, message):
    model, state, _ = golden
    wrong = dict(state)
    change(wrong)
    with pytest.raises(ValueError, match=message):
        RandAR(model.config).load_reference(wrong)


def test_bf16_is_close(golden):
    model, state, data = golden
    low = RandAR(model.config)
    low.load_reference(state)
    low = low.to(torch.bfloat16).eval()
    with torch.inference_mode():
        ours = low(*rows(data)).double().numpy()
    assert np.abs(ours - data["token_log_prob"]).max() < 0.15


def test_flops_of_a_prefix_are_its_share():
    """Published size: L has 343 M parameters; a whole pass reads 2N positions, and the head."""
    config = RandARConfig(1024, 24, 16, 16384, 256, 1000)
    parameters = sum(p.numel() for p in RandAR(config).parameters())
    assert parameters == pytest.approx(343e6, rel=0.005)
    dense = 2 * 512 * 24 * (4 * 1024**2 + 3 * 1024 * 2816) + 2 * 256 * 1024 * 16384
    assert config.flops() == pytest.approx(dense, rel=0.06)
    assert config.flops(64) / config.flops() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="square"):
        RandAR(RandARConfig(64, 1, 4, 8, 60, 2))
