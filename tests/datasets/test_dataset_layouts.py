"""The layouts that named data sets come in: every one is written here as its authors publish it."""

import pickle
import struct

import numpy as np
import pytest
from basics import TINY_LABELS
from dataset_files import BIG, IMAGENET, card, make, opened, refused
from scipy.io import savemat

from anytime_cls.datasets.names import CORRUPTIONS, open_dataset
from anytime_cls.pixels.decode import decode

TENCH, GOLDFISH, SHARK = IMAGENET.synsets[:3]
DEVKIT = "ILSVRC2012_devkit_t12/data"


def flat(root, numbers=(1, 2, 3), suffix=".JPEG"):
    return make(root, *(f"ILSVRC2012_val_{i:08d}{suffix}" for i in numbers))


def write_devkit(folder, lines, order=(SHARK, TENCH, GOLDFISH)):
    """The devkit's ground truth and meta.mat: ids from 1 in an order of its own, inner nodes above 1000."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{line}\n" for line in lines))
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(i + 1, synset, "words", 0) for i, synset in enumerate(order)]
    rows.append((1001, "n00001740", "entity", 2))
    table = np.array([[row] for row in rows], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": table})


@pytest.mark.parametrize("inside", [
    "", "val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "test", "validation",
])  # fmt: skip
def test_imagenet_in_synset_folders(tmp_path, inside):
    make(tmp_path / inside, f"{TENCH}/b.JPEG", f"{GOLDFISH}/a.JPEG")
    make(tmp_path, "train/n01440764/t.JPEG" if inside else "devkit/readme.txt")
    data = open_dataset("imagenet", BIG, root=tmp_path)
    assert [s.id for s in data.samples] == [f"{TENCH}/b.JPEG", f"{GOLDFISH}/a.JPEG"]
    assert data.name == "imagenet" and len(data.labels) == 1000


def test_a_strange_folder_among_synsets_is_refused(tmp_path):
    make(tmp_path, f"{TENCH}/b.JPEG", "misc/a.JPEG")
    assert "'misc'" in refused("imagenet", BIG, root=tmp_path)


@pytest.mark.parametrize(("images", "devkit"), [
    ("", ""), ("val", DEVKIT), ("val", "data"), ("ILSVRC2012_img_val", DEVKIT), ("", DEVKIT),
])  # fmt: skip
def test_imagenet_flat_with_the_devkits_ground_truth(tmp_path, images, devkit):
    flat(tmp_path / images)
    write_devkit(tmp_path / devkit, [2, 3, 1, 1])
    expected = {f"ILSVRC2012_val_0000000{i + 1}.JPEG": IMAGENET.labels[i] for i in range(3)}
    assert opened("imagenet", BIG, root=tmp_path) == expected
    assert opened("imagenet", BIG, root=tmp_path / images) == expected  # the folder of the images itself


def test_the_devkits_order_is_not_the_standard_one(tmp_path):
    flat(tmp_path)
    write_devkit(tmp_path, [1, 1, 1])
    (tmp_path / "meta.mat").unlink()
    assert "meta.mat" in refused("imagenet", BIG, root=tmp_path)
    (tmp_path / "meta.mat").write_bytes(b"damaged")
    assert "not the devkit's meta.mat" in refused("imagenet", BIG, root=tmp_path)


@pytest.mark.parametrize(("name", "text"), [
    ("LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00000002,{1} 1 2 3 4 {1} 5 6 7 8\n"
                             "ILSVRC2012_val_00000001,{0} 1 2 3 4\nILSVRC2012_val_00000003,{2} 1 2 3 4 \n"),
    ("val_annotations.txt", "ILSVRC2012_val_00000001.JPEG\t{0}\t0\t0\n"
                            "ILSVRC2012_val_00000002.JPEG\t{1}\t0\t0\n"
                            "ILSVRC2012_val_00000003.JPEG\t{2}\t0\t0\n"),
    ("val.txt", "ILSVRC2012_val_00000001.JPEG 0\nILSVRC2012_val_00000002.JPEG 1\n"
                "val/ILSVRC2012_val_00000003.JPEG 2\n"),
    ("val.txt", "ILSVRC2012_val_00000001 {0}\nILSVRC2012_val_00000002 {1}\nILSVRC2012_val_00000003 {2}\n"),
    ("imagenet_2012_validation_synset_labels.txt", "{0}\n{1}\n{2}\n"),
])  # fmt: skip
def test_imagenet_flat_with_other_ground_truth(tmp_path, name, text):
    flat(tmp_path / "ILSVRC/Data/CLS-LOC/val")
    (tmp_path / name).write_text(text.format(TENCH, GOLDFISH, SHARK))
    assert list(opened("imagenet", BIG, root=tmp_path).values()) == list(IMAGENET.labels[:3])


def test_a_part_of_the_flat_images_is_labelled_by_their_numbers(tmp_path):
    flat(tmp_path, (3,))
    write_devkit(tmp_path, [2, 3, 1, 1])
    assert opened("imagenet", BIG, root=tmp_path) == {"ILSVRC2012_val_00000003.JPEG": "great white shark"}


def test_flat_names_may_hold_the_synset(tmp_path):
    make(tmp_path, f"ILSVRC2012_val_00000007_{GOLDFISH}.JPEG", f"ILSVRC2012_val_00000001_{TENCH}.JPEG")
    assert list(opened("imagenet", BIG, root=tmp_path).values()) == ["tench", "goldfish"]


@pytest.mark.parametrize(("name", "text", "match"), [
    (None, "", "ILSVRC2012_validation_ground_truth.txt"),
    ("val.txt", "ILSVRC2012_val_00000001.JPEG 0\n", "ILSVRC2012_val_00000002.JPEG"),
    ("val.txt", "".join(f"ILSVRC2012_val_0000000{i}.JPEG 1000\n" for i in (1, 2, 3)), "class index 0..999"),
    ("ILSVRC2012_validation_ground_truth.txt", "1\n2\n", "2 lines"),
    ("ILSVRC2012_validation_ground_truth.txt", "", "0 lines"),
    ("ILSVRC2012_validation_ground_truth.txt", f"{TENCH}\ntench\n{TENCH}\n", "'tench'"),
])  # fmt: skip
def test_flat_images_without_their_ground_truth_are_refused(tmp_path, name, text, match):
    flat(tmp_path)
    if name:
        (tmp_path / name).write_text(text)
    assert match in refused("imagenet", BIG, root=tmp_path)


def test_an_id_that_the_devkit_does_not_have_is_refused(tmp_path):
    flat(tmp_path)
    write_devkit(tmp_path, [2, 0, 1])
    assert "'0'" in refused("imagenet", BIG, root=tmp_path)


def test_imagenet_v2_folders_are_class_indices(tmp_path):
    make(tmp_path, *(f"imagenetv2-matched-frequency-format-val/{i}/a.jpeg" for i in (0, 2, 10, 999)))
    got = opened("imagenet-v2", BIG, root=tmp_path)
    assert got == {f"{i}/a.jpeg": IMAGENET.labels[i] for i in (0, 10, 2, 999)}
    assert open_dataset("imagenet-v2", BIG, root=tmp_path).name == "imagenet-v2"


def test_imagenet_v2_counts_in_imagenets_order_whatever_the_models(tmp_path):
    make(tmp_path, "0/a.jpeg", "1/a.jpeg")
    backwards = card(["goldfish", "tench"], [GOLDFISH, TENCH])
    assert opened("imagenet-v2", backwards, root=tmp_path) == {"0/a.jpeg": "tench", "1/a.jpeg": "goldfish"}
    make(tmp_path, "1000/a.jpeg")
    assert "'1000'" in refused("imagenet-v2", BIG, root=tmp_path)


def test_imagenet_v2s_variants_have_their_own_names(tmp_path):
    root = make(tmp_path / "imagenetv2-top-images-format-val", "7/a.jpeg")
    assert open_dataset("imagenet-v2", BIG, root=root).name == "imagenet-v2/top-images"
    make(tmp_path / "imagenetv2-matched-frequency-format-val", "8/a.jpeg")
    assert list(opened("imagenet-v2", BIG, root=tmp_path)) == ["8/a.jpeg"]


def test_imagenet_sketch(tmp_path):
    make(tmp_path, f"sketch/{TENCH}/sketch_1.JPEG")
    assert opened("imagenet-sketch", BIG, root=tmp_path) == {f"{TENCH}/sketch_1.JPEG": "tench"}


@pytest.mark.parametrize("group", ["", "weather/"])
def test_imagenet_c(tmp_path, group):
    make(tmp_path / group, f"fog/3/{TENCH}/a.JPEG", f"fog/4/{GOLDFISH}/b.JPEG", f"snow/3/{SHARK}/c.JPEG")
    data = open_dataset("imagenet-c/fog/3", BIG, root=tmp_path)
    assert data.name == "imagenet-c/fog/3" and [s.id for s in data.samples] == [f"{TENCH}/a.JPEG"]
    assert "frost/1/" in refused("imagenet-c/frost/1", BIG, root=tmp_path)


@pytest.mark.parametrize("name", ["imagenet-c", "imagenet-c/fog", "imagenet-c/fog/6", "imagenet-c/mist/3"])
def test_imagenet_c_needs_a_corruption_and_a_severity(name):
    line = refused(name, BIG)
    assert "CORRUPTION/SEVERITY" in line and "gaussian_noise" in line and len(CORRUPTIONS) == 19


def test_tiny_imagenet_as_published_and_in_folders(tmp_path):
    make(tmp_path, "train/n01443537/images/t.JPEG", "test/images/test_0.JPEG",
         "val/images/val_0.JPEG", "val/images/val_1.JPEG")  # fmt: skip
    (tmp_path / "val" / "val_annotations.txt").write_text(
        f"val_0.JPEG\t{GOLDFISH}\t0\t32\t44\t62\nval_1.JPEG\t{TENCH}\t52\t55\t57\t59\n"
    )
    (tmp_path / "words.txt").write_text(f"n00001740\tentity\n{GOLDFISH}\tgoldfish\n{TENCH}\ttench\n")
    expected = {"images/val_0.JPEG": "goldfish", "images/val_1.JPEG": "tench"}
    for model in (BIG, card(["tench", "goldfish"])):
        assert opened("tiny-imagenet", model, root=tmp_path) == opened(str(tmp_path), model) == expected
    (tmp_path / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{GOLDFISH}\t0\t32\t44\t62\n")
    assert "val_1.JPEG" in refused("tiny-imagenet", BIG, root=tmp_path)
    sorted_in = make(tmp_path / "sorted", f"val/{GOLDFISH}/images/a.JPEG", f"train/{TENCH}/t.JPEG")
    assert opened("tiny-imagenet", BIG, root=sorted_in) == {f"{GOLDFISH}/images/a.JPEG": "goldfish"}


CIFAR = card(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])


def test_cifar10_in_folders(tmp_path):
    make(tmp_path, "test/airplane/0.png", "train/cat/1.png")
    assert opened("cifar10", CIFAR, root=tmp_path) == {"airplane/0.png": "airplane"}
    assert "'airplane'" in refused("cifar10", card(TINY_LABELS), root=tmp_path)


def python2_batch(labels, pixels):
    """A pickle as Python 2 wrote CIFAR's: byte strings, numpy.core, protocol 2. pixels: uint8 [n, 3072]."""
    shape = b"".join(b"M" + struct.pack("<H", side) for side in pixels.shape)
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = b"T" + struct.pack("<I", pixels.size) + pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    array += b"(K\x01(" + shape + b"t" + dtype + b"\x89" + data + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x06labels" + numbers + b"U\x04data" + array + b"u."


