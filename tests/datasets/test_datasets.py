"""Opening data sets: which images, which classes, which of them race; what is refused."""

import collections
import os
import pickle

import pytest
from basics import write_photo
from dataset_files import BIG, IMAGENET, ZOO, card, make, opened, refused
from hypothesis import given
from hypothesis import strategies as st

from anytime_cls.datasets.base import Sample
from anytime_cls.datasets.choose import _limited
from anytime_cls.datasets.names import open_dataset
from anytime_cls.models.labels import imagenet_subset
from anytime_cls.pixels.decode import decode


def test_class_folders(tmp_path):
    make(tmp_path, "Dog/b.PNG", "Dog/a.jpg", "cat/deep/er/c.webp", "red_fox/é.jpeg",
         "cat/notes.txt", "cat/.hidden.jpg", ".git/x.jpg", "README.md", "cat/.thumbs/t.jpg")  # fmt: skip
    (tmp_path / "nothing in it").mkdir()
    data = open_dataset(str(tmp_path), ZOO)
    assert [s.id for s in data.samples] == ["Dog/a.jpg", "Dog/b.PNG", "cat/deep/er/c.webp", "red_fox/é.jpeg"]
    assert [data.labels[s.label] for s in data.samples] == ["dog", "dog", "cat", "red fox"]
    assert data.labels == ["cat", "dog", "red fox"] and data.class_ids.tolist() == [0, 1, 2]
    assert data.class_ids.dtype == "int64" and data.root == str(tmp_path)
    assert data.name == tmp_path.name and "/" not in data.name


def test_samples_load_when_asked_and_travel_to_workers(tmp_path):
    make(tmp_path, "cat/broken.jpg", "dog/gone.jpg")
    write_photo(tmp_path / "cat" / "good.jpg")
    samples = pickle.loads(pickle.dumps(open_dataset(str(tmp_path), ZOO).samples))
    os.unlink(tmp_path / "dog" / "gone.jpg")
    by_id = {s.id: s for s in samples}
    assert decode(by_id["cat/good.jpg"].load()).size == (48, 40)
    assert by_id["dog/gone.jpg"].load() == str(tmp_path / "dog" / "gone.jpg")  # fails when it is decoded


def test_unknown_folders_are_refused_naming_them(tmp_path):
    make(tmp_path, "cat/a.jpg", *(f"thing{i:02d}/a.jpg" for i in range(12)))
    line = refused(str(tmp_path), ZOO)
    assert "12 of the 13" in line and "'thing00'" in line and "'thing09'" in line and "'thing10'" not in line


def test_classes_that_the_model_knows_alone_are_offered_and_taken(tmp_path):
    make(tmp_path, "cat/a.jpg", "dog/b.jpg", *(f"thing{i:02d}/a.jpg" for i in range(3)))
    assert "or leave them out with --classes known" in refused(str(tmp_path), ZOO)
    data = open_dataset(str(tmp_path), ZOO, classes=["known"])
    assert [s.id for s in data.samples] == ["cat/a.jpg", "dog/b.jpg"]
    assert data.labels == ["cat", "dog", "red fox"]  # all of the model's race
    assert data.left_out == {"of unknown classes": 3}
    other = make(tmp_path / "other", "thing/a.jpg", "thong/a.jpg")
    assert "known" not in refused(str(other), ZOO).split("label file")[1]
    assert "does not know 2 of the 2" in refused(str(other), ZOO, classes=["known"])


def test_an_ambiguous_folder_is_refused_naming_the_candidates(tmp_path):
    make(tmp_path, "crane/a.jpg", "tench/a.jpg")
    line = refused(str(tmp_path), BIG)
    assert "crane (bird)" in line and "n03126707" in line


