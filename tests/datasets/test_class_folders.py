"""Class folders with links, and with files that are no pictures: what is taken, what is said of the rest."""

import os
from pathlib import Path

import pytest
from dataset_files import ZOO, make, opened, refused

from anytime_cls.datasets.names import open_dataset, train_and_test
from anytime_cls.pixels.decode import HEIF

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links")


def pets(root: Path) -> Path:
    """Ten images of a cat, ten of a dog; 'real' ids and labels are those without any link."""
    return make(root, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10)))


REAL = {f"{name}/{i}.jpg": name for name in ("cat", "dog") for i in range(10)}


@pytest.mark.parametrize("links", [
    {"cat/up": "..", "dog/up2": "../../T"}, {"cat/up": "../.."}, {"cat/a": "../dog"}, {"dog/a": "../cat"},
    {"cat/a": "../dog", "dog/a": "../cat"}, {"cat/down": "../../T/dog"}, {"cat/x": "/"},
    {"loop": "."}, {"loop": ".."}, {"a": "../T"}, {"zzz": "dog"}, {"aaa": "cat"},
])  # fmt: skip
def test_a_link_out_of_its_class_is_left_out_and_said(tmp_path, links):
    root = pets(tmp_path / "T")
    for link, to in links.items():
        (root / link).symlink_to(to)
    assert opened(str(root), ZOO) == REAL
    data = open_dataset(str(root), ZOO)
    assert data.left_out == {"link out of its class": len(links)}
    make(tmp_path / "T" / "dog" / "sub", "s.jpg")
    (root / "cat" / "other").symlink_to("../dog/sub")
    assert opened(str(root), ZOO) == REAL | {"dog/sub/s.jpg": "dog"}


def test_links_that_stay_in_their_class_are_followed_once(tmp_path):
    root = pets(tmp_path / "T")
    make(tmp_path / "far", "more/f.jpg", "more/deep/g.jpg", ".store/h.jpg")
    (root / "cat" / "again").symlink_to(".")  # nothing new
    make(root, "cat/sub/s.jpg", "dog/.hidden/k.jpg")
    (root / "cat" / "a sub").symlink_to("sub")  # the real folder names its images
    (root / "cat" / "more").symlink_to(tmp_path / "far" / "more")
    (root / "cat" / "more2").symlink_to(tmp_path / "far" / "more")
    (tmp_path / "far" / "more" / "round").symlink_to(tmp_path / "far" / "more")
    (tmp_path / "far" / "more" / "back").symlink_to(root)  # by a detour, too
    (root / "dog" / "shown").symlink_to(".hidden")
    expected = REAL | {
        "cat/sub/s.jpg": "cat", "cat/more/f.jpg": "cat", "cat/more/deep/g.jpg": "cat",
        "dog/shown/k.jpg": "dog",
    }  # fmt: skip
    assert opened(str(root), ZOO) == expected
    assert open_dataset(str(root), ZOO).left_out == {"link out of its class": 1}


def test_classes_that_are_links_hold_their_own(tmp_path):
    """Also where one lies inside another, and where a class's links are relative to where it really is."""
    make(tmp_path / "store", "cats/1.jpg", "dogs/2.jpg", "dogs/cats/3.jpg")
    root = tmp_path / "T"
    root.mkdir()
    (root / "dog").symlink_to(tmp_path / "store" / "dogs")
    (root / "cat").symlink_to(tmp_path / "store" / "dogs" / "cats")
    (root / "red fox").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "store" / "dogs" / "up").symlink_to("..")
    (tmp_path / "store" / "dogs" / "cats" / "up").symlink_to("..")
    (tmp_path / "store" / "dogs" / "foxes").symlink_to("../cats")
    found = opened(str(root), ZOO)
    assert found == {"cat/3.jpg": "cat", "dog/2.jpg": "dog", "red fox/1.jpg": "red fox"}


def test_training_and_sweeps_read_the_same(tmp_path):
    root = pets(tmp_path / "T")
    make(tmp_path / "elsewhere", "a.jpg", "b/c.jpg")
    (root / "red fox").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "up").symlink_to("..")
    training, testing = train_and_test(root)
    assert testing is None
    assert {entry.id: entry.key for entry in training.entries} == opened(str(root), ZOO)
    assert len(training.entries) == 22 and training.left_out == {"link out of its class": 1}
    (root / "cat").rename(tmp_path / "cat")
    (root / "cat").symlink_to("../cat")
    assert {entry.id for entry in train_and_test(root)[0].entries} == {*opened(str(root), ZOO)}


