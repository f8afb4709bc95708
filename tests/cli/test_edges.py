"""What a command meets at its edges: closed and full streams, odd terminals, paths it may not use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from basics import write_photo
from replay_data import full_trace, races
from sweep_data import make_images

from anytime_cls_cli import errors
from anytime_cls_cli.main import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX shells and permissions")
RUN = f"exec '{sys.executable}' -m anytime_cls_cli"


def run(*words: str, cwd: Path | None = None, given: str = "") -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        words, input=given, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


def shell(command: str) -> tuple[int, str, str]:
    """The same of `anytime-cls COMMAND`, with the shell's redirections."""
    return run("sh", "-c", f"{RUN} {command}")


# --- standard streams ------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["--help", "models ls", "models ls --json"])
def test_a_full_disk_under_standard_output_is_one_line(command):
    code, _, err = shell(f"{command} > /dev/full")
    assert code == 1 and err == "anytime-cls: standard output: No space left on device\n"


def test_answers_that_cannot_be_written_end_the_run(photo, tiny_model_dir):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code, _, err = shell(f"classify '{photo}' --model '{tiny_model_dir}' --device cpu -q > /dev/full")
    assert code == 1 and err == "anytime-cls: standard output: No space left on device\n"


def test_a_log_that_cannot_be_written_does_not(photo, tiny_model_dir):
    for redirect in ("2>&-", "2> /dev/full") if Path("/dev/full").exists() else ("2>&-",):
        code, out, _ = shell(f"classify '{photo}' --model '{tiny_model_dir}' --json {redirect}")
        assert code == 0 and json.loads(out)["label"]
        assert shell(f"--nonsense {redirect}")[0] == 2


@pytest.mark.parametrize("command", ["--help", "classify x.jpg"])
def test_closed_standard_output_is_refused(command):
    code, _, err = shell(f"{command} >&-")
    assert code == 2 and err.count("\n") == 1 and "standard output is closed" in err


def test_closed_standard_input_is_empty(tiny_model_dir):
    code, out, err = shell(f"classify - --model '{tiny_model_dir}' --json -q <&-")
    assert code == 1 and "empty" in json.loads(out)["error"] and err == ""


# --- the terminal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["0", "1", "-5", "wide", "²", "", "99999999999999999999"])
def test_a_width_that_no_terminal_has_counts_as_none(columns, monkeypatch, capsys):
    expected = ""
    for value in (None, columns):
        if value is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        else:
            monkeypatch.setenv("COLUMNS", value)
        assert main(["models", "ls"]) == 0
        out = capsys.readouterr().out
        expected = expected or out
    assert out == expected and "cifar10" in out


# --- where one may not be --------------------------------------------------------------------------------


def test_a_working_directory_that_is_gone(tmp_path):
    for command in ("classify x.jpg", "sweep x"):
        gone = tmp_path / "gone"
        gone.mkdir()
        code, out, err = run("sh", "-c", f"rmdir '{gone}'; {RUN} {command}", cwd=gone)
        assert code == 2 and out == ""
        assert err == "anytime-cls: the working directory is gone, or cannot be read: cd to another\n"


def test_a_user_without_a_home(tmp_path, monkeypatch, capsys, photo, tiny_model_dir):
    """Whose number no passwd entry has, as in many containers."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert main(["models", "ls"]) == 0
    assert main(["classify", str(photo), "--model", str(tiny_model_dir), "--budget", "5s", "-q"]) == 0
    capsys.readouterr()
    assert main(["doctor", "--model", str(tiny_model_dir), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "XDG_CACHE_HOME" in report["cache"]["error"]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A photograph, a full trace, class folders, and a folder that nobody may enter."""
    folder = tmp_path_factory.mktemp("there")
    write_photo(folder / "photo.jpg")
    scores = races(1, 60, n_classes=4, k_max=8)
    full_trace(folder / "full.h5", scores, scores.mean(axis=1).argmax(axis=1))
    make_images(folder / "data", 2)
    (folder / "locked").mkdir()
    (folder / "locked" / "x").write_text("x")
    (folder / "locked").chmod(0)
    yield folder
    (folder / "locked").chmod(0o700)


