"""Raster, masked, discriminative and diffusion models as scorers: their formulas, word for word."""

from __future__ import annotations

import json
import math

import numpy as np
import peer_models
import pytest
import torch
import torch.nn.functional as F

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.draws.base import Draw
from anytime_cls.models.card import ModelError
from anytime_cls.models.zoo import read_card
from anytime_cls.plan.make import make
from anytime_cls.plan.options import RaceOptions
from anytime_cls.scorers.base import Piece
from anytime_cls.scorers.dit import frequencies, sines
from anytime_cls.scorers.masked import burst
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.registry import method
from anytime_cls.scorers.shapes import RandARConfig, SigmaConfig
from anytime_cls.scorers.sigma import SigmaGPT
from anytime_cls.testing import check_scorer
from anytime_cls.tokenizers.base import with_noise


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("peers")
    return {kind: peer_models.write(kind, root / kind) for kind in peer_models.KINDS}


def loaded(name):
    card = read_card(str(name))
    return card, method(card.method).load(card, "cpu", "float32")


@pytest.mark.parametrize("kind", peer_models.KINDS)
def test_they_keep_their_word(kind, folders):
    card, scorer = loaded(folders[kind])
    samplers = ("uniform", "levels", "antithetic") if kind == "diffusion" else ("uniform",)
    for sampler in samplers:
        check_scorer(scorer, card.image_size, len(card.labels), sampler)


@pytest.mark.parametrize("sampler", ["uniform", "levels"])
def test_masked_keeps_its_word(tiny_model_dir, sampler):
    card, scorer = loaded(f"masked:{tiny_model_dir}")
    assert card.tokens == 1 and card.method == "masked" and not card.fitted.fits
    check_scorer(scorer, card.image_size, len(card.labels), sampler)


@pytest.mark.parametrize("kind", [*peer_models.KINDS, "masked"])
def test_in_other_number_formats(kind, folders, tiny_model_dir):
    """bf16 gives what float32 gives, roughly."""
    card = read_card(f"masked:{tiny_model_dir}" if kind == "masked" else str(folders[kind]))
    crops = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    found = []
    for dtype in ("float32", "bfloat16"):
        scorer = method(card.method).load(card, "cpu", dtype)
        draw = scorer.shape.draws("uniform", scorer.shape.steps).at(0, b"a", 1)
        classes = np.arange(len(card.labels))
        found.append(scorer.score([Piece(scorer.encode(crops)[0], draw, classes)], [scorer.shape.steps])[0])
    assert np.allclose(found[1], found[0], rtol=0.05, atol=0.1) and not np.array_equal(*found)


# ---- raster


def test_a_raster_model_knows_one_order(folders):
    card, scorer = loaded(folders["raster"])
    plan = make(RaceOptions(), card)
    assert plan.design.k_max == 1 and plan.design.draws == "raster" and plan.tokens == 64
    assert np.array_equal(plan.draws.at(0, b"a", 0).what[0], np.arange(64))
    assert not card.shape.screens and not scorer.screens
    with pytest.raises(ValueError, match="raster order only, not 'stratified'"):
        make(RaceOptions(orders="stratified", prefix=16), card)
    assert make(RaceOptions(crops="random", max_orders=8), card).design.k_max == 8


def test_prefixes_of_its_only_order_are_raced(folders):
    """Rungs of a raster model: running sums of the same numbers."""
    _, scorer = loaded(folders["raster"])
    crops = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    piece = Piece(scorer.encode(crops)[0], scorer.shape.draws("uniform", 64).at(0, b"", 0), np.arange(4))
    model, tokens = scorer.model, torch.from_numpy(np.stack([piece.encoded] * 4))
    with torch.inference_mode():
        log_p = model(tokens, torch.arange(4), torch.arange(64).expand(4, -1)).double().cumsum(1)
    (found,) = scorer.score([piece], [4, 16, 64])
    assert np.allclose(found, log_p[:, [3, 15, 63]].numpy(), atol=1e-3)


# ---- masked