def test_what_is_no_picture_is_counted_by_kind(tmp_path):
    root = pets(tmp_path / "T")
    make(root, "cat/notes.txt", "dog/a.heic", "dog/b.HEIC", "dog/.hidden.heic", "cat/README", "dog/a.svg")
    os.mkfifo(root / "cat" / "pipe.jpg")
    os.mkfifo(root / "cat" / "pipe.txt")
    (root / "dog" / "link.jpg").symlink_to(root / "cat" / "pipe.jpg")
    (root / "dog" / "gone.jpg").symlink_to("nowhere")
    (root / "dog" / "round.jpg").symlink_to("round.jpg")
    data = open_dataset(str(root), ZOO)
    ids = {sample.id for sample in data.samples}
    heic = {"dog/a.heic", "dog/b.HEIC"} if HEIF else set()
    assert ids == {*REAL, "dog/gone.jpg", "dog/round.jpg", *heic}  # their errors belong in the results
    assert data.left_out == {
        **({} if HEIF else {".heic": 2}), ".txt": 2, ".svg": 1, "without a suffix": 1, "named pipe (FIFO)": 2,
    }  # fmt: skip


def test_a_folder_of_nothing_else_says_so(tmp_path):
    make(tmp_path, "cat/1.jxl", "cat/2.jxl", "dog/3.jxl")
    os.mkfifo(tmp_path / "dog" / "x.jpg")
    line = refused(str(tmp_path), ZOO)
    assert "no images in class folders (left out: 3 .jxl, 1 named pipe (FIFO))" in line


def test_pipes_among_named_layouts(tmp_path):
    make(tmp_path / "tiny", "val/images/a.jpg")
    (tmp_path / "tiny" / "val" / "val_annotations.txt").write_text("a.jpg\tn01443537\np.jpg\tn01443537\n")
    (tmp_path / "tiny" / "words.txt").write_text("n01443537\tcat\n")
    os.mkfifo(tmp_path / "tiny" / "val" / "images" / "p.jpg")
    data = open_dataset("tiny-imagenet", ZOO, root=tmp_path / "tiny")
    assert [s.id for s in data.samples] == ["images/a.jpg"] and data.left_out == {"named pipe (FIFO)": 1}


def test_an_image_that_became_a_pipe_is_an_error_not_a_hang(tmp_path):
    root = pets(tmp_path / "T")
    samples = open_dataset(str(root), ZOO).samples
    (root / "cat" / "0.jpg").unlink()
    os.mkfifo(root / "cat" / "0.jpg")
    with pytest.raises(ValueError, match="named pipe"):
        samples[0].load()


def test_ids_of_a_class_that_looks_like_a_comment(tmp_path):
    root = make(
        tmp_path / "data", "#cat/1.jpg", "#cat/2.jpg", "dog/3.jpg", "dog/ 4 .jpg", "dog/\x0b5\x85.jpg"
    )
    labels = tmp_path / "labels.json"
    labels.write_text('{"#cat": "cat", "dog": "dog"}')
    ids = tmp_path / "ids"
    ids.write_text(
        "# of both\n#cat/1.jpg\n#\ndog/ 4 .jpg\n  dog/3.jpg \ndog/\x0b5\x85.jpg\n", encoding="utf-8"
    )
    kept = ["#cat/1.jpg", "dog/\x0b5\x85.jpg", "dog/ 4 .jpg", "dog/3.jpg"]
    assert list(opened(str(root), ZOO, ids=ids, labels_file=labels)) == sorted(kept)
    ids.write_bytes(b"\0".join(map(str.encode, ("#cat/2.jpg", "dog/3.jpg", ""))))
    assert list(opened(str(root), ZOO, ids=ids, labels_file=labels)) == ["#cat/2.jpg", "dog/3.jpg"]
    ids.write_text("#cat/3.jpg\ndog/3.jpg\n")  # of a class there is: no comment, but an id that is wrong
    assert "no image has the id '#cat/3.jpg'" in refused(str(root), ZOO, ids=ids, labels_file=labels)
