"""Files are whole or not there."""

import os
import stat

import pytest

from anytime_cls.files import replace_file, replacing


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
