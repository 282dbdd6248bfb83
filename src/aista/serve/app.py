"""The service: transcriptions and translations as OpenAI's clients ask for them, with vLLM's ``to_language``.

OpenAI's ``translations`` means "into English" and takes no target; vLLM added ``to_language``, and so do we.
What cannot be honoured is refused with 400, never ignored: a temperature, a prompt, an unknown field.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.resources import files
from itertools import accumulate
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException

from aista.audio.files import Overlong, Recording
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import AistaError, AudioError, ConfigError, ModelInputError
from aista.inference.coverage import TranslationWarning
from aista.inference.formats import render
from aista.inference.translating import Request as Question
from aista.inference.translating import SpeechTranslator, TranslatedSegment, Translation, joined, listen
from aista.inference.translator import ABOUT
from aista.serve.batching import Batcher, Caller, Left
from aista.serve.bounds import FORM_BYTES, Bounds, Limits, Load, error_response
from aista.text.prompts import code_of, language

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
News = TranslatedSegment | Translation | None
"""What comes of a recording: its segments, last the whole; None is a sign of life in between."""

_DECODERS = 2  # files that are decoded at once
_DECODED_SECONDS = 3_600.0  # of sound in memory, beyond which no other file is decoded that is not short
_SHORT_MINUTES = 1.0
_SIGN_OF_LIFE_SECONDS = 15.0  # proxies cut connections on which nothing comes
_HEADER_BYTES = 2_000  # of warnings; proxies refuse answers whose headers take 4 or 8 kB
_GRANULARITIES = "timestamp_granularities[]"
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class TooLarge(AistaError):
    """An upload is larger than the service takes."""


class UnknownModel(AistaError):
    """A request names a model that is not served here."""

    param = "model"


class TooSlow(AistaError):
    """No answer was ready in time."""


class InvalidForm(ConfigError):
    """A field of a form, ``param``, holds what cannot be done."""

    def __init__(self, param: str, what: str, **more: Any) -> None:
        super().__init__(what, **more)
        self.param = param


_STATUS: dict[type[AistaError], int] = {
    TooLarge: 413,
    Overlong: 413,
    UnknownModel: 404,
    TooSlow: 504,
    Left: 499,
    AudioError: 400,
    ConfigError: 400,
    ModelInputError: 422,
}


def _without_empty(items: Any) -> Any:
    return [item for item in items if item != ""] if isinstance(items, list) else items


class Asked(BaseModel):
    """The form of a transcription; a field that is not here is refused."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile
    model: str = ""
    language: str = "en"
    response_format: ResponseFormat = "json"
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], BeforeValidator(_without_empty)] = (
        Field(default=[], alias="timestamp_granularities[]")
    )
    stream: bool = False
    prompt: str = ""
    temperature: float = 0.0


class AskedInto(Asked):
    """The form of a translation."""

    to_language: str = "en"


_FORM = Form(media_type="multipart/form-data")


