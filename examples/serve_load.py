"""What `anytime-cls serve` does under load: nothing lost, times, cancelled races, bad uploads, requests shed.

    python examples/serve_load.py DATA/cifar10/test --budget 0.5s
    python examples/serve_load.py DATA/cifar10/test --budget 0.5s --serve "--rule fixed --max-orders 256"

Starts a server of its own on a free port. A line a part; exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

QUEUE = 32  # the server's own default: requests held at a time


@contextmanager
def server(options: str) -> Iterator[int]:
    """A server's port; it is told to stop at the end, and has to end well."""
    run = "import sys; from anytime_cls_cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "serve", "--port", "0", *shlex.split(options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            print(line, end="")
            if found := re.match(r"http://127.0.0.1:(\d+)/", line):
                yield int(found[1])
                break
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    if process.returncode or rest:
        raise SystemExit(f"the server ended with {process.returncode}: {rest}")


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, dict, dict]:
    """Status, headers and JSON."""
    connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), json.loads(answer.read())


def share_out(count: int, clients: int, work: Callable[[int, http.client.HTTPConnection], None], port: int):
    """`work` for 0 ... count-1, by clients that keep a connection each."""
    turn = iter(range(count))

    def client(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for i in turn:  # next() of a range's iterator is atomic
            work(i, connection)
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))


def load(port: int, images: list[bytes], count: int, clients: int, budget: str) -> bool:
    """Every request is answered; how long that took from the client's side, connection and all."""
    statuses, stops, labels = Counter(), Counter(), [""] * count
    seconds, within, waits, passes = [], [], [], []

    def work(i: int, connection: http.client.HTTPConnection) -> None:
        began = time.perf_counter()
        status, headers, row = post(connection, f"/classify?budget={budget}", images[i % len(images)])
        seconds.append(time.perf_counter() - began)
        statuses[status] += 1
        if status == 200:
            labels[i] = row["label"]
            stops[row["stop"]] += 1
            passes.append(row["passes"])
            queue, race = (float(ms) / 1e3 for ms in re.findall(r"dur=([\d.]+)", headers["server-timing"]))
            waits.append(queue)
            within.append(queue + race)

    began = time.perf_counter()
    share_out(count, clients, work, port)
    took = time.perf_counter() - began
    print(f"load: {count} requests from {clients} clients, budget {budget}: statuses {dict(statuses)}, "
          f"{count / took:.1f} a second")  # fmt: skip
    print(f"  answer {quantiles(seconds)}; by the server's clock {quantiles(within)}")
    print(f"  waiting {quantiles(waits)}")
    print(f"  stops {dict(stops)}; {statistics.mean(passes):.3g} passes on average; "
          f"over the budget: {sum(s > amount(budget) for s in seconds)} of {count}")  # fmt: skip
    return statuses == {200: count} and all(labels)


def shed(port: int, images: list[bytes], count: int, clients: int, budget: str) -> bool:
    """More clients than are held: some are told to come back, do, and all are answered."""
    statuses = Counter()

    def work(i: int, connection: http.client.HTTPConnection) -> None:
        while True:
            status, headers, _ = post(connection, f"/classify?budget={budget}", images[i % len(images)])
            statuses[status] += 1
            if status != 429:
                return
            time.sleep(int(headers["retry-after"]) * random.uniform(0.5, 1.5))

    began = time.perf_counter()
    share_out(count, clients, work, port)
    took = time.perf_counter() - began
    print(
        f"shed: {count} requests from {clients} clients for {QUEUE} places: {dict(statuses)} in {took:.1f} s"
    )
    return statuses[200] == count and set(statuses) <= {200, 429}


def cancel(port: int, images: list[bytes], count: int) -> bool:
    """Clients that go away: half of them while their race is told, half at any time of the request."""
    chance = random.Random(1)
    before = metrics(port)
    for i in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        path = "/race" if i % 2 else "/classify"
        connection.request("POST", f"{path}?budget=60s", images[i % len(images)])
        if i % 2:
            connection.getresponse().readline()
        else:
            time.sleep(chance.uniform(0, 0.02))
        connection.close()
    ended = time.perf_counter()
    while metrics(port)["anytime_cls_held"] and time.perf_counter() - ended < 30:
        time.sleep(0.01)
    after = metrics(port)
    counted = after["anytime_cls_cancelled_total"] - before["anytime_cls_cancelled_total"]
    print(f"cancel: {count} clients that left, {counted:.0f} of them before their answer; none held after "
          f"{time.perf_counter() - ended:.2f} s")  # fmt: skip
    return after["anytime_cls_held"] == 0


def bad(port: int, images: list[bytes], count: int) -> bool:
    """Uploads that are no images: each gets its one line, and the next photograph its answer."""
    chance, statuses = random.Random(2), Counter()
    kinds: list[Callable[[bytes], bytes]] = [
        lambda image: b"",
        lambda image: image[: chance.randrange(len(image) * 9 // 10)],
        lambda image: chance.randbytes(5_000),
        lambda image: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        lambda image: b"\x89PNG\r\n\x1a\n" + chance.randbytes(200),
        lambda image: bytes(21_000_000),
    ]
    lines = True
    for i in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        status, _, answer = post(connection, "/classify", kinds[i % len(kinds)](images[i % len(images)]))
        statuses[status] += 1
        lines = lines and list(answer) == ["error"] and "\n" not in answer["error"]
        connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    well = post(connection, "/classify?budget=5s", images[0])[0] == 200
    connection.close()
    print(
        f"bad: {count} bad uploads: statuses {dict(statuses)}; "
        f"the next photograph: {'answered' if well else 'lost'}"
    )
    return well and lines and set(statuses) <= {413, 422}


def metrics(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def quantiles(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    half, most, nearly, worst = (round(x * 1e3) for x in (cuts[49], cuts[94], cuts[98], max(seconds)))
    return f"p50 {half} ms, p95 {most}, p99 {nearly}, worst {worst}"


def amount(budget: str) -> float:
    return (
        float(budget.removesuffix("ms")) / 1e3 if budget.endswith("ms") else float(budget.removesuffix("s"))
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="a folder of JPEG files, at any depth")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--budget", default="0.5s", help="in seconds or ms")
    parser.add_argument("--bad", type=int, default=100, help="bad uploads, and clients that go away")
    parser.add_argument("--serve", default="", metavar="OPTIONS", help="of the server")
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.images.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    random.Random(0).shuffle(files)
    images = [file.read_bytes() for file in files[: arguments.requests]]
    if not images:
        parser.error(f"no JPEG files below {arguments.images}")
    print(f"{len(images)} images; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    with server(arguments.serve) as port:
        kept = [
            load(port, images, arguments.requests, arguments.clients, arguments.budget),
            shed(port, images, arguments.requests // 5, 2 * QUEUE, arguments.budget),
            cancel(port, images, arguments.bad),
            bad(port, images, arguments.bad),
        ]
    print("nothing lost; the server ended with code 0" if all(kept) else "SOMETHING WAS LOST")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
