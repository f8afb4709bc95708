"""Traces cut short: resumed, killed, out of room, interrupted, and never the worse for it."""

import errno
import os
import random
import re
import signal
import time

import h5py
import pytest
from trace_data import LABELS, RUN, check, digest, in_child, posix, row_of, scores_of, write

from anytime_cls.traces import publish
from anytime_cls.traces import read as reading
from anytime_cls.traces.hdf5 import _files
from anytime_cls.traces.merge import merge_traces
from anytime_cls.traces.read import Trace
from anytime_cls.traces.schema import MATCH_KEYS, TraceError
from anytime_cls.traces.write import TraceWriter

# ---- resuming


def test_interrupted_run_is_readable_and_resumes_to_the_same_file(tmp_path):
    write(tmp_path / "whole.h5", range(20), images_per_part=3)
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt), TraceWriter.create(path, RUN, LABELS, images_per_part=4) as writer:
        for i in range(20):
            if i == 10:
                raise KeyboardInterrupt
            writer.append(row_of(i), scores_of(i), i)
    assert not path.exists() and len(list(writer.parts.glob("part-*.h5"))) == 3
    with Trace.open(path) as trace:
        assert not trace.complete
        check(trace, range(10))
    with pytest.raises(TraceError, match="--resume"):
        TraceWriter.create(path, RUN, LABELS)
    write(path, range(20), RUN | {"device": "cuda", "command": "other"}, resume=True, images_per_part=50)
    assert digest(path) == digest(tmp_path / "whole.h5")


def test_a_finished_trace_can_go_on_or_be_replaced(tmp_path):
    write(tmp_path / "whole.h5", range(9))
    path = tmp_path / "x.h5"
    write(path, range(5), resume=True)  # nothing there yet: starts
    before = digest(path), path.stat().st_mtime_ns
    write(path, range(5), resume=True)
    assert (digest(path), path.stat().st_mtime_ns) == before
    with TraceWriter.resume(path, RUN | {"labels": LABELS}, images_per_part=1) as writer:
        assert writer.done == {f"im{i}" for i in range(5)}
        for i in range(8, 4, -1):
            writer.append(row_of(i), scores_of(i), i)
        with Trace.open(path) as trace:  # both the file and the parts beside it
            assert not trace.complete
            check(trace, range(9))
    assert digest(path) == digest(tmp_path / "whole.h5")
    with pytest.raises(TraceError, match="exists already"):
        TraceWriter.create(path, RUN, LABELS)
    write(path, [3], overwrite=True)
    with Trace.open(path) as trace:
        check(trace, [3])


@pytest.mark.parametrize("key", [key for key in MATCH_KEYS if key not in ("schema", "labels", "prefixes")])
def test_resume_refuses_another_run(tmp_path, key):
    write(tmp_path / "x.h5", [0])
    other = {
        "seed": 8, "delta": 0.1, "k_max": 20, "tokens": 256, "pass_tokens": 16,
        "latent_noise": 0.5, "temperature": 1.5,
    }.get(key, "other")  # fmt: skip
    was = re.escape("absent" if RUN.get(key) is None else str(RUN[key]))
    now = re.escape(str(other))
    with pytest.raises(TraceError, match=f"{key} is {was} there and {now} here") as error:
        TraceWriter.resume(tmp_path / "x.h5", RUN | {key: other}, LABELS)
    assert "\n" not in str(error.value)
    write(tmp_path / "y.h5", [1], RUN | {key: other})
    with pytest.raises(TraceError, match=f"merge .*y.h5 with .*x.h5: {key} is {was} there and {now} here"):
        merge_traces([tmp_path / "x.h5", tmp_path / "y.h5"], tmp_path / "z.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5", "y.h5"]


def test_resume_refuses_other_prefixes(tmp_path):
    write(tmp_path / "x.h5", [0])
    with pytest.raises(TraceError, match="prefixes is 2 with 32 at 1 there and 1 with 'nothing' at 1 here"):
        TraceWriter.resume(tmp_path / "x.h5", RUN | {"prefixes": [16]}, LABELS)


