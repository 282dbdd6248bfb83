"""The service: transcriptions and translations as OpenAI's clients ask for them, with vLLM's ``to_language``.

OpenAI's ``translations`` means "into English" and takes no target; vLLM added ``to_language``, and so do we.
What cannot be honoured is refused with 400, never ignored: a temperature, a prompt, streaming, another model.
"""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from aista.errors import AistaError, AudioError, ConfigError
from aista.inference.formats import render
from aista.inference.translator import Translation, Translator

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class TooLarge(AistaError):
    """An upload is larger than the service takes."""


class UnknownModel(AistaError):
    """A request names a model that is not served here."""


_STATUS: dict[type[AistaError], int] = {TooLarge: 413, UnknownModel: 404, AudioError: 400, ConfigError: 400}


def create_app(translator: Translator, *, max_upload_mb: float = 25.0) -> FastAPI:
    """Return the web application around one model; requests take turns at it.

    Args:
        translator: What translates.
        max_upload_mb: Largest upload in megabytes; more is answered with 413.
    """
    app = FastAPI(title="aista", docs_url="/docs", redoc_url=None)
    turn = threading.Lock()

    def answer(
        file: UploadFile, target: str, source: str, response_format: ResponseFormat, asked: dict[str, Any]
    ) -> Response:
        _refuse_what_is_not_done(translator.name, asked)
        sound = _read(file, max_upload_mb)
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
    return app


def _refuse_what_is_not_done(served: str, asked: dict[str, Any]) -> None:
    if asked["model"] not in (None, "", served):
        raise UnknownModel(f"The model {asked['model']!r} is not served here.", expected=served)
    for name in ("prompt", "temperature", "stream"):
        if asked[name]:
            raise ConfigError(
                f"This service does not take {name!r}.", got=asked[name], advice="Leave it out."
            )


def _read(file: UploadFile, max_upload_mb: float) -> bytes:
    limit = int(max_upload_mb * 1_000_000)
    sound = file.file.read(limit + 1)
    if len(sound) > limit:
        raise TooLarge(f"{file.filename}: the upload is too large.", expected=f"at most {max_upload_mb:g} MB")
    if not sound:
        raise AudioError(f"{file.filename}: is empty.", got="0 bytes")
    return sound


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


def _error(message: str, code: str, status: int) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": code}}, status_code=status)
