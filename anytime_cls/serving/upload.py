"""An image file out of a request, within bounds; and the two ways to end a request without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import final

from fastapi import Request
from starlette.requests import ClientDisconnect

SECONDS = 30.0  # that a body may take to arrive
DRAIN = 4  # times the limit: of a larger body not even the rest is read
CLOSE = {"Connection": "close"}


@final
class No(Exception):
    """There will be no answer: a status, one line, and headers."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None):
        super().__init__(line)
        self.status, self.line, self.headers = status, line, headers


@final
class Gone(Exception):
    """The client went away."""


async def read_image(request: Request, max_bytes: int) -> bytes:
    """The body, whole. Raises No (415, 413, 408), or Gone.

    What is a little too large is read to its end and not kept: a client that still writes reads no answer.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise No(415, "send the image itself as the body (curl --data-binary @photo.jpg), not a form", CLOSE)
    declared = request.headers.get("content-length", "")
    size, kept, most = int(declared) if declared.isdecimal() else 0, bytearray(), DRAIN * max_bytes
    got = 0
    try:
        async with asyncio.timeout(SECONDS):
            if size <= most:
                async for chunk in request.stream():
                    got += len(chunk)
                    if got > most:
                        break
                    if max(got, size) <= max_bytes:
                        kept += chunk
    except TimeoutError:
        raise No(408, f"the image did not arrive within {SECONDS:g} s", CLOSE) from None
    except ClientDisconnect:
        raise Gone from None
    if max(got, size) > max_bytes:
        raise No(413, f"more than {max_bytes:,} bytes: scale the image down", CLOSE)
    return bytes(kept)
