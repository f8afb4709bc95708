"""A data set under a shift: the same pictures whoever loads them, whatever else is in the run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from basics import TINY_LABELS
from PIL import Image
from sweep_data import CLASSES, contents, make_images, sweep

from anytime_cls.datasets.base import DatasetError
from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.card import ModelCard
from anytime_cls.models.zoo import read_card
from anytime_cls.traces.read import Trace


@pytest.fixture
def tiny(tiny_model_dir) -> ModelCard:
    return read_card(tiny_model_dir)


def loaded(data) -> dict[str, np.ndarray]:
    return {sample.id: np.asarray(sample.load()) for sample in data.samples}


@pytest.mark.parametrize("shift", ["gaussian-noise:2", "corruptions", "sketch", "texture", "backgrounds",
                                   "patch:0.5", "tint:1"])  # fmt: skip
def test_an_image_becomes_the_same_whatever_is_beside_it(tiny, tmp_path, shift):
    root = make_images(tmp_path / "data", 5)
    every = open_dataset(str(root), tiny, shift=shift)
    assert every.name == f"data+{shift}" and len(every.samples) == 20
    first = loaded(every)
    few = loaded(open_dataset(str(root), tiny, shift=shift, limit=7))
    assert len(few) == 7 and all(np.array_equal(few[key], first[key]) for key in few)
    travelled = loaded(pickle.loads(pickle.dumps(every)))
    assert all(np.array_equal(travelled[key], first[key]) for key in first)
    assert all(x.dtype == np.uint8 and x.shape == (32, 32, 3) for x in first.values())
    plain = {s.id: np.asarray(Image.open(s.load())) for s in open_dataset(str(root), tiny).samples}
    assert any(not np.array_equal(first[key], plain[key]) for key in first)


def test_a_seed_decides_and_a_name_does_not(tiny, tmp_path):
    root = make_images(tmp_path / "a", 2)
    os.rename(root, tmp_path / "b")
    again = make_images(tmp_path / "a", 2)
    one, other = (loaded(open_dataset(str(p), tiny, shift="fog")) for p in (again, tmp_path / "b"))
    assert all(np.array_equal(one[key], other[key]) for key in one)
    seeded = loaded(open_dataset(str(again), tiny, shift="fog", seed=1))
    assert not any(np.array_equal(one[key], seeded[key]) for key in one)


def test_a_patch_says_what_it_should(tiny, tmp_path):
    from anytime_cls.shifts.shortcuts import colour_of

    root = make_images(tmp_path / "data", 4)
    colours = np.round([colour_of(i, 10) for i in range(10)]).astype(int)
    for share, right in ((1, 1.0), (0, 0.0)):
        data = open_dataset(str(root), tiny, shift=f"patch:{share}")
        said = [int(np.abs(colours - s.load()[0, 0]).sum(axis=1).argmin()) for s in data.samples]
        assert np.mean([a == s.label for a, s in zip(said, data.samples, strict=True)]) == right


def test_a_stamp_is_of_the_file_that_is_shifted(tiny, tmp_path):
    root = make_images(tmp_path / "data", 2)
    plain, shifted = (open_dataset(str(root), tiny, shift=s).samples for s in (None, "sketch"))
    assert [s.stamp() for s in plain] == [s.stamp() for s in shifted] and plain[0].stamp() != (0, 0)


def test_what_does_not_go_is_refused_in_one_line(tiny, tmp_path):
    root = make_images(tmp_path / "data", 2)
    big = ModelCard("big", Path("nowhere"), {"labels": TINY_LABELS, "image_size": 64})
    one = make_images(tmp_path / "one", 2, CLASSES[:1])
    for model, folder, shift, said in (
        (tiny, root, "fogg", "no shift 'fogg' (did you mean 'fog'?)"),
        (big, root, "fog:2", "for pictures of 32×32: this model's are 64×64"),
        (tiny, one, "texture", "there is one class only"),
    ):
        with pytest.raises(DatasetError) as caught:
            open_dataset(str(folder), model, shift=shift)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert len(open_dataset(str(root), big, shift="sketch").samples) == 8  # of any size


def test_sweeps_take_shifts_and_go_on_with_them(tiny_model_dir, tmp_path, capsys):
    root = make_images(tmp_path / "data", 3)
    options = (root, "--model", tiny_model_dir, "--max-orders", "2", "--shift", "impulse_noise:4")
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    code, found, _ = sweep(capsys, *options, "-o", whole)
    assert code == 0 and found["dataset"] == "data+impulse-noise:4" and found["images"] == 12
    assert sweep(capsys, *options, "-o", parts)[0] == 0
    code, found, _ = sweep(capsys, *options, "-o", tmp_path / "two.h5", "--workers", "2")
    assert code == 0 and contents(tmp_path / "two.h5") == contents(whole)
    os.utime(root / CLASSES[0] / "0.png")  # as if it might have changed: its content is compared, shifted
    code, _, err = sweep(capsys, *options, "-o", parts, "--resume")
    assert code == 0 and "comparing contents" in err and contents(parts) == contents(whole)
    plain = tmp_path / "plain.h5"
    assert sweep(capsys, *options[:-2], "-o", plain)[0] == 0
    with Trace.open(plain) as a, Trace.open(whole) as b:
        assert set(a.images["content"]).isdisjoint(b.images["content"])
    code, _, err = sweep(capsys, *options[:-2], "-o", whole, "--resume")
    assert code == 2 and "dataset is" in err and err.count("\n") == 1