def commands(there: Path, bad: str) -> list[list[str]]:
    """A command for every option that takes a path, each with one that cannot be used."""
    photo, full, data = (str(there / name) for name in ("photo.jpg", "full.h5", "data"))
    new = str(there / "new")
    return [
        ["classify", photo, "--trace", f"{bad}/x.h5", "-q"],
        ["classify", photo, "--model", f"{bad}/m", "-q"],
        ["classify", photo, "--model", bad, "-q"],
        ["sweep", f"{bad}/data", "-q"],
        ["sweep", data, "-o", f"{bad}/x.h5", "-q"],
        ["sweep", data, "--ids", f"{bad}/x", "-q"],
        ["trace", "info", f"{bad}/x.h5"],
        ["trace", "merge", f"{bad}/x.h5", "-o", f"{new}.h5"],
        ["trace", "merge", full, "-o", f"{bad}/x.h5"],
        ["trace", "export", f"{bad}/x.h5", "-o", f"{new}.csv"],
        ["trace", "export", full, "-o", f"{bad}/x.csv"],
        ["replay", f"{bad}/x.h5", "-o", f"{new}.h5"],
        ["replay", full, "-o", f"{bad}/x.h5"],
        ["calibrate", f"{bad}/x.h5", "-o", f"{new}.json"],
        ["calibrate", full, "-o", f"{bad}/x.json"],
        ["calibrate", full, "--write-model", f"{bad}/m"],
        ["plot", f"{bad}/x.h5", "-o", f"{new}.svg"],
        ["plot", full, "-o", f"{bad}/x.svg"],
        ["train", f"{bad}/data", "--out", f"{new}-1"],
        ["train", data, "--out", f"{bad}/out"],
        ["models", "ls", f"{bad}/m"],
        ["models", "convert", f"{bad}/x", f"{new}-2"],
        ["models", "measure", f"{bad}/m", full],
        ["models", "measure", "cifar10", f"{bad}/x.h5"],
        ["doctor", "--model", f"{bad}/m"],
    ]


def check(code: int, err: str, out: str, args: list[str]) -> None:
    lines = err.splitlines()
    assert code in (1, 2), (args, code)
    if args[0] == "doctor" and code == 1 and not err:
        lines = [line for line in out.splitlines() if "BROKEN" in line]
    assert len(lines) == 1 and "Traceback" not in err, (args, err)
    assert "cannot write" not in err or any(word in args for word in ("-o", "--out")), (args, err)


def test_names_too_long_and_paths_below_a_file_are_one_line(there, capsys):
    for bad in (str(there / ("n" * 5000)), str(there / "photo.jpg" / "x")):
        for args in commands(there, bad):
            code = main(args)
            out, err = capsys.readouterr()
            check(code, err, out, args)
            assert len(err) < 2000
    assert {path.name for path in there.iterdir()} == {"photo.jpg", "full.h5", "data", "locked"}


def test_paths_below_a_folder_one_may_not_enter_are_one_line(there):
    dropped: list[str] = []
    if os.geteuid() == 0:  # root may enter all: without this privilege it may not
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv for this")
        dropped = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    script = (
        "import contextlib, io, json, sys\nfrom anytime_cls_cli.main import main\nrows = []\n"
        "for args in json.load(sys.stdin):\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        code = main(args)\n"
        "    rows.append([code, err.getvalue(), out.getvalue(), args])\n"
        "print(json.dumps(rows))"
    )
    asked = json.dumps(commands(there, str(there / "locked")))
    code, out, err = run(*dropped, sys.executable, "-c", script, cwd=there, given=asked)
    assert code == 0, err
    for row in json.loads(out):
        check(*row)


def test_one_unreadable_model_does_not_hide_the_others(there, capsys):
    assert main(["models", "ls", str(there / ("n" * 5000)), "--json"]) == 1
    out, err = capsys.readouterr()
    assert "cifar10" in out and err.count("\n") == 1


def test_not_enough_memory_is_one_line(monkeypatch, capsys):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")):

        def fail(*args: Any, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr("anytime_cls_cli.models.ls", fail)
        assert main(["models", "ls"]) == 1
        assert "not enough memory" in capsys.readouterr().err
    monkeypatch.setattr("anytime_cls_cli.models.ls", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not dressed up
        main(["models", "ls"])


def test_what_the_system_says_names_the_file():
    assert errors.explained(PermissionError(13, "Permission denied", b"a/b")) == "a/b: Permission denied"
    assert errors.explained(OSError("odd")) == "odd"
    assert errors.explained(OSError(9, "Bad file descriptor", 3)) == "Bad file descriptor"
