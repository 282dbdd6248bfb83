"""The service: transcriptions and translations as OpenAI's clients ask for them, with vLLM's ``to_language``.

OpenAI's ``translations`` means "into English" and takes no target; vLLM added ``to_language``, and so do we.
What cannot be honoured is refused with 400, never ignored: a temperature, a prompt, streaming, another model.
"""

from __future__ import annotations

import io
import threading
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from aista.audio.files import Overlong, Recording
from aista.errors import AistaError, AudioError, ConfigError
from aista.inference.formats import render
from aista.inference.translating import listen
from aista.inference.translator import Translation, Translator
from aista.serve.bounds import Bounds

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class TooLarge(AistaError):
    """An upload is larger than the service takes."""


class UnknownModel(AistaError):
    """A request names a model that is not served here."""


_STATUS: dict[type[AistaError], int] = {
    TooLarge: 413,
    Overlong: 413,
    UnknownModel: 404,
    AudioError: 400,
    ConfigError: 400,
}
MAX_MINUTES = 120.0
_IN_MEMORY = 4  # recordings that are decoded, or wait decoded for their turn, at once


def create_app(
    translator: Translator, *, max_upload_mb: float = 25.0, max_minutes: float = MAX_MINUTES
) -> FastAPI:
    """Return the web application around one model; requests take turns at it.

    Args:
        translator: What translates.
        max_upload_mb: Largest upload in megabytes; more is answered with 413, before it is stored.
        max_minutes: Longest recording, decoded; more is answered with 413, before it fills the memory.
    """
    app = FastAPI(title="aista", docs_url="/docs", redoc_url=None)
    app.add_middleware(Bounds, max_upload_mb=max_upload_mb)
    turn = threading.Lock()
    places = threading.BoundedSemaphore(_IN_MEMORY)

    def answer(
        file: UploadFile, target: str, source: str, response_format: ResponseFormat, asked: dict[str, Any]
    ) -> Response:
        _refuse_what_is_not_done(translator.name, asked)
        with places:
            sound = _read(file, max_upload_mb, max_minutes)
            with turn:
                result = translator.translate(sound, target, source=source)
        return _response(result, response_format)

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return (files("aista.serve") / "page" / "upload.html").read_text(encoding="utf-8")

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "model": translator.name, "directions": list(translator.directions)}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        row = {"id": translator.name, "object": "model", "owned_by": "aista"}
        return {"object": "list", "data": [row]}

    @app.post("/v1/audio/transcriptions")
    def transcriptions(
        file: Annotated[UploadFile, File()],
        model: Annotated[str | None, Form()] = None,
        language: Annotated[str, Form()] = "en",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        prompt: Annotated[str, Form()] = "",
        temperature: Annotated[float, Form()] = 0.0,
        stream: Annotated[bool, Form()] = False,
    ) -> Response:
        asked = {"model": model, "prompt": prompt, "temperature": temperature, "stream": stream}
        return answer(file, language, language, response_format, asked)

    @app.post("/v1/audio/translations")
    def translations(
        file: Annotated[UploadFile, File()],
        model: Annotated[str | None, Form()] = None,
        language: Annotated[str, Form()] = "en",
        to_language: Annotated[str, Form()] = "en",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        prompt: Annotated[str, Form()] = "",
        temperature: Annotated[float, Form()] = 0.0,
        stream: Annotated[bool, Form()] = False,
    ) -> Response:
        asked = {"model": model, "prompt": prompt, "temperature": temperature, "stream": stream}
        return answer(file, to_language, language, response_format, asked)

    app.add_exception_handler(AistaError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_form)
    app.add_exception_handler(HTTPException, _explain_http)
    return app


def _refuse_what_is_not_done(served: str, asked: dict[str, Any]) -> None:
    if asked["model"] not in (None, "", served):
        raise UnknownModel(f"The model {asked['model']!r} is not served here.", expected=served)
    for name in ("prompt", "temperature", "stream"):
        if asked[name]:
            raise ConfigError(
                f"This service does not take {name!r}.", got=asked[name], advice="Leave it out."
            )


def _read(file: UploadFile, max_upload_mb: float, max_minutes: float) -> Recording:
    """Decode an upload.

    Raises:
        TooLarge: It has too many bytes.
        Overlong: It lasts too long.
        AudioError: It is no sound.
    """
    limit = int(max_upload_mb * 1_000_000)
    data = io.BytesIO(file.file.read(limit + 1))
    data.name = (file.filename or "the upload").encode("utf-8", "replace").decode("utf-8")
    if data.seek(0, io.SEEK_END) > limit:
        raise TooLarge(f"{data.name}: the upload is too large.", expected=f"at most {max_upload_mb:g} MB")
    return listen(data, max_minutes=max_minutes)[0]


def _response(result: Translation, response_format: ResponseFormat) -> Response:
    """Write a translation as OpenAI's service does; warnings travel in a header."""
    headers = {"X-Aista-Warnings": "; ".join(result.warnings)} if result.warnings else {}
    if response_format == "json":
        return JSONResponse({"text": result.text}, headers=headers)
    if response_format == "verbose_json":
        segments = [
            {"id": i, "start": row.start_seconds, "end": row.end_seconds, "text": row.text}
            for i, row in enumerate(result.segments)
        ]
        body = {
            "task": "transcribe" if result.task == "asr" else "translate",
            "language": result.language,
            "duration": result.duration_seconds,
            "text": result.text,
            "segments": segments,
            "warnings": list(result.warnings),
        }
        return JSONResponse(body, headers=headers)
    return PlainTextResponse(render(result, response_format), headers=headers)


def _explain(request: Request, error: Exception) -> JSONResponse:
    """Turn one of our errors into OpenAI's form of an error."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return _error(str(error), type(error).__name__, status)


def _explain_form(request: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    told = "; ".join(f"{row['loc'][-1]}: {row['msg']}" for row in problems)
    return _error(told, "InvalidForm", 400)


def _explain_http(request: Request, error: Exception) -> JSONResponse:
    """Turn what the framework itself refuses (no such page, a broken form, too many bytes) into that form."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(str(getattr(error, "detail", error)), "Refused", status)


def _error(message: str, code: str, status: int) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": code}}, status_code=status)
