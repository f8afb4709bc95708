"""`anytime-cls serve`: a process that answers, and ends when it is told to."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from server import served

from anytime_cls_cli.main import main


def post(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        return json.load(answer)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_a_signal_ends_it_when_what_it_holds_is_answered(tiny_model_dir, photo, number):
    with served(
        tiny_model_dir, "--rule", "fixed", "--max-orders", "4096", "--budget", "1s", "--threads", "1"
    ) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert post(f"{server.url}/classify?budget=20passes", photo.read_bytes())["stop"] == "budget"
        rows: list[Any] = []
        asking = threading.Thread(
            target=lambda: rows.append(post(f"{server.url}/classify", photo.read_bytes()))
        )
        asking.start()
        while asking.is_alive() and "anytime_cls_held 1\n" not in get(f"{server.url}/metrics"):
            time.sleep(0.01)
        code, rest = server.stop(number)
        asking.join()
        assert (code, rest) == (0, "")
        assert rows[0]["stop"] == "budget"


def test_errors_are_a_status_and_one_line(tiny_model_dir, tmp_path):
    with served(tiny_model_dir, "--max-bytes", "1000", "--classes", "cat,dog", "--top", "1") as server:
        for body, status in ((b"no image", 422), (bytes(2000), 413), (bytes(100_000), 413)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                post(f"{server.url}/classify", body)
            assert refused.value.code == status and list(json.load(refused.value)) == ["error"]
            refused.value.close()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "no-such"], "no model 'no-such'"),
        (["--budget", "0.5"], "cannot read the budget"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--host", "no such host"], "cannot listen on no such host"),
        (["--queue", "0"], "'--queue'"),
        (["--port", "65536"], "'--port'"),
        (["--device", "tpu9"], "device 'tpu9' is not available"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(args, says, capsys):
    assert main(["serve", "--port", "0", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port} (" in err and "choose other --host and --port" in err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    inner = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else inner(name))
    assert main(["serve"]) == 2
    assert "pip install fastapi uvicorn" in capsys.readouterr().err


def test_an_address_that_others_reach_is_said(tiny_model_dir: Path):
    with served(tiny_model_dir, "--host", "0.0.0.0") as server:
        assert server.url.startswith("http://0.0.0.0:")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_answers_do_not_wait_for_an_acknowledgement(host):
    """asyncio sets TCP_NODELAY on connections whose socket names the protocol, and on no others."""
    from anytime_cls_cli.serve import _listen

    with _listen(host, 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