@pytest.fixture(scope="module", params=["sigma", "randar"])
def any_order(request):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        sizes = {"vocab_size": 12, "n_tokens": 9, "n_classes": 3, "multiple_of": 32}
        model = (
            SigmaGPT(SigmaConfig(32, 2, 2, **sizes))
            if request.param == "sigma"
            else RandAR(RandARConfig(32, 2, 2, **sizes))
        )
        for name, value in model.named_parameters():
            if value.ndim > 1:
                torch.nn.init.normal_(value, std=1.0 if "emb" in name else 0.3)
        tokens = torch.randint(12, (4, 9))
        orders = torch.rand(4, 9).argsort(dim=1)
    return model.eval(), tokens, torch.tensor([0, 1, 2, 0]), orders


@torch.inference_mode()
def test_a_burst_is_the_trained_conditionals(any_order):
    """Each of its tokens is what the model says of it when it comes right after the context."""
    model, tokens, classes, orders = any_order
    for revealed in (0, 1, 4, 8):
        found = burst(model, tokens, classes, orders, torch.full((4,), revealed))
        assert torch.allclose(found[:, :revealed], model(tokens, classes, orders)[:, :revealed], atol=1e-5)
        for j in range(revealed, 9):
            next_up = orders.clone()
            next_up[:, [revealed, j]] = orders[:, [j, revealed]]
            one = model(tokens, classes, next_up, revealed + 1)[:, revealed]
            assert torch.allclose(found[:, j], one, atol=1e-5), (revealed, j)


@torch.inference_mode()
def test_rows_may_reveal_different_numbers(any_order):
    model, tokens, classes, orders = any_order
    revealed = torch.tensor([0, 3, 5, 8])
    together = burst(model, tokens, classes, orders, revealed)
    for i in range(4):
        one = slice(i, i + 1)
        alone = burst(model, tokens[one], classes[one], orders[one], revealed[one])
        assert torch.allclose(together[one], alone, atol=1e-5)


@torch.inference_mode()
def test_bursts_estimate_what_orders_do(any_order):
    """Of one token that is left the burst is the pass; and over all orders and contexts of a tiny image both
    have the same mean."""
    from itertools import permutations

    model, tokens, _, _ = any_order
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = type(model)(type(model.config)(32, 1, 2, 12, 4, 3, multiple_of=32))
        for name, value in small.named_parameters():
            if value.ndim > 1:
                torch.nn.init.normal_(value, std=1.0 if "emb" in name else 0.3)
    orders = torch.tensor(list(permutations(range(4))))
    n = len(orders)
    image, classes = tokens[:1, :4].expand(n, -1), torch.zeros(n, dtype=torch.int64)
    by_orders = small(image, classes, orders).double().sum(1).mean()
    estimates = []
    for revealed in range(4):
        log_p = burst(small, image, classes, orders, torch.full((n,), revealed)).double()
        estimates.append(4 / (4 - revealed) * log_p[:, revealed:].sum(1).mean())
    assert torch.stack(estimates).mean() == pytest.approx(by_orders.item(), abs=1e-4)


def test_masked_of_what_is_none(folders):
    with pytest.raises(ModelError, match="is no any-order model"):
        read_card(f"masked:{folders['head']}")
    with pytest.raises(ModelError, match="no model 'cifar'"):
        read_card("masked:cifar")


def test_masked_scores_are_those_of_a_burst(tiny_model_dir):
    _, scorer = loaded(f"masked:{tiny_model_dir}")
    crops = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    order, classes = np.random.default_rng(1).permutation(64), np.array([2, 5])
    piece = Piece(scorer.encode(crops)[0], Draw(0, (order, np.array(48))), classes)
    rows = torch.from_numpy(np.stack([piece.encoded] * 2)), torch.from_numpy(np.stack([order] * 2))
    with torch.inference_mode():
        log_p = burst(scorer.model, rows[0], torch.from_numpy(classes), rows[1], torch.tensor([48, 48]))
    (found,) = scorer.score([piece], [1])
    assert np.allclose(found[:, 0], 64 / 16 * log_p[:, 48:].double().sum(1).numpy(), atol=1e-3)


