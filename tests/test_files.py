"""Files are whole or not there."""

import os
import stat

import pytest

from anytime_cls.files import NotRegular, destination, open_regular, regular, replace_file, replacing


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole(tmp_path, durable):
    path = tmp_path / "numbers.csv"
    path.write_text("old")
    with replacing(path, durable) as temporary:
        assert temporary.parent == tmp_path and not temporary.exists()
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["numbers.csv"]
    replace_file(path, b"newer", durable)
    assert path.read_bytes() == b"newer" and os.listdir(tmp_path) == ["numbers.csv"]


def test_what_goes_wrong_leaves_what_was_there(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["numbers.csv"]


def test_the_error_names_the_file_that_was_meant(tmp_path):
    path = tmp_path / "none" / "numbers.csv"
    with pytest.raises(FileNotFoundError) as caught:
        replace_file(path, b"")
    assert caught.value.filename == str(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        replace_file(tmp_path / "folder", b"")
    assert caught.value.filename == str(tmp_path / "folder") and ".tmp-" not in str(caught.value)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_are_the_users_own(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_regular_files_are_looked_at_opened_and_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert regular(tmp_path / name).st_size == 1
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to pipe").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "named pipe"), ("to pipe", "named pipe"), ("folder", "a folder")):
        for act in (regular, open_regular, destination, lambda path: replace_file(path, b"x")):
            with pytest.raises(NotRegular, match=f"{what}.*not a regular file") as caught:
                act(tmp_path / name)
            assert caught.value.filename == str(tmp_path / name)
    for act in (regular, open_regular):
        with pytest.raises(FileNotFoundError):
            act(tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link", "pipe", "to pipe"]


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_is_written_through_there_or_not(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("far/c")
    for content in (b"new", b"newer"):
        replace_file(tmp_path / "a", content, durable=True)
        assert (tmp_path / "far" / "c").read_bytes() == content and os.listdir(tmp_path / "far") == ["c"]
        assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    with pytest.raises(OSError, match="symbolic links"):
        replace_file(tmp_path / "x", b"")
