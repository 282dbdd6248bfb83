"""The service answers as OpenAI's clients expect, and refuses what it would have to ignore."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient

from aista.inference.translator import Translator
from aista.serve.app import create_app
from tests.evaluation.standins import Model, Processor, tone


def sound(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


TALK = sound(tone(1.0))


@pytest.fixture(scope="module")
def client() -> TestClient:
    translator = Translator(Model(), Processor(), name="stand-in")
    return TestClient(create_app(translator, max_upload_mb=1.0), raise_server_exceptions=False)


def post(client, verb="translations", content=TALK, **form):
    return client.post(f"/v1/audio/{verb}", files={"file": ("talk.wav", content)}, data=form)


def test_translations_go_into_english_unless_told_otherwise(client):
    assert post(client).json() == {"text": "ew3"}
    assert post(client, to_language="zh").json() == {"text": "中w3"}
    assert post(client, "transcriptions", language="en", model="stand-in", temperature="0").json() == {
        "text": "ew3"
    }


def test_every_response_format(client):
    assert post(client, to_language="ja", response_format="text").text == "日w3\n"
    assert post(client, response_format="srt").text.startswith("1\n00:00:00,000 --> 00:00:01,000\n")
    assert post(client, response_format="vtt").text.startswith("WEBVTT")
    verbose = post(client, to_language="zh", response_format="verbose_json").json()
    assert (verbose["task"], verbose["language"], verbose["duration"]) == ("translate", "zh", 1.0)
    assert verbose["segments"] == [{"id": 0, "start": 0.0, "end": 1.0, "text": "中w3"}]


def test_silence_is_a_warning(client):
    reply = post(client, content=sound(np.zeros(16_000)))
    assert reply.json() == {"text": ""} and "silent" in reply.headers["X-Aista-Warnings"]


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"to_language": "de"}, 400, "en-zh, en-ja"),
        ({"to_language": "klingon"}, 400, "klingon"),
        ({"content": b"no sound"}, 400, "cannot be decoded"),
        ({"content": b""}, 400, "empty"),
        ({"content": bytes(1_100_000)}, 413, "at most 1 MB"),
        ({"model": "whisper-1"}, 404, "stand-in"),
        ({"temperature": "0.7"}, 400, "temperature"),
        ({"prompt": "names"}, 400, "prompt"),
        ({"stream": "true"}, 400, "stream"),
        ({"response_format": "ass"}, 400, "response_format"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_form(client, form, status, words):
    reply = post(client, **form)
    assert reply.status_code == status and words in reply.json()["error"]["message"]
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_form_without_a_file_is_told_so(client):
    reply = client.post("/v1/audio/translations", data={"to_language": "zh"})
    assert reply.status_code == 400 and "file" in reply.json()["error"]["message"]


def test_health_models_and_the_page(client):
    assert client.get("/health").json() == {
        "status": "ok", "model": "stand-in", "directions": ["en-zh", "en-ja", "en-en"],
    }  # fmt: skip
    assert client.get("/v1/models").json()["data"][0]["id"] == "stand-in"
    page = client.get("/").text
    assert '<form method="post" action="/v1/audio/translations"' in page and "http" not in page.replace(
        "xhttp", ""
    )