def test_a_label_file_decides(tmp_path):
    root = make(tmp_path / "data", "0/a.jpg", "1/a.jpg", "cat/a.jpg")
    file = tmp_path / "labels.tsv"
    file.write_text("0\tred fox\n1\tcat\ncat\tdog\n")
    assert opened(str(root), ZOO, labels_file=file) == {
        "0/a.jpg": "red fox", "1/a.jpg": "cat", "cat/a.jpg": "dog"
    }  # fmt: skip
    file.write_text("0\tred fox\n1\tcat\n")
    assert "'cat'" in refused(str(root), ZOO, labels_file=file)
    file.write_text("0\tred fox\n1\twolf\ncat\tcat\n")
    assert "1 (wolf)" in refused(str(root), ZOO, labels_file=file)


def test_a_label_file_in_class_order_counts_numbers_as_numbers(tmp_path):
    root = make(tmp_path / "data", "2/a.jpg", "10/a.jpg", "1/a.jpg")
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\nred fox\n")
    assert opened(str(root), ZOO, labels_file=file) == {
        "1/a.jpg": "cat", "10/a.jpg": "red fox", "2/a.jpg": "dog"
    }  # fmt: skip
    file.write_text("cat\ndog\n")
    assert "2 names" in refused(str(root), ZOO, labels_file=file)


def test_the_data_sets_own_names_are_honoured(tmp_path):
    make(tmp_path, "val/n01443537/a.jpg", "val/0/a.jpg", "train/0/t.jpg")
    (tmp_path / "classes.tsv").write_text("n01443537\tgoldfish, Carassius auratus\n0\tdog, hound\n")
    model = card(["cat", "goldfish", "dog"])
    expected = {"0/a.jpg": "dog", "n01443537/a.jpg": "goldfish"}  # 0 is not the model's class 0
    assert opened(str(tmp_path), model) == opened(str(tmp_path / "val"), model) == expected


def test_a_number_the_data_set_names_is_no_class_id(tmp_path):
    make(tmp_path, "0/a.jpg", "cat/b.jpg")
    (tmp_path / "classes.tsv").write_text("0\tzebra\n")
    assert "0 (zebra)" in refused(str(tmp_path), ZOO)
    (tmp_path / "classes.tsv").unlink()
    assert opened(str(tmp_path), ZOO) == {"0/a.jpg": "cat", "cat/b.jpg": "cat"}


@pytest.mark.parametrize("taken", ["test", "val", "validation"])
def test_splits(tmp_path, taken):
    root = make(tmp_path / "pets", "train/cat/t.jpg", f"{taken}/cat/a.jpg", "extras/x.jpg")
    data = open_dataset(str(root), ZOO)
    assert [s.id for s in data.samples] == ["cat/a.jpg"] and data.name == f"pets/{taken}"
    assert open_dataset(str(root / taken), ZOO).fingerprint == data.fingerprint


def test_test_comes_before_val_and_train_is_not_taken_by_itself(tmp_path):
    root = make(tmp_path, "train/cat/t.jpg", "val/cat/v.jpg", "test/cat/e.jpg")
    assert list(opened(str(root), ZOO)) == ["cat/e.jpg"]
    only = make(tmp_path / "only", "train/cat/t.jpg")
    assert f"give {only / 'train'}" in refused(str(only), ZOO)
    assert list(opened(str(only / "train"), ZOO)) == ["cat/t.jpg"]


def test_a_class_may_be_called_train(tmp_path):
    make(tmp_path, "train/a.jpg", "plane/a.jpg")
    assert opened(str(tmp_path), card(["plane", "train"])) == {"plane/a.jpg": "plane", "train/a.jpg": "train"}


