"""What a command line names becomes the right pictures in the right order; what is wrong becomes a row."""

import io
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anytime_cls.pixels.decode import EXTENSIONS, HEIF, _known, decode
from anytime_cls.pixels.inputs import Input, _natural, collect
from anytime_cls.pixels.listing import say_left_out


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str) -> None:
    """Files under the current folder, each holding its own name."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def names(*paths: str, files_from: str | None = None) -> list[str]:
    """Names of what was found; every source must be the path of that name. An error shows as !name."""
    out = []
    for item in collect(paths, files_from):
        assert (item.source is None) != (item.error is None)
        if item.error is None:
            assert isinstance(item.source, Path) and item.source.samefile(item.name)
        else:
            assert item.error and "\n" not in item.error
        out.append(item.name if item.error is None else "!" + item.name)
    return out


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- files and folders


def test_files_keep_their_order_and_duplicates() -> None:
    put("b.jpg", "a.jpg", "no_extension")
    assert names("b.jpg", "a.jpg", "no_extension", "b.jpg") == ["b.jpg", "a.jpg", "no_extension", "b.jpg"]
    assert names() == []


def test_what_is_missing_is_a_row_and_the_rest_goes_on() -> None:
    put("a.jpg")
    Path("gone.jpg").symlink_to("nowhere.jpg")
    wrong = ["none.jpg", "", "a\0b", "a.jpg/inside", "x" * 5000, "gone.jpg"]
    assert names("a.jpg", *wrong, "a.jpg") == ["a.jpg", *["!" + name for name in wrong], "a.jpg"]
    errors = {item.name: item.error or "" for item in collect(wrong)}
    assert "no such file" in errors["none.jpg"] and "no such file" in errors["a.jpg/inside"]
    assert "link" in errors["gone.jpg"]
    assert "too long" in errors["x" * 5000]


def test_a_folder_gives_its_images_in_natural_order_and_then_those_below() -> None:
    put("d/img10.png", "d/Img2.JPEG", "d/img1.jpg", "d/a/z.webp", "d/a10/x.gif", "d/a9/x.tif", "d/zz.bmp")
    put("d/notes.txt", "d/.hidden.jpg", "d/.git/x.jpg", "d/jpg", "d/._img2.JPEG", "d/x.jpg.part")
    want = ["img1.jpg", "Img2.JPEG", "img10.png", "zz.bmp", "a/z.webp", "a9/x.tif", "a10/x.gif"]
    assert names("d") == names("d") == ["d/" + name for name in want]
    assert names("./d/a", "d/a/") == ["./d/a/z.webp", "d/a/z.webp"]


def test_a_hidden_folder_that_is_named_is_read() -> None:
    put(".cache/a.jpg")
    assert names(".cache") == [".cache/a.jpg"]


def test_the_current_folder(here: Path) -> None:
    put("a.jpg", "b/c.jpg")
    assert names(".") == ["./a.jpg", "./b/c.jpg"]
    assert names(str(here)) == [str(here / "a.jpg"), str(here / "b/c.jpg")]


def test_a_folder_without_images_is_named() -> None:
    put("empty/notes.txt", "ok/a.jpg")
    Path("bare").mkdir()
    assert names("empty", "ok", "bare") == ["!empty", "ok/a.jpg", "!bare"]
    assert "no images" in (next(collect(["bare"])).error or "")


def test_linked_folders_are_followed_but_not_round_in_circles() -> None:
    put("d/a/1.jpg", "other/2.jpg")
    Path("d/a/up").symlink_to(Path("d").resolve())
    Path("d/b").symlink_to(Path("other").resolve())
    Path("other/back").symlink_to(Path("d").resolve())
    assert names("d") == ["d/a/1.jpg", "d/b/2.jpg"]


def test_a_folder_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    put("d/a.jpg", "d/shut/b.jpg")
    scandir = os.scandir

    def guarded(path: str) -> object:  # chmod would not stop root
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert names("d") == ["d/a.jpg", "!d/shut"]
    assert names("d/shut") == ["!d/shut"]


def test_folders_are_read_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    put("one/a.jpg", "two/b.jpg")
    inputs = collect(["one", "two"])
    assert next(inputs).name == "one/a.jpg"
    put("two/c.jpg")  # comes into being before its folder's turn
    assert [item.name for item in inputs] == ["two/b.jpg", "two/c.jpg"]


@pytest.mark.parametrize("kind", _known())
def test_every_format_read_has_an_extension_that_counts(kind: str) -> None:
    assert EXTENSIONS & {ending for ending, of in Image.EXTENSION.items() if of == kind} or kind == "MPO"


# ---- globs


def test_globs() -> None:
    put("a10.jpg", "a9.jpg", "b.png", ".h.jpg", "d/c.jpg", "d/e/f.jpg", "notes.txt")
    assert names("*.jpg") == ["a9.jpg", "a10.jpg"]
    assert names("a?.jpg", "[bx].png") == ["a9.jpg", "b.png"]
    assert names("*/*.jpg") == ["d/c.jpg"]
    assert names("**/*.jpg") == ["a9.jpg", "a10.jpg", "d/c.jpg", "d/e/f.jpg"]
    assert names("d/**") == ["d/c.jpg", "d/e/f.jpg"]
    assert names("*.txt") == ["notes.txt"]  # as if the shell had expanded it
    assert names("d*") == ["d/c.jpg", "d/e/f.jpg"]  # and so a folder is a folder


def test_a_glob_without_matches_is_a_row() -> None:
    put("a.jpg")
    assert names("*.png", "a.jpg", "none/**/*.jpg") == ["!*.png", "a.jpg", "!none/**/*.jpg"]
    assert "pattern" in (next(collect(["*.png"])).error or "")


def test_a_real_file_wins_over_the_pattern_it_looks_like() -> None:
    put("a[1].jpg", "a1.jpg", "*.jpg", "what?.jpg", "whatx.jpg", "dir[2]/b.jpg", "dir2/c.jpg")
    assert names("a[1].jpg") == ["a[1].jpg"]
    assert names("*.jpg") == ["*.jpg"]
    assert names("what?.jpg") == ["what?.jpg"]
    assert names("dir[2]") == ["dir[2]/b.jpg"]
    assert sorted(names("a*.jpg")) == ["a1.jpg", "a[1].jpg"]


def test_a_broken_link_named_like_a_pattern_does_not_go_round() -> None:
    Path("*").symlink_to("nowhere")
    assert names("*") == ["!*"]


# ---- standard input


def test_an_image_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.jpg")
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    feed(monkeypatch, file.getvalue())
    first, second = collect(["a.jpg", "-"])
    assert first.name == "a.jpg" and second == Input("-", file.getvalue(), None)
    assert decode(second.source).size == (3, 2)  # type: ignore[arg-type]


def test_standard_input_empty_closed_or_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"")
    assert "empty" in (next(collect(["-"])).error or "")
    feed(monkeypatch, b"bytes")
    first, second = collect(["-", "-"])
    assert first.source == b"bytes" and "already" in (second.error or "")
    monkeypatch.setattr("sys.stdin", None)
    assert "closed" in (next(collect(["-"])).error or "")


def test_standard_input_is_not_touched_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    put("a.jpg")
    assert names("a.jpg") == ["a.jpg"]


def test_a_file_named_dash_can_be_reached() -> None:
    put("-")
    assert names("./-") == ["./-"]


# ---- lists of files


def test_a_list_comes_after_the_paths_and_may_name_anything_they_may() -> None:
    put("a.jpg", "b c.jpg", "d/e.jpg", "f1.png", "über.jpg", "#x.jpg")
    text = "# a comment\n\nb c.jpg\r\n  \nd\nnone.jpg\n*.png\nüber.jpg\n./#x.jpg\na.jpg"
    Path("list.txt").write_bytes(text.encode())
    want = ["a.jpg", "b c.jpg", "d/e.jpg", "!none.jpg", "f1.png", "über.jpg", "./#x.jpg", "a.jpg"]
    assert names("a.jpg", files_from="list.txt") == want


def test_a_list_may_separate_with_nul_and_then_everything_is_a_name() -> None:
    put("#a.jpg", "b\nc.jpg", " ")
    Path("list").write_bytes(b"#a.jpg\0b\nc.jpg\0 \0")
    assert names(files_from="list") == ["#a.jpg", "b\nc.jpg", " "]


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_the_codings_that_editors_write(coding: str) -> None:
    put("ü.jpg", "b.jpg")
    Path("list").write_bytes("ü.jpg\nb.jpg\n".encode(coding))
    assert names(files_from="list") == ["ü.jpg", "b.jpg"]


def test_names_that_are_not_utf8_are_found() -> None:
    try:
        Path(os.fsdecode(b"caf\xe9.jpg")).write_text("x")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    Path("list").write_bytes(b"caf\xe9.jpg\n")
    assert names(files_from="list") == [os.fsdecode(b"caf\xe9.jpg")]


def test_a_list_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.jpg", "b.jpg")
    feed(monkeypatch, b"b.jpg\n-\n")
    assert names("a.jpg", files_from="-") == ["a.jpg", "b.jpg", "!-"]
    feed(monkeypatch, b"b.jpg\n")
    assert names("-", "a.jpg", files_from="-") == ["!-", "a.jpg", "b.jpg"]  # the list needs it
    assert "list" in (next(collect(["-"], "-")).error or "")


def test_a_list_in_a_file_may_name_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.jpg")
    Path("list").write_text("a.jpg\n-\n")
    feed(monkeypatch, b"bytes")
    assert [item.source for item in collect([], "list")] == [Path("a.jpg"), b"bytes"]


def test_lists_that_cannot_be_read_or_name_nothing() -> None:
    put("a.jpg")
    Path("blank").write_text("\n# only a comment\n")
    Path("odd").write_bytes(b"\xff\xfea")  # half a UTF-16 character
    Path("folder").mkdir()
    for name, word in [
        ("none", "read"),
        ("folder", "read"),
        ("odd", "read"),
        ("blank", "no files"),
        ("", "read"),
    ]:
        first, second = collect(["a.jpg"], name)
        assert first.source == Path("a.jpg")
        assert second.name == name and word in (second.error or "")


# ---- order


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)))
def test_natural_order_is_an_order_on_any_names(found: list[str]) -> None:
    once = sorted(found, key=_natural)
    assert once == sorted(reversed(found), key=_natural) and sorted(once) == sorted(found)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_counts(numbers: list[int]) -> None:
    shuffled = [f"img{number}.jpg" for number in numbers]
    assert sorted(shuffled, key=_natural) == [f"img{number}.jpg" for number in sorted(numbers)]


# ---- what is left out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_pipes_in_folders_are_counted_and_not_opened() -> None:
    put("d/a.jpg", "d/b.txt", "d/c/d.jxl")
    os.mkfifo("d/pipe.jpg")
    os.mkfifo("d/c/pipe.jpg")
    Path("d/link.jpg").symlink_to("pipe.jpg")
    Path("d/c/gone.jpg").symlink_to("nowhere")
    for path in ("d", "d/**"):
        skipped: Counter[str] = Counter()
        found = [item.name for item in collect([path], None, skipped) if item.error is None]
        assert found == (["d/a.jpg", "d/c/gone.jpg"] if path == "d" else ["d/a.jpg", "d/b.txt", "d/c/d.jxl"])
        assert skipped["named pipe (FIFO)"] == 3
    assert say_left_out(skipped) == "left out: 3 named pipe (FIFO)"
    Path("list").write_text("d/a.jpg\nd/pipe.jpg\n")
    (good, bad) = collect([], "list")
    assert good.error is None and bad.name == "d/pipe.jpg" and "named pipe" in (bad.error or "")
    assert names("d/pipe.jpg") == ["d/pipe.jpg"]  # by hand


def test_a_folder_of_other_files_says_which() -> None:
    put("d/a.jxl", "d/b.jxl", "d/c.txt", "d/.hidden.txt")
    (item,) = collect(["d"])
    assert item.error and "no images in this folder (left out: 2 .jxl, 1 .txt)" in item.error


def test_a_link_to_a_folder_above_is_not_followed() -> None:
    put("d/a.jpg", "e/b.jpg")
    Path("d/up").symlink_to("..")
    skipped: Counter[str] = Counter()
    assert [item.name for item in collect(["d"], None, skipped)] == ["d/a.jpg"]
    assert skipped == {"link to a folder above": 1}


def test_a_listed_file_whose_name_looks_like_a_comment() -> None:
    put("#a.jpg", "#cat/b.jpg", "c.jpg")
    Path("list").write_text("# three\n#a.jpg\n#cat/b.jpg\n#none.jpg\nc.jpg\n")
    assert names(files_from="list") == ["#a.jpg", "#cat/b.jpg", "c.jpg"]


def test_what_is_said_of_many_kinds_is_short() -> None:
    text = say_left_out({f".{i:03d}": i for i in range(1, 40)})
    assert text.startswith("left out: 39 .039, 38 .038") and text.endswith("31 further kinds")
    assert say_left_out({}) == ""
    assert ("pip install pillow-heif" in say_left_out({".heic": 2})) == (not HEIF)


@pytest.mark.skipif(not HEIF, reason="the extra heif is not installed")
def test_heic_photographs_are_read() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    pixels = Image.new("RGB", (64, 48), (200, 30, 40))
    pixels.save("a.heic")
    put("b.txt")
    assert names(".") == ["./a.heic"]
    picture = decode("a.heic")
    assert picture.size == (64, 48) and abs(picture.getpixel((9, 9))[0] - 200) < 8  # type: ignore[index]
