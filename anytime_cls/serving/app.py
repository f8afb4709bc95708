"""The HTTP application: images in, rows of JSON or a race as server-sent events out. docs/serve.md."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anytime_cls._version import __version__
from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.plan.budget import parse_budget
from anytime_cls.plan.options import RaceOptions
from anytime_cls.plan.plan import RacePlan
from anytime_cls.race.decision import Decision
from anytime_cls.serving.metrics import Metrics
from anytime_cls.serving.upload import Gone, No, read_image
from anytime_cls.serving.worker import Answer, Event, Refused, Work, Worker

PAGE = Path(__file__).parent / "page"
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
PATHS = frozenset({*FILES, "/classify", "/race", "/healthz", "/metrics", "/openapi.json"})
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'"
LIMIT, MAX_BYTES, TOP = 32, 20_000_000, 5

BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"format": "binary"}}}}}

Row = Callable[[Decision, int], Mapping[str, Any]]


@final
@dataclass(eq=False)
class _Held:
    """A request that is held."""

    inbox: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    work: Work | None = None  # once the image was read
    gone: bool = True  # whether its client left before the answer
    counts: bool = (
        True  # among those that are held: until its race has ended, however slowly its client reads
    )


def make_app(
    classifier: AnytimeClassifier,
    options: RaceOptions | RacePlan | None = None,
    row: Row | None = None,
    limit: int = LIMIT,
    max_bytes: int = MAX_BYTES,
    top: int = TOP,
) -> FastAPI:
    """The application of one classifier, whose engine belongs to the application's worker while it runs.

    Parameters
    ----------
    options : how images are raced where a request says nothing else
    row : what is answered for a decision and a number of classes of its ranking; default: its `to_dict`
    limit : most requests held at a time: being read, waiting or raced. Others get status 429
    max_bytes : of an upload
    top : classes of the ranking, where a request says nothing else

    Raises ValueError for options that make no sense for this model.
    """
    service = _Service(classifier, classifier.plan(options), row or Decision.to_dict, limit, max_bytes, top)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.close)

    app = FastAPI(title="anytime-cls", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(_Counted, metrics=service.metrics)
    app.add_exception_handler(No, _say_no)
    app.add_exception_handler(HTTPException, _say_no)
    app.add_exception_handler(RequestValidationError, _say_no)
    app.add_exception_handler(Gone, _nobody)
    app.post("/classify", response_class=JSONResponse, openapi_extra=BODY)(service.classify)
    app.post("/race", response_class=StreamingResponse, openapi_extra=BODY)(service.race)
    app.get("/healthz", response_class=JSONResponse)(service.health)
    app.get("/metrics", response_class=PlainTextResponse)(service.measures)
    for path, name in FILES.items():
        app.get(path, include_in_schema=False)(_file(PAGE / name))
    return app


@final
class _Service:
    """What the routes share. Runs in the event loop's thread; races run in the worker's."""

    def __init__(
        self, classifier: AnytimeClassifier, plan: RacePlan, row: Row, limit: int, max_bytes: int, top: int
    ):
        self.classifier, self.plan, self.row = classifier, plan, row
        self.limit, self.max_bytes, self.top = limit, max_bytes, top
        self.worker, self.metrics = Worker(classifier), Metrics()
        self.held = 0

    async def classify(self, request: Request, budget: str | None = None, top: int | None = None) -> Response:
        """Classify the image that is the body. `budget`: as 0.5s, 200passes, ...; `top`: classes ranked."""
        plan, top = self._asked(budget, top)
        held = self._hold()
        try:
            return self._reply(await self._first(held, request, plan, watched=False), top)
        finally:
            self._end(held)

    async def race(self, request: Request, budget: str | None = None, top: int | None = None) -> Response:
        """The same, answered with server-sent events: `update` as the race goes on, at last `row`."""
        plan, top = self._asked(budget, top)
        held, response = self._hold(), None
        try:
            event = await self._first(held, request, plan, watched=True)
            if isinstance(event, Refused):
                return self._reply(event, top)
            response = _Stream(self._events(event, held, top), lambda: self._end(held))
            return response
        finally:
            if response is None:
                self._end(held)

    async def health(self) -> Response:
        """Whether images are raced, and by what: status 200, or 503."""
        fine = self.worker.alive and not self.worker.broken
        status = "ok" if fine else f"the last race failed ({self.worker.broken})"
        body = {
            "status": status,
            "model": self.classifier.card.name,
            "classes": len(self.plan.labels),
            "budget": str(self.plan.budget) if self.plan.budget else None,
            "version": __version__,
        }
        return JSONResponse(body, 200 if fine else 503)

    async def measures(self) -> Response:
        """Counts and times, for Prometheus."""
        gauges = {
            "held": ("Requests being read, waiting or raced.", self.held),
            "held_limit": ("Most requests held at a time.", self.limit),
            "waiting": ("Requests that wait for their race.", self.worker.waiting),
            "up": ("Whether races succeed.", float(self.worker.alive and not self.worker.broken)),
        }
        text = self.metrics.text(gauges, {"model": self.classifier.card.name, "version": __version__})
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _asked(self, budget: str | None, top: int | None) -> tuple[RacePlan, int]:
        try:
            plan = self.plan if budget is None else replace(self.plan, budget=parse_budget(budget))
        except ValueError as error:
            raise No(400, str(error)) from None
        if top is not None and top < 1:
            raise No(400, f"top is a number of classes from 1, not {top}")
        return plan, top or self.top

    def _hold(self) -> _Held:
        """One of the requests that are held at a time, or status 429."""
        if self.held >= self.limit:
            wait = min(60, max(1, math.ceil(self.worker.pace * self.limit)))
            line = f"{self.limit} requests are held already: try again in {wait} s"
            raise No(429, line, {"Retry-After": str(wait)})
        self.held += 1
        return _Held()

    def _end(self, held: _Held) -> None:
        """Its answer was given, or there will be none."""
        self._free(held)
        self.metrics.cancelled += held.gone
        if held.work is not None:
            self.worker.drop(held.work)

    def _free(self, held: _Held) -> None:
        """Its place is another's."""
        self.held -= held.counts
        held.counts = False

    def _arrived(self, held: _Held, event: Event) -> None:
        """An event of its race, in the event loop's thread."""
        held.inbox.put_nowait(event)
        if isinstance(event, Answer | Refused):
            self._free(held)

    async def _first(self, held: _Held, request: Request, plan: RacePlan, watched: bool) -> Event:
        """Read the image, queue it, and wait for the first event of its race. Raises No, or Gone."""
        try:
            body, loop = await read_image(request, self.max_bytes), asyncio.get_running_loop()
        except No:
            held.gone = False
            raise

        def send(event: Event) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._arrived, held, event)

        held.work = Work(body, plan, send, watched)
        self.worker.put(held.work)
        event = await _unless_gone(request, held.inbox.get())
        held.gone = False
        return event

    def _reply(self, event: Event, top: int) -> Response:
        if isinstance(event, Refused):
            raise No(event.status, event.line)
        assert isinstance(event, Answer)
        waited, raced = event.waited * 1e3, (event.seconds - event.waited) * 1e3
        headers = {"Server-Timing": f"queue;dur={waited:.1f}, race;dur={raced:.1f}"}
        return JSONResponse(self._row(event, top), headers=headers)

    def _row(self, answer: Answer, top: int) -> Mapping[str, Any]:
        """The row of an answer, which is counted."""
        self.metrics.decisions[answer.decision.stop] += 1
        self.metrics.passes += answer.decision.passes
        self.metrics.seconds.observe(answer.seconds)
        self.metrics.waited.observe(answer.waited)
        return self.row(answer.decision, top)

    async def _events(self, event: Event, held: _Held, top: int) -> AsyncIterator[str]:
        held.gone = True  # until the last event is out
        while not isinstance(event, Answer | Refused):
            yield _event("update", event)
            event = await held.inbox.get()
        if isinstance(event, Answer):
            yield _event("row", self._row(event, top))
        else:
            yield _event("error", {"error": event.line})
        held.gone = False


@final
class _Stream(StreamingResponse):
    """Server-sent events. `end` is called when they are over, however that comes."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


@final
class _Counted:
    """Middleware that counts responses by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in PATHS else "other"
                self.metrics.requests[path, message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counting if scope["type"] == "http" else send)


async def _unless_gone(request: Request, coming: Coroutine[Any, Any, Event]) -> Event:
    """What is coming. Raises Gone when the client leaves before it is there."""
    event, gone = asyncio.ensure_future(coming), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            raise Gone
        return event.result()
    finally:
        event.cancel()
        gone.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


def _file(path: Path) -> Callable[[], Awaitable[Response]]:
    async def give() -> Response:
        return FileResponse(path, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    return give


async def _say_no(request: Request, error: Exception) -> Response:
    """One line of what is wrong and what to do, as a row has it."""
    if isinstance(error, No):
        return JSONResponse({"error": error.line}, error.status, error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 400)
    assert isinstance(error, HTTPException)
    line = f"{error.detail}: POST an image to /classify or /race; / is a page that does"
    return JSONResponse({"error": line}, error.status_code, error.headers)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as nginx counts it; nobody reads it
