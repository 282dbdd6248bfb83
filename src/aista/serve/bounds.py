"""What a request needs and may take: a key, a place, bytes, seconds. What is refused is never stored."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from aista.errors import ConfigError

FORM_BYTES = 1 << 16  # what the other fields of a form may take
RETRY_SECONDS = 5
_LINGER_SECONDS = 2.0  # how long the rest of a refused upload is read, so that the client sees the refusal


@dataclass(frozen=True)
class Limits:
    """What the service takes.

    Attributes:
        max_upload_mb: Largest upload in megabytes; more is answered with 413, before it is stored.
        max_minutes: Longest recording, decoded; more is answered with 413, before it fills the memory.
        max_waiting: Requests that are uploaded, wait or are answered at once; more are answered with 503.
        upload_seconds: How long an upload may take, and the client may take to read the answer: else 408.
        answer_seconds: How long an answer may take, waiting included: else 504.
        api_key: What clients send as ``Authorization: Bearer KEY``; ``None`` asks for none.

    Raises:
        ConfigError: A limit is infinite or no number.
    """

    max_upload_mb: float = 25.0
    max_minutes: float = 120.0
    max_waiting: int = 128
    upload_seconds: float = 60.0
    answer_seconds: float = 600.0
    api_key: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_upload_mb", "max_minutes", "upload_seconds", "answer_seconds"):
            if not math.isfinite(value := getattr(self, name)):
                raise ConfigError(f"'{name}' is no limit.", got=value, expected="a finite number")


@dataclass
class Load:
    """How many requests are uploaded, wait or are answered."""

    requests: int = 0


class Bounds:
    """Middleware that holds requests to the limits and counts them."""

    def __init__(self, app: ASGIApp, limits: Limits, load: Load) -> None:
        self._app = app
        self._limits = limits
        self._load = load
        self._most = int(limits.max_upload_mb * 1_000_000) + FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope["method"])
        if refusal is not None:
            await refusal(scope, receive, _lingering(receive, send))
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._load.requests += 1
        try:
            await self._app(scope, self._counted(receive), self._hurried(send))
        except TimeoutError:  # the client does not read: the server closes the connection
            pass
        finally:
            self._load.requests -= 1

    def _refusal(self, headers: Headers, method: str) -> JSONResponse | None:
        """Return what is answered to a request that is not let in."""
        limits = self._limits
        if limits.api_key is not None:
            given, wanted = headers.get("authorization", ""), f"Bearer {limits.api_key}".encode()
            # Headers are read as Latin-1; clients write a key in it or in UTF-8.
            if not any(secrets.compare_digest(given.encode(form), wanted) for form in ("latin-1", "utf-8")):
                told = "This service asks for a key.\n  expected: Authorization: Bearer KEY"
                return error_response(told, "invalid_api_key", 401, {"WWW-Authenticate": "Bearer"})
        if method != "POST":
            return None
        if self._load.requests >= limits.max_waiting:
            told = f"The service is busy: {self._load.requests} requests wait."
            return error_response(told, "Busy", 503, {"Retry-After": str(RETRY_SECONDS)})
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most:
            return error_response(self._too_large, "TooLarge", 413)
        return None

    @property
    def _too_large(self) -> str:
        return f"The upload is too large.\n  expected: at most {self._limits.max_upload_mb:g} MB"

    def _counted(self, receive: Receive) -> Receive:
        """Return a ``receive`` that refuses bytes beyond the limit, and a body that does not end in time."""
        seen, whole = 0, False
        latest = time.monotonic() + self._limits.upload_seconds

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(latest - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                seconds = f"{self._limits.upload_seconds:g} s"
                raise HTTPException(
                    408, f"The upload took too long.\n  expected: at most {seconds}"
                ) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self._most:
                raise HTTPException(413, self._too_large)
            return message

        return counted

    def _hurried(self, send: Send) -> Send:
        """Return a ``send`` that gives up on a client that does not read."""

        async def hurried(message: Message) -> None:
            async with asyncio.timeout(self._limits.upload_seconds):
                await send(message)

        return hurried


def _lingering(receive: Receive, send: Send) -> Send:
    """Return a ``send`` that reads on before it ends: closing on unread bytes would reset the connection."""

    async def rest() -> None:
        while (await receive()).get("more_body", False):
            pass

    async def lingering(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await rest()
        await send({"type": "http.response.body", "body": b""})

    return lingering


class PromptH11(H11Protocol):
    """uvicorn's HTTP/1.1, which closes a connection that has asked for nothing after half a minute."""

    patience_seconds = 30.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(self.patience_seconds, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def error_response(
    message: str,
    code: str,
    status: int,
    headers: Mapping[str, str] | None = None,
    param: str | None = None,
) -> JSONResponse:
    """Return an error in OpenAI's form; ``param`` is the field that it is about, where it is about one."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)
