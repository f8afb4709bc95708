"""ImageNet's table, and finding a class by any of its names."""

import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from dataset_files import BIG, IMAGENET, ZOO, card
from hypothesis import given
from hypothesis import strategies as st

from anytime_cls.models.labels import (
    ClassIndex,
    LabelError,
    imagenet_subset,
    infer_synsets,
    is_synset,
    read_label_file,
)

SAMPLE = os.environ.get("IMAGENET_SAMPLE", "")  # one image of each class, as n01440764/n01440764_tench.JPEG


def test_the_table_is_imagenet_in_the_standard_order():
    assert len(IMAGENET.synsets) == len(set(IMAGENET.synsets)) == 1000
    assert list(IMAGENET.synsets) == sorted(IMAGENET.synsets) and all(map(is_synset, IMAGENET.synsets))
    # well known: the first, the last, and some between, as every list of ImageNet's classes has them
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 285: "Egyptian cat",
             388: "giant panda", 834: "suit", 954: "banana", 999: "toilet tissue"}  # fmt: skip
    assert {i: IMAGENET.labels[i] for i in known} == known
    assert len({label.casefold() for label in IMAGENET.labels}) == 1000


@pytest.mark.parametrize(("name", "inside", "outside"), [
    ("imagenet-r", "n01443537", "n01440764"), ("imagenet-a", "n01498041", "n01440764"),
])  # fmt: skip
def test_the_subsets_are_200_of_its_classes(name, inside, outside):
    synsets = imagenet_subset(name)
    assert len(set(synsets)) == 200 and list(synsets) == sorted(synsets)
    assert set(synsets) <= set(IMAGENET.synsets)
    assert inside in synsets and outside not in synsets


@pytest.mark.skipif(not SAMPLE, reason="set IMAGENET_SAMPLE to a folder with an image of each class")
def test_the_table_agrees_with_a_published_sample():
    assert sorted(os.listdir(SAMPLE)) == list(IMAGENET.synsets)
    for at, synset in enumerate(IMAGENET.synsets):
        (file,) = os.listdir(Path(SAMPLE, synset))
        match = re.fullmatch(r"(n\d{8})_(.*)\.JPEG", file)
        names = [name.casefold() for name in IMAGENET.names[at].split(", ")]
        assert match[1] == synset and match[2].replace("_", " ").casefold() in names


@pytest.mark.parametrize(("name", "label"), [
    ("tench", "tench"), ("TENCH", "tench"), ("Tinca tinca", "tench"), ("n01440764", "tench"), ("0", "tench"),
    ("golden_retriever", "golden retriever"), (" great white shark ", "great white shark"),
    ("missile", "missile"), ("cardigan", "cardigan"), ("Tub", "tub"), ("tank suit", "tank suit"),
])  # fmt: skip
def test_a_class_is_found_by_label_synonym_synset_and_id(name, label):
    assert [IMAGENET.labels[i] for i in BIG.class_index.find(name)] == [label]


@pytest.mark.parametrize("name", ["crane", "maillot", "Cardigan", "panther"])
def test_a_name_of_several_classes_is_refused_naming_them(name):
    candidates = [IMAGENET.synsets[i] for i in BIG.class_index.find(name)]
    assert len(candidates) == 2
    with pytest.raises(ValueError, match="may mean") as error:
        BIG.class_ids([name, "tench"])
    assert "\n" not in str(error.value) and all(synset in str(error.value) for synset in candidates)


def test_unknown_names_and_ids_out_of_range_are_refused():
    for name in ("unicorn", "1000", "-1", "n99999999", ""):
        assert BIG.class_index.find(name) == ()
        with pytest.raises(ValueError, match="has no class"):
            BIG.class_ids(["tench", name])


def test_class_ids_keep_their_order_and_their_dtype():
    ids = BIG.class_ids(["goldfish", "tench", "n01443537", 5])
    assert ids.tolist() == [1, 0, 5] and np.issubdtype(ids.dtype, np.integer)
    assert BIG.class_ids(None).tolist() == list(range(1000))
    with pytest.raises(ValueError, match="at least two"):
        BIG.class_ids(["tench", "Tinca tinca"])


def test_labels_that_differ_in_case_alone_are_told_apart():
    index = ClassIndex(["Jaguar", "jaguar"])
    assert index.find("Jaguar") == (0,) and index.find("jaguar") == (1,) and index.find("JAGUAR") == (0, 1)


def test_a_label_that_is_a_number_comes_before_the_id():
    assert ClassIndex(["7", "3", "0"]).find("0") == (2,)
    assert ClassIndex(["7", "3", "0"]).find("0", ids=False) == (2,)
    assert ClassIndex(["7", "3", "0"]).find("1") == (1,) and ClassIndex(["7", "3"]).find("1", ids=False) == ()