def create_app(translator: SpeechTranslator, limits: Limits | None = None) -> FastAPI:
    """Return the web application around one model.

    Args:
        translator: What translates.
        limits: What a request may take.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="aista",
        docs_url=None,  # it would load its scripts from elsewhere
        redoc_url=None,
        form_limits={"max_files": 1, "max_fields": 32, "max_part_size": FORM_BYTES},
    )
    load = Load()
    app.add_middleware(Bounds, limits=limits, load=load)
    answering = _Answering(translator, limits)
    folder = files("aista.serve") / "page"

    @app.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse)
    async def page() -> str:
        return (folder / "index.html").read_text(encoding="utf-8")

    @app.get("/sample.flac")
    async def sample() -> Response:
        return Response((folder / "sample.flac").read_bytes(), media_type="audio/flac")

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": translator.name,
            "about": ABOUT.get(translator.name, ""),
            "directions": list(translator.directions),
            "requests": load.requests,
            "max_upload_mb": limits.max_upload_mb,
            "max_minutes": limits.max_minutes,
            "asks_for_key": limits.api_key is not None,
        }

    row = {"id": translator.name, "object": "model", "created": 0, "owned_by": "aista"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [row]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _refuse_other_models(name, translator.name)
        return row

    @app.post("/v1/audio/transcriptions", dependencies=[Depends(_each_once)])
    async def transcriptions(request: Request, asked: Annotated[Asked, _FORM]) -> Response:
        return await answering.respond(request, asked, "language")

    @app.post("/v1/audio/translations", dependencies=[Depends(_each_once)])
    async def translations(request: Request, asked: Annotated[AskedInto, _FORM]) -> Response:
        return await answering.respond(request, asked, "to_language")

    app.add_exception_handler(AistaError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_form)
    app.add_exception_handler(HTTPException, _explain_http)
    app.add_exception_handler(Exception, _explain_fault)
    return app


class _Answering:
    """Recordings on their way through one model.

    A recording has a thread of its own, which decodes it and then waits for its pieces; the model has one
    thread for all (:mod:`aista.serve.batching`). Uploads that wait for a thread lie on the disk. Those that
    turn out to be long go on among threads of their own, so that short ones never wait for theirs.
    """

    def __init__(self, translator: SpeechTranslator, limits: Limits) -> None:
        self._limits = limits
        self._batcher = Batcher(translator)
        self._short = ThreadPoolExecutor(2 * translator.generation.batch_size, "recording")
        self._long = ThreadPoolExecutor(2 * translator.generation.batch_size, "long-recording")
        self._decoders = threading.Semaphore(_DECODERS)
        self._room = threading.Condition()
        self._first_in_line = threading.Lock()
        self._decoded_seconds = 0.0

    async def respond(self, request: Request, asked: Asked, into: str) -> Response:
        """Answer a request in the language that its field ``into`` names: whole, or as a stream of events."""
        translator = self._batcher.translator
        source, target = _language_in(asked, "language"), _language_in(asked, into)
        _refuse_what_is_not_done(asked, translator.name)
        translator.check(Question("asr" if source == target else "st", source, target))
        coming = self._news(request, asked, source, target)
        if asked.stream:
            # What fails before the first news, a sign of life at the latest, has a status of its own.
            first = await anext(coming)
            events = _events(first, coming, asked, target)
            return StreamingResponse(events, media_type="text/event-stream", headers=_UNBUFFERED)
        *_, result = [news async for news in coming]
        assert isinstance(result, Translation)
        return await asyncio.to_thread(_response, result, asked)  # setting subtitles takes its time

    async def _news(self, request: Request, asked: Asked, source: str, target: str) -> AsyncIterator[News]:
        """Yield the segments of an upload as they are answered, and last the whole translation.

        Raises:
            AistaError: It cannot be answered, or not in time, or the client has left.
        """
        caller = Caller(self._batcher)
        caller.translator.word_times = _needs_words(asked)
        told: asyncio.Queue[News | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        longest = self._limits.max_minutes

        def work(max_minutes: float) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed: nobody listens then
                try:
                    for news in self._translate(caller, asked.file, source, target, max_minutes):
                        loop.call_soon_threadsafe(told.put_nowait, news)
                except Exception as error:
                    if isinstance(error, Overlong) and max_minutes < longest:
                        self._long.submit(work, longest)
                        return
                    loop.call_soon_threadsafe(told.put_nowait, error)

        async def leave_with_client() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            caller.leave()
            told.put_nowait(Left("The client has left."))

        self._short.submit(work, min(longest, _SHORT_MINUTES))
        watch = asyncio.create_task(leave_with_client())
        latest = loop.time() + self._limits.answer_seconds
        try:
            news: News | Exception = None
            while not isinstance(news, Translation):
                try:
                    async with asyncio.timeout_at(min(latest, loop.time() + _SIGN_OF_LIFE_SECONDS)):
                        news = await told.get()
                except TimeoutError:
                    if loop.time() >= latest:
                        limit = f"at most {self._limits.answer_seconds:g} s"
                        raise TooSlow("The answer was not ready in time.", expected=limit) from None
                    news = None
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            watch.cancel()
            caller.leave()

    def _translate(
        self, caller: Caller, file: UploadFile, source: str, target: str, max_minutes: float
    ) -> Iterator[TranslatedSegment | Translation]:
        recording, name = self._decoded(caller, file, max_minutes)
        try:
            yield from caller.translator.by_segment(recording, target, source=source, name=name)
        finally:
            with self._room:
                self._decoded_seconds -= len(recording.samples) / SAMPLE_RATE_HZ
                self._room.notify_all()

    def _decoded(self, caller: Caller, file: UploadFile, max_minutes: float) -> tuple[Recording, str]:
        """Decode an upload: a short one when its turn comes, a longer one when there is room for it too."""
        if max_minutes <= _SHORT_MINUTES:
            return self._counted(caller, file, max_minutes)
        with self._first_in_line:  # those that wait for room wait here, not at the decoders
            with self._room:
                self._room.wait_for(lambda: self._decoded_seconds < _DECODED_SECONDS)
            return self._counted(caller, file, max_minutes)

    def _counted(self, caller: Caller, file: UploadFile, max_minutes: float) -> tuple[Recording, str]:
        with self._decoders:
            caller.stay()
            recording, name = _read(file, self._limits.max_upload_mb, max_minutes)
            with self._room:
                self._decoded_seconds += len(recording.samples) / SAMPLE_RATE_HZ
        return recording, name


async def _each_once(request: Request) -> None:
    """Refuse a form that says a thing twice, and what is said in the address in its stead."""
    form = await request.form()
    counts = Counter(name for name, _ in form.multi_items() if not name.endswith("[]"))
    if twice := sorted(name for name, count in counts.items() if count > 1):
        told = f"The form says more than once: {', '.join(twice)}."
        raise InvalidForm(twice[0], told, expected="each field once")
    for name in request.query_params:
        raise InvalidForm(name, f"{name!r} stands in the address.", expected="a field of the form")


def _language_in(asked: Asked, field: str) -> str:
    """Return the code of the language that a field names."""
    try:
        return code_of(getattr(asked, field))
    except ConfigError as error:
        told = f"{field!r}: {error.what}"
        raise InvalidForm(field, told, got=error.got, expected=error.expected, advice=error.advice) from None


def _refuse_other_models(asked: str, served: str) -> None:
    if asked != served:
        raise UnknownModel(f"The model {asked!r} is not served here.", expected=served)


def _refuse_what_is_not_done(asked: Asked, served: str) -> None:
    if asked.model:
        _refuse_other_models(asked.model, served)
    for name in ("prompt", "temperature"):
        if value := getattr(asked, name):
            told = f"This service does not take {name!r}."
            raise InvalidForm(name, told, got=value, advice="Leave it out.")
    wanted = asked.response_format
    if asked.stream and wanted not in ("json", "verbose_json"):
        told = f"'stream' does not go with the response_format {wanted!r}."
        raise InvalidForm("stream", told, expected="json or verbose_json")
    if asked.timestamp_granularities and wanted != "verbose_json":
        told = f"{_GRANULARITIES!r} needs another response_format."
        raise InvalidForm(_GRANULARITIES, told, got=wanted, expected="verbose_json")


def _needs_words(asked: Asked) -> bool:
    """Whether an answer says when words are heard; subtitles are set by it."""
    kind = asked.response_format
    return (
        kind in ("srt", "vtt")
        or "word" in asked.timestamp_granularities
        or (asked.stream and kind == "verbose_json")
    )


def _read(file: UploadFile, max_upload_mb: float, max_minutes: float) -> tuple[Recording, str]:
    """Decode an upload, and return its name too.

    Raises:
        TooLarge: It has too many bytes.
        Overlong: It lasts too long.
        AudioError: It is no sound.
    """
    limit = int(max_upload_mb * 1_000_000)
    file.file.seek(0)
    data = io.BytesIO(file.file.read(limit + 1))
    data.name = (file.filename or "the upload").encode("utf-8", "replace").decode("utf-8")
    if data.seek(0, io.SEEK_END) > limit:
        raise TooLarge(f"{data.name}: the upload is too large.", expected=f"at most {max_upload_mb:g} MB")
    return listen(data, max_minutes=max_minutes)


async def _events(first: News, later: AsyncIterator[News], asked: Asked, target: str) -> AsyncIterator[str]:
    """Write a translation as server-sent events: a delta for each segment, and last the whole."""
    said, number, news = "", 0, first
    try:
        while not isinstance(news, Translation):
            if news is None:
                yield ": still at work\n\n"
            elif news.text:
                text = joined([said, news.text], target)
                yield _event({"type": "transcript.text.delta", "delta": text[len(said) :]})
                said = text
                if asked.response_format == "verbose_json":
                    yield _event({"type": "transcript.text.segment", **_segment(number, news)})
            number += isinstance(news, TranslatedSegment)
            news = await anext(later)
        body: dict[str, Any] = {"text": news.text}
        if asked.response_format == "verbose_json":
            body = _verbose(news, asked)
            body |= {kind: await asyncio.to_thread(render, news, kind) for kind in ("srt", "vtt")}
        elif news.warnings:  # elsewhere they travel in a header, which has been sent
            body["warnings"] = [asdict(row) for row in news.warnings]
        yield _event({"type": "transcript.text.done", **body})
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status is sent: an error can only be an event
        explained = _explain(None, error) if isinstance(error, AistaError) else _explain_fault(None, error)
        yield _event(json.loads(bytes(explained.body)))
        if not isinstance(error, AistaError):
            raise


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _response(result: Translation, asked: Asked) -> Response:
    """Write a translation as OpenAI's service does; the first warnings travel in a header."""
    headers = {"X-Aista-Warnings": _in_header(result.warnings)} if result.warnings else {}
    if asked.response_format == "json":
        return JSONResponse({"text": result.text}, headers=headers)
    if asked.response_format == "verbose_json":
        return JSONResponse(_verbose(result, asked), headers=headers)
    return PlainTextResponse(render(result, asked.response_format), headers=headers)