def test_links_are_followed_once(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", "one.jpg", "more/two.jpg")
    root = make(tmp_path / "data", "dog/a.jpg")
    (root / "cat").symlink_to(elsewhere)
    (elsewhere / "more" / "up").symlink_to(elsewhere)
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")  # its error belongs in the results
    assert list(opened(str(root), ZOO)) == ["cat/more/two.jpg", "cat/one.jpg", "dog/a.jpg", "dog/gone.jpg"]


def test_a_closed_folder_is_refused(tmp_path, monkeypatch):
    make(tmp_path, "cat/a.jpg", "dog/deep/a.jpg")
    scandir = os.scandir

    def closed(path):  # chmod would not stop root
        if str(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    line = refused(str(tmp_path), ZOO)
    assert "dog/deep" in line and "Permission denied" in line


def test_names_that_are_no_utf8_get_ids_that_are(tmp_path):
    folder = os.fsencode(tmp_path) + b"/cat"
    os.mkdir(folder)
    try:
        open(folder + b"/caf\xe9.jpg", "wb").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (sample,) = open_dataset(str(tmp_path), ZOO).samples
    assert sample.id == "cat/caf\\xe9.jpg" and sample.id.encode()
    assert os.path.exists(sample.load())


@pytest.mark.parametrize(("files", "match"), [
    ((), "no images in class folders"), (("a.jpg",), "no images in class folders"),
    (("ILSVRC2012_val_00000003.JPEG",), "imagenet --root"), (("cat/notes.txt",), "no images in class"),
])  # fmt: skip
def test_folders_without_class_folders(tmp_path, files, match):
    assert match in refused(str(make(tmp_path, *files)), ZOO)


def test_paths_and_names_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no data set 'imagnet'" in refused("imagnet", ZOO)
    assert "./pets: no such folder" in refused("./pets", ZOO)
    make(tmp_path, "a.tar")
    assert "a file, not a folder" in refused("a.tar", ZOO) and "wds:PATH" in refused("a.tar", ZOO)
    assert "a root is for named data sets" in refused("./pets", ZOO, root=tmp_path)
    make(tmp_path, "pets/cat/a.jpg")
    assert open_dataset("pets", ZOO).name == "pets"


def test_where_a_named_data_set_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    line = refused("imagenet", BIG)
    for place in ("$IMAGENET_ROOT (not set)", "./data/imagenet (no such", "./imagenet (no such folder)"):
        assert place in line
    assert "n01440764" in line and "ILSVRC2012_val_" in line and "--root" in line
    make(tmp_path / "imagenet", "n01440764/here.jpg")
    assert list(opened("imagenet", BIG)) == ["n01440764/here.jpg"]
    make(tmp_path / "data" / "imagenet", "val/n01440764/data.jpg")
    assert list(opened("imagenet", BIG)) == ["n01440764/data.jpg"]
    make(tmp_path / "set", "n01440764/set.jpg")
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "set"))
    assert list(opened("imagenet", BIG)) == ["n01440764/set.jpg"]
    make(tmp_path / "given", "n01440764/given.jpg")
    assert list(opened("imagenet", BIG, root=tmp_path / "given")) == ["n01440764/given.jpg"]
    # what is set is meant: no other place is tried behind the user's back
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "moved"))
    line = refused("imagenet", BIG)
    assert f"$IMAGENET_ROOT = {tmp_path / 'moved'} (no such folder)" in line and "./imagenet" not in line
    assert "(not in that layout)" in refused("imagenet", BIG, root=make(tmp_path / "other", "cat/a.jpg"))


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_subsets_race_their_200_classes(tmp_path, name):
    synsets = imagenet_subset(name)
    make(tmp_path, f"{synsets[3]}/a.jpg", f"{synsets[0]}/a.jpg", "README.txt")
    data = open_dataset(name, BIG, root=tmp_path)
    assert [IMAGENET.synsets[i] for i in data.class_ids] == list(synsets)
    assert data.labels == [IMAGENET.labels[i] for i in data.class_ids]
    assert [data.labels[s.label] for s in data.samples] == [data.labels[0], data.labels[3]]
    assert len(open_dataset(name, BIG, root=tmp_path, classes=synsets[:4]).labels) == 4
    make(tmp_path, "n01440764/tench.jpg")
    assert "'n01440764'" in refused(name, BIG, root=tmp_path) and "200" in refused(name, BIG, root=tmp_path)


