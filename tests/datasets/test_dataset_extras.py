"""Hugging Face datasets and WebDataset shards, from local data; skipped where the extra is not installed."""

import io
import json
import pickle
import sys
import tarfile

import numpy as np
import pytest
from basics import write_photo
from dataset_files import BIG, IMAGENET, ZOO, card, opened, refused
from PIL import Image

from anytime_cls.datasets.names import open_dataset
from anytime_cls.pixels.decode import decode


@pytest.mark.parametrize(("name", "library", "extra"), [
    ("hfds:owner/name", "datasets", "hfds"), ("wds:a.tar", "webdataset", "wds"),
])  # fmt: skip
def test_a_missing_library_is_named_with_its_command(monkeypatch, name, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    line = refused(name, ZOO)
    assert f"pip install 'anytime-cls[{extra}]'" in line and library in line


# WebDataset


def write_tar(path, files):
    """files: {name: bytes}, in the order given."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def photo_bytes(tmp_path, seed):
    return write_photo(tmp_path / "one.jpg", seed).read_bytes()


@pytest.fixture
def wds():
    return pytest.importorskip("webdataset", reason="the extra wds is not installed")


def test_shards(tmp_path, wds):
    photos = [photo_bytes(tmp_path, seed) for seed in range(4)]
    write_tar(tmp_path / "val-000.tar", {
        "0001.jpg": photos[0], "0001.cls": b"cat\n", "sub/0002.cls": b"2", "sub/0002.jpg": photos[1],
        "0003.txt": b"no image", "0003.cls": b"dog",
    })  # fmt: skip
    label = json.dumps({"label": "dog"}).encode()
    write_tar(tmp_path / "val-001.tar", {
        "0001.json": label, "0001.JPG": photos[2], "0004.input.jpg": photos[3],
    })  # fmt: skip
    url = f"wds:{tmp_path}/val-{{000..001}}.tar"
    assert opened(url, ZOO) == {
        "val-000.tar/0001": "cat", "val-000.tar/sub/0002": "red fox", "val-001.tar/0001": "dog",
        "val-001.tar/0004": None,
    }  # fmt: skip
    data = open_dataset(url, ZOO)
    assert data.name == "wds:val-{000..001}.tar" and data.samples[-1].label == -1
    samples = pickle.loads(pickle.dumps(data.samples))
    assert [sample.load() for sample in samples] == photos and len(pickle.dumps(data.samples[0])) < 500
    assert decode(samples[0].load()).size == (48, 40)
    assert list(opened(url, ZOO, classes=["cat", "dog"])) == ["val-000.tar/0001", "val-001.tar/0001"]


def test_class_numbers_of_shards_may_be_named_by_a_label_file(tmp_path, wds):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"", "1.cls": b"0", "2.jpg": b"", "2.cls": b"1"})
    (tmp_path / "labels.txt").write_text("red fox\ncat\n")
    url = f"wds:{tmp_path}/a.tar"
    assert list(opened(url, ZOO).values()) == ["cat", "dog"]
    assert list(opened(url, ZOO, labels_file=tmp_path / "labels.txt").values()) == ["red fox", "cat"]


def test_shards_of_one_name_are_told_apart(tmp_path, wds):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", {"1.jpg": b"", "1.cls": b"cat"})
    url = f"wds:{tmp_path}/{{a,b}}/0.tar"
    assert list(opened(url, ZOO)) == ["00000-0.tar/1", "00001-0.tar/1"]


@pytest.mark.parametrize(("files", "match"), [
    ({}, "holds no images"),
    ({"1.jpg": b"", "1.cls": b"wolf"}, "'wolf'"),
    ({"1.jpg": b"", "1.json": b"{"}, "cannot be read"),
    ({"1.jpg": b"", "2.jpg": b"", "1.png": b""}, "same id"),
])  # fmt: skip
def test_shards_that_make_no_sense_are_refused(tmp_path, wds, files, match):
    write_tar(tmp_path / "a.tar", files)
    assert match in refused(f"wds:{tmp_path}/a.tar", ZOO)


def test_shards_that_cannot_be_read_are_refused(tmp_path, wds):
    path = tmp_path / "a.tar"
    assert "No such file" in refused(f"wds:{path}", ZOO)
    path.write_bytes(b"no tar" * 500)
    assert "no tar" in refused(f"wds:{path}", ZOO)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    assert ".tar.gz to .tar" in refused(f"wds:{tmp_path}/a.tar.gz", ZOO)
    write_tar(path, {"1.jpg": b"x" * 5000, "1.cls": b"cat"})
    path.write_bytes(path.read_bytes()[:3000])
    assert str(path) in refused(f"wds:{path}", ZOO)
    assert "needs shards" in refused("wds:", ZOO)


def test_shards_elsewhere_are_copied_once_and_whole(tmp_path, wds, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photo = photo_bytes(tmp_path, 0)
    path = write_tar(tmp_path / "a.tar", {"1.jpg": photo, "1.cls": b"cat"})
    command = f"wds:pipe:cat {path}"
    data = open_dataset(command, ZOO)
    path.unlink()  # the copy serves from now on
    assert open_dataset(command, ZOO).fingerprint == data.fingerprint
    assert data.samples[0].load() == photo and str(tmp_path) not in data.name
    assert "cannot be fetched" in refused("wds:pipe:cat /nowhere.tar; exit 3", ZOO)
    assert len(list((tmp_path / "cache" / "anytime-cls" / "wds").iterdir())) == 1  # no piece left behind


# Hugging Face datasets


@pytest.fixture
def hf(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra hfds is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))
    datasets.disable_progress_bars()
    return datasets


def pictures(n):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(n)]


def table(hf, names, labels, images=None):
    images = images or pictures(len(labels))
    kinds = {"note": hf.Value("string"), "img": hf.Image(), "label": hf.ClassLabel(names=names)}
    features = hf.Features(kinds)
    notes = [str(i) for i in range(len(labels))]
    return hf.Dataset.from_dict({"note": notes, "img": images, "label": labels}, features=features)


def test_a_dataset_saved_to_disk(tmp_path, hf):
    images = pictures(4)
    saved = hf.DatasetDict({
        "train": table(hf, ["dog", "cat"], [0]), "test": table(hf, ["dog", "cat"], [1, 0, -1, 1], images)
    })  # fmt: skip
    saved.save_to_disk(tmp_path / "pets")
    name = f"hfds:{tmp_path / 'pets'}"
    data = open_dataset(name, ZOO)
    assert data.name == "hfds:pets:test"
    assert opened(name, ZOO) == {
        "test/00000000": "cat", "test/00000001": "dog", "test/00000002": None, "test/00000003": "cat"
    }  # fmt: skip
    samples = pickle.loads(pickle.dumps(data.samples))
    assert all(np.array_equal(decode(s.load()), i) for s, i in zip(samples, images, strict=True))
    assert len(pickle.dumps(data.samples[:100])) < 5000  # the rows stay on disk
    assert len(opened(f"{name}:train", ZOO)) == 1
    assert "train, test" in refused(f"{name}:val", ZOO)
    assert len(open_dataset(name, ZOO, limit=2).samples) == 2


def test_an_image_folder_by_the_librarys_own_loader(tmp_path, hf):
    for split, names in (("train", "ab"), ("validation", "cd")):
        for name, label in zip(names, ("cat", "dog"), strict=True):
            (tmp_path / "pets" / split / label).mkdir(parents=True)
            write_photo(tmp_path / "pets" / split / label / f"{name}.jpg")
    got = opened(f"hfds:{tmp_path / 'pets'}", ZOO)
    assert got == {"validation/00000000": "cat", "validation/00000001": "dog"}
    data = open_dataset(f"hfds:{tmp_path / 'pets'}", ZOO)
    assert decode(data.samples[0].load()).size == (48, 40)


def test_imagenets_names_are_told_apart_by_their_order(tmp_path, hf):
    # unique here, as the Hub's must be, but not the model's own words
    names = [f"{label} ({i})" if i in (134, 517) else label for i, label in enumerate(IMAGENET.labels)]
    table(hf, names, [134, 517, 0]).save_to_disk(tmp_path / "val")
    got = opened(f"hfds:{tmp_path / 'val'}", BIG)
    assert list(got.values()) == ["crane (bird)", "crane (machine)", "tench"]


def test_what_the_library_cannot_give_is_refused(tmp_path, hf):
    hf.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    assert "no column of images" in refused(f"hfds:{tmp_path / 'text'}", ZOO)
    (tmp_path / "empty").mkdir()
    assert "cannot be opened" in refused(f"hfds:{tmp_path / 'empty'}", ZOO)
    saved = hf.DatasetDict({"a": table(hf, ["cat"], [0]), "b": table(hf, ["cat"], [0])})
    saved.save_to_disk(tmp_path / "odd")
    assert "name one" in refused(f"hfds:{tmp_path / 'odd'}", ZOO)
    assert "needs a name" in refused("hfds:", ZOO)
    assert "'cat'" in refused(f"hfds:{tmp_path / 'odd'}:a", card(["x", "y"]))
