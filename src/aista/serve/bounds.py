"""An upload that is too large is refused by its header, or as its bytes are counted: it is never stored."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM_BYTES = 1 << 16  # what the other fields of a form may take


class Bounds:
    """Middleware that reads no more of a request than an upload may have.

    Args:
        app: What answers.
        max_upload_mb: Largest upload in megabytes.
    """

    def __init__(self, app: ASGIApp, max_upload_mb: float) -> None:
        self._app = app
        self._most = int(max_upload_mb * 1_000_000) + FORM_BYTES
        self._message = f"The upload is too large.\n  expected: at most {max_upload_mb:g} MB"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            error = {"message": self._message, "type": "invalid_request_error", "code": "TooLarge"}
            await JSONResponse({"error": error}, status_code=413)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(413, self._message)
            return message

        await self._app(scope, counted, send)