def test_classes_keep_their_images_and_race_alone(tmp_path):
    make(tmp_path, "cat/a.jpg", "dog/a.jpg", "red fox/a.jpg")
    data = open_dataset(str(tmp_path), ZOO, classes=["red fox", "cat"])
    assert data.labels == ["cat", "red fox"] and data.class_ids.tolist() == [0, 2]  # the model's order
    assert [(s.id, s.label) for s in data.samples] == [("cat/a.jpg", 0), ("red fox/a.jpg", 1)]
    assert "wolf" in refused(str(tmp_path), ZOO, classes=["cat", "wolf"])
    assert "at least two" in refused(str(tmp_path), ZOO, classes=["cat"])
    (tmp_path / "cat" / "a.jpg").unlink()
    (tmp_path / "dog" / "a.jpg").unlink()
    assert "no image is left" in refused(str(tmp_path), ZOO, classes=["cat", "dog"])


def test_ids(tmp_path):
    root = make(tmp_path / "data", "cat/a b.jpg", "cat/c.jpg", "dog/é.jpg")
    file = tmp_path / "ids.txt"
    file.write_text("\ufeff# two of them\n\ndog/é.jpg\r\ncat/a b.jpg\ndog/é.jpg\n", encoding="utf-8")
    assert list(opened(str(root), ZOO, ids=file)) == ["cat/a b.jpg", "dog/é.jpg"]
    assert list(opened(str(root), ZOO, ids=file, classes=["dog", "red fox"])) == ["dog/é.jpg"]
    file.write_text("cat/c.jpg\n" + "".join(f"cat/none{i}.jpg\n" for i in range(11)))
    line = refused(str(root), ZOO, ids=file)
    assert "cat/none0.jpg" in line and "11 in all" in line and str(file) in line
    file.write_text("# none\n")
    assert "names no images" in refused(str(root), ZOO, ids=file)
    assert "none.txt" in refused(str(root), ZOO, ids=tmp_path / "none.txt")


SAMPLES = [Sample(f"{c}/{i:04d}", "", c, str) for c, n in enumerate((50, 30, 20)) for i in range(n)]


def limited(limit, seed=0, samples=SAMPLES):
    return [s.id for s in _limited(list(samples), ["a", "b", "c"], limit, seed)]


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 3))
def test_a_limit_is_stratified_nested_and_seeded(small, large, seed):
    small, large = sorted((small, large))
    few, many = limited(small, seed), limited(large, seed)
    assert set(few) <= set(many) and few == sorted(few) and len(few) == small
    counts = collections.Counter(key[0] for key in many)
    for c, n in (("0", 50), ("1", 30), ("2", 20)):
        assert abs(counts[c] - large * n / 100) < 2  # systematic sampling: never far from proportion


def test_a_limit_draws_anew_with_another_seed_but_not_with_other_images():
    assert limited(20, 0) != limited(20, 1) and limited(20, 0) == limited(20, 0)
    assert limited(500) == [s.id for s in SAMPLES] == limited(None)
    without = [s for s in SAMPLES if s.label != 2]
    # the other classes' draws stay: whole strata of equal size are taken alike
    assert [i for i in limited(50) if i[0] == "0"] == [i for i in limited(40, samples=without) if i[0] == "0"]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    make(tmp_path, "cat/a.jpg")
    assert "at least 1" in refused(str(tmp_path), ZOO, limit=limit)


def test_the_fingerprint_is_that_of_ids_and_labels(tmp_path):
    one = make(tmp_path / "one" / "pets", "cat/a.jpg", "dog/b.jpg")
    two = make(tmp_path / "two" / "pets", "dog/b.jpg", "cat/a.jpg")
    first, second = open_dataset(str(one), ZOO), open_dataset(str(two), ZOO)
    assert (first.name, first.fingerprint) == (second.name, second.fingerprint)
    others = [open_dataset(str(one), ZOO, limit=1), open_dataset(str(one), ZOO, classes=["cat", "dog"]),
              open_dataset(str(one), card(["Cat", "dog", "red fox"]))]  # fmt: skip
    make(two, "dog/c.jpg")
    others.append(open_dataset(str(two), ZOO))
    assert len({first.fingerprint, *(data.fingerprint for data in others)}) == 5