def test_a_shard_goes_on_only_as_itself_and_merges_with_others(tmp_path):
    first, second = (RUN | {"shard": f"{i}/2"} for i in (1, 2))
    write(tmp_path / "whole.h5", range(9))
    write(tmp_path / "a.h5", range(0, 9, 2), first)
    write(tmp_path / "b.h5", range(1, 9, 2), second)
    with pytest.raises(TraceError, match="shard is 1/2 there and 2/2 here"):
        TraceWriter.resume(tmp_path / "a.h5", second, LABELS)
    merge_traces([tmp_path / "b.h5", tmp_path / "a.h5"], tmp_path / "z.h5")
    with Trace.open(tmp_path / "z.h5") as trace:
        check(trace, range(9))
        assert trace.complete and trace.attrs["shard"] == ["2/2", "1/2"]


def test_a_run_without_images_can_be_discarded(tmp_path):
    TraceWriter.create(tmp_path / "x.h5", RUN, LABELS).discard()
    assert not list(tmp_path.iterdir())
    write(tmp_path / "x.h5", [0])
    before = digest(tmp_path / "x.h5")
    TraceWriter.resume(tmp_path / "x.h5", RUN, LABELS).discard()
    assert digest(tmp_path / "x.h5") == before


def test_resume_refuses_other_labels_schema_and_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    with pytest.raises(TraceError, match="no trace at"):
        TraceWriter.resume(path, RUN)
    with pytest.raises(TraceError, match="no trace at"):
        Trace.open(path)
    write(path, [0])
    with pytest.raises(TraceError, match="labels is 3 with 'dog' at 1 there and 2 with 'fox' at 1 here"):
        TraceWriter.resume(path, RUN, ["cat", "fox"])
    with pytest.raises(TraceError, match=r"labels is .* there and absent here"):
        TraceWriter.resume(path, RUN)
    with pytest.raises(TraceError, match=r"no-such-folder.*No such file"):
        TraceWriter.create(tmp_path / "no-such-folder" / "x.h5", RUN, LABELS)
    for bad in (
        {},
        {"tokens": 0},
        {"tokens": 64, "x": object()},
        {"tokens": 4, "x": [1, "a"]},
        {"tokens": 2**70},
    ):
        with pytest.raises(TraceError):
            TraceWriter.create(tmp_path / "y.h5", bad, LABELS)
    monkeypatch.setattr(reading, "READ_VERSIONS", (3, 4))
    with pytest.raises(TraceError, match="schema 2; this program reads 3 and 4"):
        Trace.open(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_damaged_and_foreign_files_say_so(tmp_path):
    path = tmp_path / "x.h5"
    writer = TraceWriter.create(path, RUN, LABELS, images_per_part=2)
    for i in range(4):
        writer.append(row_of(i), scores_of(i), i)
    writer.close(finish=False)
    part = sorted(writer.parts.glob("part-*"))[0]
    part.write_bytes(part.read_bytes()[:-999])
    with pytest.raises(TraceError, match=r"part-0.* is damaged or not a trace: delete it and resume"):
        Trace.open(path)
    part.unlink()
    with Trace.open(path) as trace:
        check(trace, [2, 3])
    path.write_bytes(b"not HDF5")
    with pytest.raises(TraceError, match=r"x\.h5 is damaged or not a trace"):
        Trace.open(path)
    h5py.File(path, "w").close()
    with pytest.raises(TraceError, match=r"x\.h5 is damaged or not a trace"):
        Trace.open(path)


# ---- crashes


def crash_at(n: int, every: int = 40) -> None:
    """From here, this process ends at once instead of its n-th change to the disk (n-th group of writes)."""
    left = [n, 0]

    def count(call):
        def counted(*args, **kwargs):
            left[1] += call is write_sink
            if call is not write_sink or left[1] % every == 0:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(77)
            return call(*args, **kwargs)

        return counted

    write_sink = publish._Sink.write
    publish._Sink.write = count(write_sink)
    for name in ("replace", "fsync", "unlink", "mkdir", "rmdir"):
        setattr(os, name, count(getattr(os, name)))


@posix
def test_every_crash_point(tmp_path):
    write(tmp_path / "whole.h5", range(3))
    path, done, n = tmp_path / "x.h5", set(), 0

    def work(n):
        crash_at(n)
        write(path, range(3), resume=True, images_per_part=2)

    while True:
        path.unlink(missing_ok=True)
        status = in_child(lambda n=n: work(n))
        if status == 0:
            break
        assert status == 77
        if _files(path):
            with Trace.open(path) as trace:
                done.add(len(trace))
                check(trace, range(len(trace)))
        write(path, range(3), resume=True, images_per_part=2)
        assert digest(path) == digest(tmp_path / "whole.h5")
        n += 1
    assert n > 25 and done == {0, 2, 3}
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "whole.h5"}