@pytest.mark.parametrize("kind", ["bin", "py", "py3"])
def test_cifar10_as_published(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    folder = tmp_path / f"cifar-10-batches-{kind}"
    folder.mkdir()
    if kind == "bin":
        (folder / "test_batch.bin").write_bytes(
            b"".join(bytes([label]) + row.tobytes() for label, row in zip((3, 8, 0), pixels, strict=True))
        )
    elif kind == "py3":
        (folder.rename(tmp_path / "cifar-10-batches-py") / "test_batch").write_bytes(
            pickle.dumps({b"labels": [3, 8, 0], b"data": pixels}, 2)
        )
    else:
        (folder / "test_batch").write_bytes(python2_batch([3, 8, 0], pixels))
    data = open_dataset("cifar10", CIFAR, root=tmp_path)
    assert [data.labels[s.label] for s in data.samples] == ["cat", "ship", "airplane"]
    assert [s.id for s in data.samples] == [f"test_batch/0000{i}" for i in range(3)]
    sample = pickle.loads(pickle.dumps(data.samples[1]))
    assert np.array_equal(np.asarray(decode(sample.load())), pixels[1].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_pickle_that_is_no_cifar_batch_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "test_batch").write_bytes(pickle.dumps(Evil()))
    assert "not CIFAR-10's test batch" in refused("cifar10", CIFAR, root=tmp_path)
    assert not (tmp_path / "written").exists()
