"""Model folders and checkpoints that mean harm or were damaged: one line, in little time and memory."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_data import state, write_tokenizer

from anytime_cls.models.card import ModelError
from anytime_cls.models.checkpoints import inspect
from anytime_cls.models.load import load_model
from anytime_cls.models.zoo import embedded_names, read_card
from anytime_cls_cli.main import main

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def edit(folder, change):
    path = folder / "model.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def put(path, value):
    """What sets `a.b.c` of the fields."""

    def change(fields):
        *outer, last = path.split(".")
        for key in outer:
            fields = fields[int(key) if isinstance(fields, list) else key]
        fields[int(last) if isinstance(fields, list) else last] = value

    return change


def refuse(what, match, load=False):
    with pytest.raises(ModelError, match=match) as error:
        card = read_card(what)
        load_model(card, CPU, torch.float32) if load else None
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("field", "value"), [
    ("temperature", NAN), ("temperature", INF), ("temperature", -INF), ("temperature", 0),
    ("temperature", -1.5), ("temperature", 1e-300), ("temperature", True), ("temperature", "2"),
    ("temperature", None), ("temperature", []),
    ("image_size", 10**9), ("image_size", 0), ("image_size", -32), ("image_size", "32"), ("image_size", 32.5),
    ("image_size", None), ("image_size", True), ("image_size", 10**30),
    ("race", []), ("race", "paired"), ("race", 3), ("race", {"rule": 3}), ("race", {"rule": "paired"}),
    ("designs", {}), ("designs", "x"), ("designs", [1]), ("designs", [[]]), ("designs", [{"prefix": -1}]),
    ("priors", []), ("priors.paired.scale", NAN), ("priors.paired.df", 0), ("priors.paired.power", "0"),
    ("calibrated", {}), ("calibrated", [{}]), ("prices", 1),
    ("name", ""), ("name", None), ("name", "x" * 2000), ("labels", "abc"), ("labels.0", 1), ("labels.0", ""),
    ("layout", 3), ("layout", "jpeg"), ("synsets", "n"), ("sha256", []), ("schema", "1"), ("schema", True),
    ("model", []), ("model.dim", 10**9), ("model.dim", 64.5), ("model.n_layer", 10**9), ("model.n_head", 0),
    ("model.vocab_size", -1), ("model.n_tokens", 10**12), ("model.n_classes", None), ("model.norm_eps", NAN),
    ("model.rope_base", 0), ("model.multiple_of", 0), ("model.surprise", 1),
    ("tokenizer", None), ("tokenizer.kind", 3), ("tokenizer.widths", [10**9] * 3),
    ("tokenizer.widths", "abc"),
    ("tokenizer.blocks", [1]), ("tokenizer.levels", [1 << 16] * 3), ("tokenizer.levels", []),
    ("tokenizer.image_size", 64),
    ("metrics", []), ("metrics", {"accuracy_at_k": {"x": {}}}), ("metrics", {"rules_at_delta_0.05": [[]]}),
    ("license", ["MIT"]),
])  # fmt: skip
def test_every_field_has_a_type_and_a_range(copy, field, value):
    """And a refusal says which field it is about."""
    edit(copy, put(field, value))
    first = field.split(".")[0]
    refuse(copy, rf"model\.json cannot be read \(.*(at `.*\$\.{first}|schema)")


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "[" * 100_000, "[" * 500 + "]" * 500,
                                  '{"a":' * 100_000 + "1" + "}" * 100_000, "9" * 10_000])  # fmt: skip
@pytest.mark.parametrize("field", ["temperature", "metrics", "model", "recipe"])
def test_numbers_beyond_all_bounds_and_deep_nesting(copy, field, text):
    path = copy / "model.json"
    edit(copy, put(field, "@"))
    path.write_text(path.read_text().replace('"@"', text))
    refuse(copy, r"model\.json cannot be read")


def test_sizes_that_contradict_each_other_are_refused(copy):
    edit(copy, put("image_size", 33))
    refuse(copy, r"32 for crops of 33 - at `\$.tokenizer.image_size`")
    edit(copy, lambda fields: (put("image_size", 64)(fields), put("tokenizer.image_size", 64)(fields)))
    refuse(copy, r"64 tokens of 64 pixels by 4 - at `\$.model.n_tokens`")


@pytest.mark.parametrize("name", embedded_names())
def test_our_own_models_are_read(name):
    assert read_card(name).notes == ()


def test_a_wide_model_takes_no_memory_before_its_weights_are_looked_at(copy):
    """65,536 × 65,536 numbers a matrix would be 17 GB."""
    edit(copy, lambda fields: fields["model"].update(dim=65536, n_head=16))
    refuse(copy, "do not fit", load=True)
    edit(copy, lambda fields: fields["model"].update(dim=64, n_head=2))
    edit(copy, put("tokenizer.widths", [65536] * 3))
    refuse(copy, "do not fit", load=True)


@pytest.mark.parametrize("number", [NAN, INF])
@pytest.mark.parametrize("name", ["transformer", "tokenizer"])
def test_a_folders_weights_that_are_not_finite_are_damaged(copy, name, number):
    path = copy / f"{name}.safetensors"
    weights = {key: value.clone() for key, value in load_file(path).items()}
    first = next(key for key in sorted(weights) if weights[key].is_floating_point())
    weights[first].view(-1)[-1] = number
    path.unlink()
    save_file(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(copy, lambda fields: fields["sha256"].update({path.name: digest}))
    refuse(copy, rf"{path.name}: {first} holds numbers that are not finite; the file is damaged", load=True)


def test_other_weights_in_a_folder_are_named(copy, photo, capsys):
    shutil.copy(copy / "transformer.safetensors", copy / "model.safetensors")
    (copy / "old.pt").write_bytes(b"x")
    (note,) = read_card(copy).notes
    assert note.endswith("not read: model.safetensors, old.pt")
    assert main(["models", "ls", str(copy), "--json"]) == 0
    assert note in capsys.readouterr().err
    assert main(["classify", str(photo), "--model", str(copy), "--budget", "4passes", "--device", "cpu"]) == 0
    assert "not read: model.safetensors" in capsys.readouterr().err.replace("\n", " ")


def test_a_second_copy_of_weights_is_named(tmp_path, capsys):
    path = tmp_path / "x.pt"
    write_tokenizer(tmp_path / "tokenizer.pt")
    torch.save({"ema": state(), "model": state(), "optimizer": {"state": {}}}, path)
    assert inspect(path).note == "its weights are those under 'model'; not read: 'ema'"
    assert list(read_card(path).notes) == [f"{path}: {inspect(path).note}"]
    assert main(["models", "convert", str(path), str(tmp_path / "out.safetensors")]) == 0
    assert "not read: 'ema'" in capsys.readouterr().err
    damaged = state()
    del damaged["norm.weight"]
    torch.save({"ema": state(), "model": damaged}, path)
    refuse(path, r"lacks the tensor 'norm.weight'.*\(its weights are those under 'model'; not read: 'ema'\)")
    torch.save({"model": state(), "epoch": 3}, path)
    assert inspect(path).note == ""


# --- files of torch.save's


def written(path, pickled, members=(), packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", b"3\n")
        for name, data in members:
            archive.writestr(f"x/data/{name}", data)
    return path


def bomb(path):
    return written(
        path, pickle.dumps({}, 2), [(i, b"\0" * 50_000_000) for i in range(4)], zipfile.ZIP_DEFLATED
    )


def stored_bomb(path):
    """Its directory says that nothing is compressed."""
    data = bytearray(bomb(path).read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 10 : at + 12] = b"\0\0"
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(data)
    return path


def many_members(path):
    return written(path, pickle.dumps({}, 2), ((i, b"") for i in range(30_000)))


def many_tensors(path):
    torch.save({str(i): torch.zeros(1) for i in range(15_000)}, path)
    return path


def made(code):
    """A pickle of a call that makes much of a number."""
    return lambda path: written(path, b"\x80\x02" + code + b".")


def nested(path):
    """A key of tuples of tuples, hashing which would take for ever."""
    code = b"\x80\x02}q\x00)" + b"q\x01h\x01\x86" * 60 + b"K\x01s."
    return written(path, code)


def long_pickle(path):
    return written(path, b"\x80\x02" + b"]0" * (20 << 20) + b"}.")


def overlapping(path):
    """Every member is the same 10 MB."""
    data = bytearray(
        written(path, pickle.dumps({}, 2), [(i, bytes(10_000_000)) for i in range(3)]).read_bytes()
    )
    entry, size = struct.Struct("<I"), 0
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        if data[at + 46 :].startswith(b"x/data/"):
            entry.pack_into(data, at + 24, 2_000_000_000)
            entry.pack_into(data, at + 20, 2_000_000_000)
            size += 1
        at = data.find(b"PK\x01\x02", at + 4)
    assert size == 3
    path.write_bytes(data)
    return path


def legacy(code):
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return lambda path: path.write_bytes(head + b"\x80\x02" + code + b".") and path


HARM = [
    (bomb, "compressed"), (stored_bomb, "larger than the file"), (many_members, "30,002 members"),
    (many_tensors, "members"), (overlapping, "larger than the file"), (long_pickle, "a pickle of"),
    (nested, "tuples of tuples"),
    (made(b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R"), "asks to run '__builtin__.byte"),
    (made(b"ctorch\nFloatTensor\nJ\x00\x00\x00\x40\x85R"), "asks to run 'torch.FloatTensor'"),
    (made(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), "asks to run 'os.system'"),
    (made(b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93X\x02\x00\x00\x00ls\x85R"),
     "asks to run 'os.system'"),
    (legacy(b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R"), "asks to run '__builtin__.byte"),
    (legacy(b"}q\x00)" + b"q\x01h\x01\x86" * 60 + b"K\x01s"), "tuples of tuples"),
]  # fmt: skip


def test_checkpoints_that_mean_harm_are_refused_before_torch_reads_them(tmp_path):
    """In a process of its own, whose memory is watched."""
    paths = [make(tmp_path / f"{i}.pt") for i, (make, _) in enumerate(HARM)]
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from anytime_cls.models.checkpoints import inspect\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    before = peak()\n"
        "    try: inspect(Path(name))\n"
        "    except ValueError as error: print(error)\n"
        "    print(peak() - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=300)
    lines = ran.stdout.splitlines()
    for (_, match), said, numbers in zip(HARM, lines[::2], lines[1::2], strict=True):
        assert match in said, ran.stderr
        assert int(numbers) < 150_000, said


def test_what_training_saves_beside_weights_is_let_through(tmp_path):
    from argparse import Namespace

    extra = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "lr": 1e-4},
        "args": Namespace(lr=1e-4, name="x"), "epoch": 3, "done": True, "nothing": None, "seen": {1, 2},
        "order": OrderedDict(a=1), "shape": torch.Size([1, 2]), "half": torch.zeros(2, dtype=torch.bfloat16),
    }  # fmt: skip
    for new in (True, False):
        torch.save({"model": state(), **extra}, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        assert inspect(tmp_path / "x.pt").shape["n_classes"] == 1000


def test_a_header_of_a_safetensors_file_has_a_limit(tmp_path):
    entries = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(400_000))
    header = b"{" + entries.encode() + b"}"
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refuse(tmp_path / "x.safetensors", "a header of over")