# ---- discriminative


@pytest.mark.parametrize("kind", ["discriminative", "head"])
def test_discriminative_models_are_joint_and_look_once(kind, folders):
    card, scorer = loaded(folders[kind])
    assert card.shape.joint and card.shape.flops(1, 1) == card.shape.flops(1, 1000)
    assert make(RaceOptions(), card).design.k_max == 1
    crops = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    (encoded,) = scorer.encode(crops)
    (found,) = scorer.score([Piece(encoded, Draw(0), np.arange(4))], [1])
    with torch.inference_mode():
        logits = scorer.net(torch.from_numpy(encoded)[None])[0]
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(found[:, 0], logits.log_softmax(0).numpy(), atol=1e-5)


@torch.inference_mode()
def test_the_transformer_sees_everything_and_knows_where():
    """Every token counts, and tokens that change places change the answer; which are given first does not."""
    net = peer_models.network("discriminative")
    tokens = torch.randint(512, (1, 64), generator=torch.Generator().manual_seed(0))
    seen = net(tokens)
    for place in (0, 31, 63):
        changed = tokens.clone()
        changed[0, place] = (tokens[0, place] + 1) % 512
        assert not torch.allclose(net(changed), seen, atol=1e-5)
    shuffle = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(net(tokens[:, shuffle], shuffle[None]), seen, atol=1e-5)
    assert not torch.allclose(net(tokens[:, shuffle]), seen, atol=1e-5)


# ---- diffusion


def test_a_diffusion_score_is_its_formula(folders):
    """−w(t) ‖z − ẑ‖² with ẑ = z_t − t v̂, from the tokenizer's latents on."""
    card, scorer = loaded(folders["diffusion"])
    net, tokenizer = scorer.network, scorer.encoder.tokenizer
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    encoded = scorer.encode(crops)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = (tokenizer.features(pixels) - net.mean) / net.deviation
        assert np.allclose(np.stack(encoded), latents.numpy(), atol=1e-4)
        draw = card.shape.draws("levels", 1).at(0, b"a", 3)
        t, noise = float(draw.what[0]), torch.from_numpy(draw.what[1])
        z = latents[1]
        noisy = (1 - t) * z + t * noise
        wanted = []
        for c in range(4):
            velocity = net(noisy[None], torch.tensor([t]), torch.tensor([c]))[0]
            wanted.append(((z - (noisy - t * velocity)) ** 2).sum().item())
    weight = math.exp(np.interp(t, [0, 0.5, 1], np.log([1, 0.5, 0.1])))
    (found,) = scorer.score([Piece(encoded[1], draw, np.arange(4))], [1])
    assert found[:, 0] == pytest.approx(-weight * np.array(wanted), rel=1e-4)


@torch.inference_mode()
def test_the_diffusion_transformer_is_the_published_one():
    """Its forward pass, written out once more from the paper's text (section 3.2, adaLN-zero)."""
    net = peer_models.network("diffusion")
    g = torch.Generator().manual_seed(0)
    noisy, t, classes = torch.randn(2, 3, 8, 8, generator=g), torch.tensor([0.2, 0.9]), torch.tensor([1, 3])
    x = F.linear(noisy.flatten(2).transpose(1, 2), net.embed.weight, net.embed.bias) + sines(8, 32)
    h = F.silu(F.linear(frequencies(t), net.time1.weight, net.time1.bias))
    c = F.silu(F.linear(h, net.time2.weight, net.time2.bias) + net.cls_embedding.weight[classes])

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    for layer in net.layers:
        part = F.linear(c, layer.modulation.weight, layer.modulation.bias)[:, None].split(32, dim=2)
        y = F.linear(norm(x) * (1 + part[1]) + part[0], layer.qkv.weight, layer.qkv.bias)
        q, k, v = (one.unflatten(2, (2, 16)).transpose(1, 2) for one in y.split(32, dim=2))
        y = ((q @ k.transpose(2, 3)) / 4).softmax(-1) @ v
        x = x + part[2] * F.linear(y.transpose(1, 2).flatten(2), layer.proj.weight, layer.proj.bias)
        y = F.linear(norm(x) * (1 + part[4]) + part[3], layer.fc1.weight, layer.fc1.bias)
        x = x + part[5] * F.linear(F.gelu(y, approximate="tanh"), layer.fc2.weight, layer.fc2.bias)
    shift, scale = F.linear(c, net.modulation.weight, net.modulation.bias)[:, None].split(32, dim=2)
    out = F.linear(norm(x) * (1 + scale) + shift, net.output.weight, net.output.bias)
    assert torch.allclose(net(noisy, t, classes), out.transpose(1, 2).unflatten(2, (8, 8)), atol=1e-4)


