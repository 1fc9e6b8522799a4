# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What stands before the service: the token, the limit on bytes, a second try, and the counting."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import anomalib_clipzoo

OPEN_PATHS = ("/health",)
"""Paths that ask for no token: load balancers have none."""
FAILED = 500
"""Status where a worker died. Then there is a second attempt, and no third: a picture may be what kills workers."""
LOOK = 0.5
"""Seconds between two looks at whether workers died."""
PATIENCE = 8
"""So many times the limit is read of a body that is too long, as most clients send all of it before they listen."""


@dataclass(frozen=True)
class Limits:
    """What the service puts up with.

    Attributes:
        most_bytes: Of one request.
        most_pixels: Of one image.
        timeout: Seconds until a request without an answer gets an error.
        token: What requests have to bring along; ``None`` for nothing.
    """

    most_bytes: int
    most_pixels: int
    timeout: float
    token: str | None = field(default=None, repr=False)


class Metrics:
    """Counters, and their text for Prometheus.

    Args:
        facts: What the service is.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, facts: dict[str, str]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("clipzoo_requests", "Answered requests.", ["status"], registry=self.registry)
        self.seconds = Histogram("clipzoo_request_seconds", "Time to the answer.", registry=self.registry)
        self.waiting = Gauge("clipzoo_requests_waiting", "Requests without an answer yet.", registry=self.registry)
        self.repeated = Counter("clipzoo_requests_repeated", "Second attempts.", registry=self.registry)
        info = Info("clipzoo_model", "What is served.", registry=self.registry)
        info.info({**facts, "version": anomalib_clipzoo.__version__})

    def text(self) -> bytes:
        """Write all of them in Prometheus' text format."""
        return generate_latest(self.registry)


class Gate:
    """ASGI middleware.

    Args:
        app: What it stands before.
        limits: What it lets through.
        metrics: Where it counts.
        workers: Tells which processes do the work.
        path: Of the requests that are counted, limited and repeated; the token is asked for on all.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, workers: Callable[[], list[int | None]], path: str
    ) -> None:
        self.app, self.limits, self.metrics, self.workers, self.path = app, limits, metrics, workers, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
        elif not self._is_known(scope):
            await _refuse(401, "The Authorization header has no valid bearer token.")(scope, receive, send)
        elif scope["path"] != self.path:
            await self.app(scope, receive, send)
        else:
            await self._count(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        """Tell whether a request brings the token, in a time that says nothing of it."""
        if self.limits.token is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self.limits.token.encode())

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, statuses = time.monotonic(), []

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        with self.metrics.waiting.track_inprogress():
            await self._answer(scope, receive, count_and_send)
        self.metrics.requests.labels(str(statuses[0] if statuses else FAILED)).inc()
        self.metrics.seconds.observe(time.monotonic() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._read(scope, receive)
        if body is None:
            await _refuse(413, f"A request has at most {self.limits.most_bytes} bytes.")(scope, receive, send)
            return
        try:
            messages = await self._try(scope, body)
            if messages is None or messages[0]["status"] == FAILED:
                self.metrics.repeated.inc()
                messages = await self._try(scope, body)
        except asyncio.TimeoutError:
            await _refuse(504, "There was no answer in time.")(scope, receive, send)
            return
        if messages is None:
            await _refuse(503, "Workers died twice while this request waited.")(scope, receive, send)
            return
        for message in messages:
            await send(message)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the body; ``None`` if it is too long, of which no more is kept."""
        told = dict(scope["headers"]).get(b"content-length", b"")
        allowed = not told.isdigit() or int(told) <= self.limits.most_bytes
        body, seen, more = bytearray(), 0, True
        while more and seen <= PATIENCE * self.limits.most_bytes:
            message = await receive()
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            allowed = allowed and seen <= self.limits.most_bytes
            if allowed:
                body += message.get("body", b"")
            else:
                body.clear()
        return bytes(body) if allowed else None

    async def _try(self, scope: Scope, body: bytes) -> list[Message] | None:
        """Let the app answer a request in time, and hold the answer back; ``None`` if a worker died before it came.

        The worker that died may have had the request; LitServe knows of most of these, but not of all.
        """
        answer = asyncio.ensure_future(self._collect(scope, body))
        workers, end = self.workers(), time.monotonic() + self.limits.timeout
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=LOOK)
                if not answer.done() and time.monotonic() > end:
                    raise asyncio.TimeoutError
                if not answer.done() and self.workers() != workers:
                    return None
            return answer.result()
        finally:
            answer.cancel()

    async def _collect(self, scope: Scope, body: bytes) -> list[Message]:
        messages: list[Message] = []
        given = iter([{"type": "http.request", "body": body}])

        async def receive() -> Message:
            return next(given, {"type": "http.disconnect"})

        async def hold(message: Message) -> None:
            messages.append(message)

        await self.app({**scope}, receive, hold)
        return messages


def _refuse(status: int, detail: str) -> Any:
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"detail": detail}, status, {**challenge, "Connection": "close"})
