"""A client of an ASGI application, without a socket: whole requests, streams that are left, slow uploads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What the application sent so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """Server-sent events: (name, data)."""
        blocks = [block.split("\n") for block in self.body.decode().split("\n\n") if block]
        return [(name.removeprefix("event: "), json.loads(data[len("data: ") :])) for name, data in blocks]


class Call:
    """One request. `leave()` is a client that goes away; one that is not `reading` takes no body."""

    def __init__(self, app: Any, method: str, target: str, body: bytes, headers: dict[str, str], whole: bool):
        path, _, query = target.partition("?")
        self.reply, self.whole, self.reading = Reply(), whole, asyncio.Event()
        self.reading.set()
        self._app, self._body, self._left = app, body, asyncio.Event()
        self._scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "root_path": "", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        self.task = asyncio.ensure_future(self._run())

    def leave(self) -> None:
        self._left.set()

    async def _run(self) -> Reply:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": self._body, "more_body": not self.whole}
            await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.reply.status = message["status"]
                self.reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                await self.reading.wait()
                self.reply.body += message.get("body", b"")

        await self._app(self._scope, receive, send)
        return self.reply


class Client:
    """Calls an application whose lifespan is on."""

    def __init__(self, app: Any):
        self.app = app

    def call(
        self, target: str, body: bytes = b"", method: str = "POST", whole: bool = True, **headers: str
    ) -> Call:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return Call(self.app, method, target, body, headers, whole)

    async def post(self, target: str, body: bytes, **headers: str) -> Reply:
        return await asyncio.wait_for(self.call(target, body, **headers).task, 60)

    async def get(self, target: str) -> Reply:
        return await asyncio.wait_for(self.call(target, method="GET").task, 60)


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[Client]:
    async with app.router.lifespan_context(app):
        yield Client(app)


def with_client(app: Any, test: Callable[[Client], Awaitable[None]]) -> None:
    """Run an asynchronous test on an application, in at most a minute."""

    async def run() -> None:
        async with running(app):
            await test(Client(app))

    asyncio.run(asyncio.wait_for(run(), 60))