def test_unicode_composition_does_not_matter():
    index = ClassIndex(["café", "thé"])
    assert index.find(unicodedata.normalize("NFD", "Café")) == (0,)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool), unique=True))
def test_every_label_finds_itself(labels):
    index = ClassIndex(labels)
    for at, label in enumerate(labels):
        assert at in index.find(label)


def test_synsets_are_the_cards_or_inferred():
    assert card(["a", "b"]).synsets is None
    assert card(["a", "b"], ["n00000001", "n00000002"]).class_ids(["n00000002", "a"]).tolist() == [1, 0]
    assert card(["n01443537", "n01440764"]).class_ids(["tench", "goldfish"]).tolist() == [1, 0]
    assert BIG.synsets == list(IMAGENET.synsets) == card(IMAGENET.names).synsets
    with pytest.raises(ValueError, match="one a label"):
        _ = card(["a", "b"], ["n00000001"]).synsets


def test_a_thousand_labels_in_another_order_are_not_taken_for_imagenet():
    labels = list(IMAGENET.labels)
    assert infer_synsets(labels[::-1]) is None
    assert infer_synsets([f"class {i}" for i in range(1000)]) is None
    renamed = [label if i % 5 else f"renamed {i}" for i, label in enumerate(labels)]  # as published lists do
    assert infer_synsets(renamed) == list(IMAGENET.synsets)
    labels[0], labels[1] = labels[1], labels[0]
    assert infer_synsets(labels) is None


def test_a_synset_finds_the_names_wordnet_gives_it_in_a_model_without_synsets():
    index = card(["goldfish", "crane", "tabby cat"]).class_index
    assert index.find_synset("n01443537") == (0,)
    assert index.find_synset("n02012849") == ()  # which of the two cranes is it?
    assert index.find_synset("n02123045") == (2,)  # tabby, tabby cat
    assert index.find_synset("n02084071") == ()  # dog: no class of ImageNet-1k


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("a.tsv", "x\tcat\ny\tdog\n", {"x": "cat", "y": "dog"}),
    ("a.txt", "\ufefffolder\tname\n# no class\nx\tcat, feline\n\n", {"x": "cat, feline"}),
    ("a.csv", 'folder,name\nx,"cat, feline"\n', {"x": "cat, feline"}),
    ("a.txt", "cat, feline\ndog\n", ["cat, feline", "dog"]),
    ("a.json", '{"x": "cat", "y": 1}', {"x": "cat", "y": "1"}),
    ("a.json", '["cat", "dog"]', ["cat", "dog"]),
])  # fmt: skip
def test_label_files(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_label_file(tmp_path / name) == expected


@pytest.mark.parametrize(("name", "data", "match"), [
    ("a.tsv", b"x\tcat\nx\tdog\n", "named twice"),
    ("a.tsv", b"x\tcat\ny\n", "no name beside 'y'"),
    ("a.txt", b"\n# nothing\n", "names no classes"),
    ("a.csv", b"folder,name\n", "names no classes"),
    ("a.json", b"{", "not JSON"),
    ("a.json", b'{"x": ["cat"]}', "expected {folder: name}"),
    ("a.json", b"3", "expected {folder: name}"),
    ("a.txt", b"caf\xe9", "not UTF-8"),
])  # fmt: skip
def test_label_files_that_make_no_sense_are_refused(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LabelError, match=match) as error:
        read_label_file(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_label_file_that_is_not_there(tmp_path):
    with pytest.raises(LabelError, match="No such file"):
        read_label_file(tmp_path / "none.tsv")


def test_a_cards_synsets_are_checked_when_it_is_read(tiny_model_dir, tmp_path):
    from anytime_cls.models.card import ModelError
    from anytime_cls.models.zoo import read_card

    fields = json.loads((tiny_model_dir / "model.json").read_text())
    for synsets, fits in (([f"n{i:08d}" for i in range(10)], True), (["n00000001"], False)):
        (tmp_path / "model.json").write_text(json.dumps({**fields, "synsets": synsets}))
        if fits:
            assert read_card(tmp_path).synsets == synsets
        else:
            with pytest.raises(ModelError, match="one a label"):
                read_card(tmp_path)


def test_a_model_of_few_classes_keeps_its_own_names():
    assert ZOO.class_ids(["Red_Fox", "cat"]).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("name", "text"),
    [("names.txt", "# folder\tname\n#cat\tcat\ndog\tdog\n"), ("names.csv", "# a, b\n#cat,cat\ndog,dog\n")],
)
def test_a_folder_called_like_a_comment_has_a_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_label_file(tmp_path / name) == {"#cat": "cat", "dog": "dog"}