@posix
def test_sigkill_at_random_moments(tmp_path):
    write(tmp_path / "whole.h5", range(60), images_per_part=40)
    path = tmp_path / "x.h5"
    rng = random.Random(time.time_ns())
    done = [0]
    while not path.exists() and len(done) < 16:
        ready, tell = os.pipe()
        if not (pid := os.fork()):
            try:
                with TraceWriter.resume(path, RUN, LABELS, images_per_part=5) as writer:
                    os.write(tell, b"!")
                    for i in range(60):
                        if f"im{i}" not in writer.done:
                            time.sleep(0.002)
                            writer.append(row_of(i), scores_of(i), i)
            finally:
                os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(tell)
        time.sleep(rng.uniform(0, 0.03 * len(done)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with Trace.open(path) as trace:
            check(trace, range(len(trace)))
            done.append(len(trace))
    assert len(done) > 3 and done == sorted(done)
    write(path, range(60), resume=True)
    assert digest(path) == digest(tmp_path / "whole.h5")


@posix
@pytest.mark.parametrize("share", [0, 0.05, 0.2, 0.8, 0.99, 1])
def test_no_room_left_loses_nothing(tmp_path, share):
    """The kernel refuses to let a file grow past a share of the finished size: in a part or the merge."""
    import resource  # not on Windows

    path, sized = tmp_path / "x.h5", range(0, 900, 3)
    write(tmp_path / "whole.h5", sized)
    limit = int((tmp_path / "whole.h5").stat().st_size * share)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            write(path, sized, resume=True, images_per_part=20)
        except TraceError as error:
            assert "cannot write" in str(error) and "\n" not in str(error)
            assert os.strerror(errno.EFBIG) in str(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            os._exit(3)

    with TraceWriter.create(path, RUN, LABELS) as writer:
        writer.append(row_of(0), scores_of(0), 0)
        writer.flush()
        writer.close(finish=False)
    assert in_child(work) == (3 if share < 1 else 0)
    with Trace.open(path) as trace:
        check(trace, sized[: len(trace)])
        assert len(trace) == (1 if share < 0.5 else len(sized))
        assert trace.complete == (share == 1)
    write(path, sized, resume=True)
    assert digest(path) == digest(tmp_path / "whole.h5")


def test_a_failed_part_is_kept_and_written_later(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    writer = TraceWriter.create(path, RUN, LABELS, images_per_part=2)
    writer.append(row_of(0), scores_of(0), 0)

    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(TraceError, match="No space left on device; what was finished before is safe"):
            writer.append(row_of(1), scores_of(1), 1)
        with pytest.raises(TraceError, match="No space left"):
            writer.close()
    writer.append(row_of(2), scores_of(2), 2)
    writer.close()
    with Trace.open(path) as trace:
        check(trace, [0, 1, 2])
    digest(path)


@pytest.mark.parametrize("at", [0, 3, 30])
def test_ctrl_c_inside_a_write(tmp_path, monkeypatch, at):
    """The signal may arrive while HDF5 is writing: it comes out, and the part is written on the way."""
    path, left, write_sink = tmp_path / "x.h5", [at], publish._Sink.write

    class Raw:
        def __init__(self, raw):
            self.raw = raw

        def __getattr__(self, name):
            return getattr(self.raw, name)

        def write(self, data):
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return self.raw.write(data)

    def interrupted(sink, data):
        sink.raw = sink.raw if isinstance(sink.raw, Raw) else Raw(sink.raw)
        return write_sink(sink, data)

    with TraceWriter.create(path, RUN, LABELS) as writer, monkeypatch.context() as patch:
        writer.append(row_of(0), scores_of(0), 0)
        patch.setattr(publish._Sink, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    with Trace.open(path) as trace:
        check(trace, [0])
    digest(path)


def test_parts_are_written_by_time_too(tmp_path):
    with TraceWriter.create(tmp_path / "x.h5", RUN, LABELS, seconds_per_part=0.05) as writer:
        writer.append(row_of(0), scores_of(0), 0)
        assert not list(writer.parts.glob("part-*"))
        time.sleep(0.06)
        writer.append(row_of(1), scores_of(1), 1)
        assert len(list(writer.parts.glob("part-*"))) == 1
