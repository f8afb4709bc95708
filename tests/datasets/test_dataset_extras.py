"""Hugging Face datasets and WebDataset shards, from local data; skipped where the extra is not installed."""

import io
import json
import os
import pickle
import re
import sys
import tarfile

import numpy as np
import pytest
from basics import write_photo
from dataset_files import BIG, IMAGENET, ZOO, card, opened, refused
from PIL import Image

from anytime_cls.datasets.names import open_dataset
from anytime_cls.datasets.which import picture
from anytime_cls.pixels.decode import decode


@pytest.mark.parametrize(("name", "library"), [
    ("hfds:owner/name", "datasets"), ("wds:a.tar", "webdataset"),
])  # fmt: skip
def test_a_missing_library_is_named_with_its_command(monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    line = refused(name, ZOO)
    assert line.endswith(f"pip install {library}")


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


def test_a_shard_cut_at_a_members_end_is_refused(tmp_path, wds):
    path = write_tar(
        tmp_path / "a.tar", {f"{i:02d}.{e}": b"x" * 700 for i in range(20) for e in ("cls", "jpg")}
    )
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [member.offset for member in tar.getmembers()]
    for end in (ends[24], ends[-1], ends[24] + 200):
        path.write_bytes(whole[:end])
        assert "cut short" in refused(f"wds:{path}", ZOO)
    path.write_bytes(whole[: ends[24]] + b"\xff" * 512 + whole[ends[24] + 512 :])
    assert "damaged" in refused(f"wds:{path}", ZOO)
    path.write_bytes(whole + whole)  # joined as a tar cannot be
    assert "behind its end" in refused(f"wds:{path}", ZOO)
    path.write_bytes(whole[: -(len(whole) - ends[-1]) + 512 + 1024 + 512])  # one block of zeros is an end
    assert "'x" in refused(f"wds:{path}", ZOO)  # their class, so it was read


@pytest.mark.parametrize(("files", "taken"), [
    (["1.depth.png", "1.jpg"], "1.jpg"), (["1.mask.png", "1.image.png"], "1.image.png"),
    (["1.aaa.png", "1.PNG"], "1.PNG"), (["1.seg.png", "1.webp", "1.txt"], "1.webp"),
    (["1.depth.png", "1.left.jpg"], "1.left.jpg"), (["1.left.jpg"], "1.left.jpg"), (["1.mask.png"], None),
    (["1.jpg", "1.png"], "jpg, png"), (["1.left.jpg", "1.right.jpg"], "left.jpg, right.jpg"),
    ([f"img.{i:03d}.0.jpg" for i in range(20)], "000.0.jpg, .*20 in all.*first dot"),
])  # fmt: skip
def test_which_member_is_the_picture(tmp_path, wds, files, taken):
    write_tar(tmp_path / "a.tar", {"0.jpg": b"", **dict.fromkeys(files, b"")})
    url = f"wds:{tmp_path}/a.tar"
    if taken is not None and "," in taken:
        assert re.search(taken, refused(url, ZOO))
        return
    data = open_dataset(url, ZOO)
    assert [s.path for s in data.samples] == ["a.tar/0.jpg", *([f"a.tar/{taken}"] if taken else [])]
    assert data.left_out == ({} if taken else {"sample without a picture": 1})


def test_a_label_goes_with_the_picture_it_is_named_as(tmp_path, wds):
    write_tar(tmp_path / "a.tar", {"a.0.jpg": b"", "a.0.cls": b"cat", "b.jpg": b"", "b.0.cls": b"dog"})
    assert opened(f"wds:{tmp_path}/a.tar", ZOO) == {"a.tar/a": "cat", "a.tar/b": None}


def test_errors_of_shards_say_no_secret(tmp_path, wds, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/nowhere")  # no curl: nothing leaves this machine
    url = "https://me:secret1@example.com/a-{0..1}.tar?sig=secret2&key=secret3"
    line = refused(f"wds:{url}", ZOO)
    assert "a-0.tar" in line and "secret" not in line and "cannot be fetched" in line
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "empty.tar", {"1.txt": b""})
    assert "secret" not in refused(f"wds:pipe:cat {path} # secret", ZOO)
    assert "secret" not in refused("wds:pipe:false secret", ZOO)
    assert "secret" not in refused("wds:{a.tar?secret", ZOO)


def test_a_copy_that_came_broken_is_fetched_again(tmp_path, wds, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "a.tar", {"1.jpg": b"", "1.cls": b"cat"})
    whole = path.read_bytes()
    path.write_bytes(whole[:1536])
    assert "cut short" in refused(f"wds:pipe:cat {path}", ZOO)
    path.write_bytes(whole)
    assert list(opened(f"wds:pipe:cat {path}", ZOO).values()) == ["cat"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_shard_that_is_a_pipe_is_refused(tmp_path, wds):
    os.mkfifo(tmp_path / "a.tar")
    assert "named pipe" in refused(f"wds:{tmp_path}/a.tar", ZOO)


# Hugging Face datasets


@pytest.mark.parametrize(("names", "taken"), [
    (["mask", "image"], "image"), (["depth_image", "jpg"], "jpg"), (["x"], "x"), (["mask"], None), ([], None),
    (["seg", "x"], "x"), (["IMAGE", "x"], "IMAGE"), (["image_left", "image"], "image"),
])  # fmt: skip
def test_which_column_is_the_picture(names, taken):
    assert picture(names) == picture(names[::-1]) == taken


@pytest.mark.parametrize("names", [["image", "img"], ["left", "right"], ["image_left", "image_right"]])
def test_columns_between_which_nothing_decides_are_named(names):
    with pytest.raises(ValueError, match=", ".join(names)):
        picture(names)


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


def test_a_mask_before_the_picture_is_not_raced(tmp_path, hf):
    images, masks = pictures(2), pictures(2)[::-1]
    kinds = {"mask": hf.Image(), "image": hf.Image(), "label": hf.ClassLabel(names=["cat", "dog"])}
    columns = {"mask": masks, "image": images, "label": [0, 1]}
    hf.Dataset.from_dict(columns, features=hf.Features(kinds)).save_to_disk(tmp_path / "pets")
    samples = open_dataset(f"hfds:{tmp_path / 'pets'}", ZOO).samples
    assert all(np.array_equal(decode(s.load()), i) for s, i in zip(samples, images, strict=True))
    kinds = {"left": hf.Image(), "right": hf.Image()}
    two = hf.Dataset.from_dict({"left": masks, "right": images}, features=hf.Features(kinds))
    two.save_to_disk(tmp_path / "two")
    assert "left, right" in refused(f"hfds:{tmp_path / 'two'}", ZOO)


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