def _in_header(warnings: Sequence[TranslationWarning]) -> str:
    """Join as many warnings as fit into a header, and say how many are left out."""
    rows = [" ".join(str(row).split()) for row in warnings]
    rows = [row.encode("ascii", "backslashreplace").decode() for row in rows]  # a header holds nothing else
    fitting = sum(end <= _HEADER_BYTES for end in accumulate(len(row) + len("; ") for row in rows))
    left_out = len(rows) - fitting
    more = [f"{left_out} more: response_format verbose_json has them all"] if left_out else []
    return "; ".join([*rows[:fitting], *more])


def _verbose(result: Translation, asked: Asked) -> dict[str, Any]:
    """Return everything of a translation, as OpenAI's service names it, and its warnings.

    Raises:
        InvalidForm: Times of words are asked for, and the model cannot tell them.
    """
    body: dict[str, Any] = {
        "task": "transcribe" if result.task == "asr" else "translate",
        "language": language(result.language).name.lower(),  # "english", as OpenAI's says it
        "duration": result.duration_seconds,
        "text": result.text,
    }
    wanted = asked.timestamp_granularities or ["segment"]
    if "segment" in wanted:
        body["segments"] = [_segment(number, row) for number, row in enumerate(result.segments)]
    if "word" in wanted:
        words = [word for row in result.segments for word in row.words]
        if result.text and not words:
            told = f"{_GRANULARITIES!r}: this model cannot tell when words are heard."
            raise InvalidForm(_GRANULARITIES, told)
        body["words"] = [
            {"word": word.text, "start": word.start_seconds, "end": word.end_seconds} for word in words
        ]
    return {**body, "warnings": [asdict(row) for row in result.warnings]}


def _segment(number: int, row: TranslatedSegment) -> dict[str, Any]:
    return {"id": number, "start": row.start_seconds, "end": row.end_seconds, "text": row.text}


def _explain(request: Request | None, error: Exception) -> JSONResponse:
    """Turn one of our errors into OpenAI's form of an error."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return error_response(str(error), type(error).__name__, status, param=getattr(error, "param", None))


def _explain_form(request: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    told = "; ".join(f"{'.'.join(map(str, row['loc'][1:]))}: {row['msg']}" for row in problems)
    field = next((str(row["loc"][1]) for row in problems if len(row["loc"]) > 1), None)
    return error_response(told, "InvalidForm", 400, param=field)


def _explain_http(request: Request, error: Exception) -> JSONResponse:
    """Turn what the framework itself refuses (no such page, a broken form, too many bytes) into that form."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = getattr(error, "headers", None)
    return error_response(str(getattr(error, "detail", error)), "Refused", status, headers)


def _explain_fault(request: Request | None, error: Exception) -> JSONResponse:
    """Tell the client of a fault of ours; the log has the traceback."""
    return error_response(f"The service failed: {type(error).__name__}.", "Fault", 500)
