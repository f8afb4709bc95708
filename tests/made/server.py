"""`anytime-cls serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-c", "import sys; from anytime_cls_cli.main import main; sys.exit(main())"]


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str  # without the slash at its end

    def stop(self, signal: int) -> tuple[int, str]:
        """Exit code, and the rest of standard error, once it has ended."""
        self.process.send_signal(signal)
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, rest


@contextmanager
def served(model: Path, *args: str) -> Iterator[Served]:
    """A server on a free port that answers; killed at the end if it has not ended by then."""
    command = [*COMMAND, "serve", "--model", str(model), "--device", "cpu", "--port", "0", *args]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if found := re.match(r"(http://\S+)/ \(Ctrl-C ends it\)", line):
                yield Served(process, found[1])
                return
        raise AssertionError(f"the server ended: {told}")
    finally:
        process.kill()
        process.communicate()