def test_the_places_of_a_diffusion_transformer_differ():
    table = sines(4, 16)
    assert table.shape == (16, 16) and len({tuple(row.tolist()) for row in table}) == 16
    assert table[1, 0] == pytest.approx(math.sin(1)) and table[4, 0] == 0  # first the column, then the row
    assert table[4, 8] == pytest.approx(math.sin(1))


def test_latent_noise_is_in_the_latents(folders):
    _, scorer = loaded(folders["diffusion"])
    crops = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    (plain,), (noisy,) = scorer.encode(crops), scorer.encode(crops, 0.5, [b"key"])
    from anytime_cls.draws.keyed import normal

    drawn = torch.from_numpy(normal(b"key", (3, 8, 8)))
    latents = torch.from_numpy(plain)
    assert np.allclose(noisy, with_noise(latents, 0.5, drawn).numpy(), atol=1e-4)


# ---- files


def test_models_are_raced(folders):
    """Each classifies a picture; only a diffusion model needs more than a pass a class."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)
    for kind, folder in folders.items():
        classifier = AnytimeClassifier.load(str(folder), "cpu")
        options = RaceOptions(orders="levels", max_orders=16) if kind == "diffusion" else RaceOptions()
        decision = classifier.classify(picture, options)
        assert decision.label in peer_models.LABELS and decision.stop in ("decided", "max-orders")
        assert decision.orders == (1 if kind != "diffusion" else decision.orders)


@pytest.mark.parametrize("kind", ["discriminative", "head", "diffusion"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"n_classes": 3}}, "labels do not match its 3 classes"),
        ({"model": {"made": 1}}, "unknown field `made`"),
        ({"model": {"vocab_size": 511, "channels": 4}}, "do not fit model.json"),
        ({"model": {"dim": 4096, "width": 4096}}, "4096|a network of"),
        ({"weighting": [[0.5, 1.0], [0.5, 2.0]]}, "must rise"),
        ({"weighting": [[0.0, 0.0], [1.0, 1.0]]}, r"\$.weighting"),
    ],
)
def test_what_a_folder_says_is_checked(kind, change, said, folders, tmp_path):
    fields = json.loads((folders[kind] / "model.json").read_text())
    model = {k: v for k, v in change.get("model", {}).items() if k in fields["model"] or k == "made"}
    if "weighting" in change and kind != "diffusion":
        pytest.skip("only diffusion models have one")
    fields |= {key: value for key, value in change.items() if key != "model"}
    fields["model"] |= model
    for file in folders[kind].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=said) as caught:
        loaded(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shared_tokenizer_is_stored_once(folders, tmp_path, monkeypatch):
    """Of embedded models: found by its hash in another's folder; elsewhere it is missed."""
    from anytime_cls.models import load, zoo

    for kind in ("head", "raster"):
        (tmp_path / kind).mkdir()
        for file in folders[kind].iterdir():
            (tmp_path / kind / file.name).write_bytes(file.read_bytes())
    (tmp_path / "raster" / "tokenizer.safetensors").unlink()
    with pytest.raises(ModelError, match="No such file"):
        loaded(tmp_path / "raster")
    monkeypatch.setattr(zoo, "EMBEDDED", tmp_path)
    monkeypatch.setattr(load, "EMBEDDED", tmp_path)
    _, scorer = loaded("raster")
    assert scorer.shape.n_classes == 4
