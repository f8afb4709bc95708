"""Tokens that have seen no labels: views, agreement, a teacher and what is learnt from it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from anytime_cls.training import selfsupervised
from anytime_cls.training.distort import colours, crops, distorted
from anytime_cls.training.recipe import Recipe
from anytime_cls.training.selfsupervised import Teacher, Tokens, agreement, distil, fit_selfsupervised

RECIPE = Recipe(
    image_size=16, widths=(8, 8, 16), blocks=(1, 1, 1), levels=(2,) * 6, tokens="selfsupervised",
    tokenizer_epochs=3, tokenizer_lr=0.1, teacher_epochs=2, teacher_width=4, distil_epochs=3, batch_size=32,
)  # fmt: skip
CPU = torch.device("cpu")


def quiet(*args):
    pass


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    """Noise of one of four colours: views of a picture have its colour only."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 4, 96)
    level = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])[colour]
    pixels = level[:, :, None, None] + rng.integers(-40, 40, (96, 3, 16, 16))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


def places(folder):
    return {name: folder / f"{name}.pt" for name in ("tokenizer", "teacher", "distillation")}


def test_agreement_is_simclrs_equation_1():
    z = torch.nn.functional.normalize(torch.randn(8, 5, generator=seeded(0)), dim=1)
    expected = []
    for i in range(8):
        partner = (i + 4) % 8
        others = [math.exp(float(z[i] @ z[k]) / 0.3) for k in range(8) if k != i]
        expected.append(-math.log(math.exp(float(z[i] @ z[partner]) / 0.3) / sum(others)))
    assert float(agreement(z, 0.3)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_two_views_differ_and_a_seed_gives_the_same_ones(images):
    a, b = (distorted(images, seeded(1)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, distorted(images, seeded(2)))
    assert a.shape == images.shape and a.min() >= -1 and a.max() <= 1


def test_a_crop_of_everything_is_the_picture_or_its_mirror_image(images):
    pixels = images.float()
    found = crops(pixels, seeded(0), smallest=1.0)
    ratio = [(found[i] - pixels[i]).abs().mean() for i in range(len(pixels))]
    turned = [(found[i] - pixels[i].flip(-1)).abs().mean() for i in range(len(pixels))]
    # the ratio of the sides is drawn too, and cannot exceed the picture: half of the crops lose a strip
    best = torch.tensor([min(a, b) for a, b in zip(ratio, turned, strict=True)])
    mirrored = torch.tensor([b < a for a, b in zip(ratio, turned, strict=True)]).float().mean()
    assert best.median() < 40 and 0.3 < mirrored < 0.7


def test_some_pictures_turn_grey_and_some_stay_as_they_are(images):
    many = images[:1].float().expand(2000, -1, -1, -1) / 255
    found = colours(many, seeded(0))
    grey = (found.amax(1) - found.amin(1)).amax((1, 2)) < 0.02
    same = (found - many).abs().amax((1, 2, 3)) < 1e-4
    assert grey.float().mean() == pytest.approx(0.2, abs=0.04)
    assert same.float().mean() == pytest.approx(0.2 * 0.8, abs=0.04)


def test_the_finished_tokenizer_gives_the_codes_that_were_trained(images):
    torch.manual_seed(0)
    tokens = Tokens(RECIPE.fsq_config())
    pixels = images.float() / 127.5 - 1
    with torch.no_grad():
        tokens(pixels)  # moves the norms
        codes = tokens.eval()(pixels)
        bits = (codes > 0).long()
        expected = (bits * (2 ** torch.arange(6)).view(1, 6, 1, 1)).sum(1).flatten(1)
        found = tokens.finished().encode(pixels)
    assert (
        found == expected
    ).float().mean() > 0.999  # fused, a number next to a threshold may round elsewhere


def test_tokens_of_a_colour_are_alike_and_no_bit_is_constant(images, tmp_path):
    recipe = dataclasses.replace(RECIPE, tokenizer_epochs=12, teacher_epochs=0)
    tokenizer = fit_selfsupervised(images, recipe, places(tmp_path), CPU, quiet)
    assert not (tmp_path / "teacher.pt").exists()
    tokens = tokenizer.encode(images.float() / 127.5 - 1)
    bits = (tokens[:, :, None] >> torch.arange(6)) & 1
    mean = bits.double().mean((0, 1))
    assert ((mean > 0.02) & (mean < 0.98)).all()
    profile = bits.double().mean(1)
    colour = images.float().mean((2, 3)).gt(128).long() @ torch.tensor([1, 2, 4])
    within = torch.stack([profile[colour == c].var(0).sum() for c in colour.unique()]).mean()
    assert within < 0.5 * profile.var(0).sum()


def test_distillation_tells_the_teachers_features_better_and_better(images, tmp_path):
    torch.manual_seed(0)
    losses = []
    tokens, teacher = Tokens(RECIPE.fsq_config()), Teacher(4)
    recipe = dataclasses.replace(RECIPE, distil_epochs=20)
    distil(tokens, teacher, images, recipe, tmp_path / "d.pt", CPU, lambda *said: losses.append(said[3]))
    assert losses[-1] < 0.75 * losses[0]


def test_a_run_cut_short_in_any_part_ends_with_the_same_tokenizer(images, tmp_path, monkeypatch):
    for name in ("straight", "cut"):
        (tmp_path / name).mkdir()
    straight = fit_selfsupervised(images, RECIPE, places(tmp_path / "straight"), CPU, quiet)
    loop = selfsupervised._loop
    monkeypatch.setattr(selfsupervised, "_loop", lambda *args: loop(*args, every=0.0))

    class Killed(Exception):
        pass

    for part, at in (("tokenizer", 5), ("teacher", 3), ("distillation", 4)):

        def report(stage, step, *rest, part=part, at=at):
            if (stage, step) == (part, at):
                raise Killed

        with pytest.raises(Killed):
            fit_selfsupervised(images, RECIPE, places(tmp_path / "cut"), CPU, report)
    resumed = fit_selfsupervised(images, RECIPE, places(tmp_path / "cut"), CPU, quiet)
    for key, value in straight.state_dict().items():
        assert torch.allclose(value.float(), resumed.state_dict()[key].float(), atol=1e-5), key
