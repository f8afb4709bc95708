"""`anytime-cls serve`: a classifier behind HTTP, until it is told to stop."""

from __future__ import annotations

import importlib.util
import signal
import socket
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as option
from .errors import Refused, complain

if TYPE_CHECKING:
    from anytime_cls.race.decision import Decision

    from .show.output import About

Option = typer.Option
GRACE = 30  # seconds that requests in flight have to end once the server was told to stop
IDLE = 75  # seconds that a connection may rest: longer than any Retry-After
LOOPBACK = ("127.", "::1", "localhost")


def serve(
    model: option.Model = "cifar10",
    host: Annotated[
        str, Option(metavar="ADDRESS", help="Where to listen: this machine alone, unless said otherwise.")
    ] = "127.0.0.1",
    port: Annotated[
        int, Option(min=0, max=65535, metavar="PORT", help="0 takes a free one, and prints it.")
    ] = 8000,
    budget: Annotated[
        str | None,
        Option(
            metavar="AMOUNT", show_default=False,
            help="Most to spend on an image whose request does not say (?budget=0.5s), as in 'classify'.",
        ),
    ] = None,
    queue: Annotated[
        int,
        Option(min=1, max=65535, metavar="N",
               help="Most requests held at a time: being read, waiting or raced. Others get status 429."),
    ] = 32,
    max_bytes: Annotated[
        int, Option(min=1, metavar="BYTES", help="Of an upload. Larger ones get status 413.")
    ] = 20_000_000,
    top: Annotated[
        int, Option(min=1, metavar="N", help="Classes in the ranking of a request that does not say.")
    ] = 5,
    abstain: option.Abstain = None,
    rule: option.Rule = None,
    delta: option.Delta = None,
    max_orders: option.MaxOrders = None,
    orders: option.Orders = None,
    prefix: option.Prefix = None,
    classes: option.Classes = None,
    seed: option.Seed = 0,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    threads: option.Threads = None,
    batch_size: option.BatchSize = "auto",
    quiet: option.Quiet = False,
) -> int:  # fmt: skip
    """Answer POST /classify and POST /race, whose body is an image, until Ctrl-C or SIGTERM.

    One model, one race at a time; what waits spends its budget. GET / is a page that draws the race of a
    photograph dropped on it. There is no password and no TLS: keep to this machine, or put a proxy before it.

    Exit codes: 0 stopped, 2 the command makes no sense or the port is taken.

    \b
    Example: anytime-cls serve --budget 0.5s
             curl --data-binary @photo.jpg http://127.0.0.1:8000/classify
    """
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise Refused("serving needs FastAPI and uvicorn: pip install fastapi uvicorn")
    asked = {
        "rule": rule, "delta": delta, "max_orders": max_orders, "budget": budget, "seed": seed,
        "classes": option.names(classes), "orders": orders, "prefix": prefix, "dtype": dtype,
    }  # fmt: skip
    from .classify import introduce, load, settle
    from .show.output import About

    with ExitStack() as stack:
        try:
            rows = option.batch_size(batch_size)
            card, plan = settle(model, asked, ())
            about = About.of(card, plan, rate=abstain)
            listening = stack.enter_context(_listen(host, port))
            began = time.perf_counter()
            classifier = load(card, device, dtype, rows, threads)
            ready = time.perf_counter() - began
            warm = classifier.warm_up()
        except ValueError as error:
            raise Refused(str(error)) from None
        if not quiet:
            introduce(classifier, plan, ready, warm)
        from anytime_cls.serving.app import make_app

        app = make_app(classifier, plan, partial(_row, about), queue, max_bytes, top)
        _serve(app, listening, host, quiet)
    return 0


def _row(about: About, decision: Decision, top: int) -> dict[str, Any]:
    from .show.output import decision_row, plain

    row: dict[str, Any] = plain(decision_row("-", decision, top, about))
    return row


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises Refused: a port that is taken, an address that is not this machine's."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sets TCP_NODELAY only where the protocol is named: without it every answer waits 40 ms
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        with ExitStack() as unless_it_listens:
            unless_it_listens.enter_context(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
            unless_it_listens.pop_all()
        return listening
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Refused(
            f"cannot listen on {host}, port {port} ({why}): choose other --host and --port"
        ) from None


def _serve(app: Any, listening: socket.socket, host: str, quiet: bool) -> None:
    """Until SIGINT or SIGTERM; then what is held is answered first. A second signal does not wait."""
    import uvicorn

    where = f"[{host}]" if ":" in host else host
    if not quiet:
        if not host.startswith(LOOPBACK):
            complain("others can reach this address: there is no password and no TLS", 0)
        print(f"http://{where}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="on",
        timeout_graceful_shutdown=GRACE, timeout_keep_alive=IDLE,
    )  # fmt: skip
    # uvicorn raises the signals that ended it once more when it is done: to have ended is no failure
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
