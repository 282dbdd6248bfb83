"""The service answers as OpenAI's clients expect, and refuses what it would have to ignore."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient

from aista.inference.coverage import TranslationWarning
from aista.inference.translating import SpeechTranslator
from aista.serve.app import create_app
from aista.serve.bounds import Limits
from tests.audio.sounds import encoded
from tests.serve.serving import stand_in, talk, wav

TALK = wav(1.0)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(stand_in(), Limits(max_upload_mb=1.0)), raise_server_exceptions=False)


def post(client, verb="translations", content=TALK, **form):
    return client.post(f"/v1/audio/{verb}", files={"file": ("talk.wav", content)}, data=form)


def test_translations_go_into_english_unless_told_otherwise(client):
    assert post(client).json() == {"text": "ew3"}
    assert post(client, to_language="zh").json() == {"text": "中w3"}
    assert post(client, "transcriptions", language="en", model="stand-in", temperature="0").json() == {
        "text": "ew3"
    }


@pytest.mark.parametrize("form", ["zh", "ZH", "zh-CN", "zh_Hans", "zh-Hans-CN", "Chinese", " cmn "])
def test_a_language_goes_by_several_names(client, form):
    assert post(client, to_language=form).json() == {"text": "中w3"}


def test_every_response_format(client):
    assert post(client, to_language="ja", response_format="text").text == "日w3\n"
    assert post(client, response_format="srt").text.startswith("1\n00:00:00,000 --> 00:00:01,000\n")
    assert post(client, response_format="vtt").text.startswith("WEBVTT")
    verbose = post(client, to_language="zh", response_format="verbose_json").json()
    assert (verbose["task"], verbose["language"], verbose["duration"]) == ("translate", "chinese", 1.0)
    assert verbose["segments"] == [{"id": 0, "start": 0.0, "end": 1.0, "text": "中w3"}]
    timed = {"response_format": "verbose_json", "timestamp_granularities[]": "segment"}
    assert post(client, to_language="zh", **timed).json() == verbose


def events(reply) -> list[dict]:
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
    *events, last, end = reply.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("target", ["zh", "en"])
def test_a_stream_says_the_same_in_pieces(client, target):
    whole = post(client, content=talk(9), to_language=target, response_format="verbose_json").json()
    *deltas, done = events(post(client, content=talk(9), to_language=target, stream="true"))
    assert {row["type"] for row in deltas} == {"transcript.text.delta"} and len(deltas) > 1
    assert "".join(row["delta"] for row in deltas) == whole["text"]
    told = {"warnings": whole["warnings"]} if whole["warnings"] else {}
    assert done == {"type": "transcript.text.done", "text": whole["text"], **told}
    form = {"to_language": target, "stream": "true", "response_format": "verbose_json"}
    *rows, done = events(post(client, content=talk(9), **form))
    told = [{k: row[k] for k in ("id", "start", "end", "text")} for row in rows if "start" in row]
    assert told == [row for row in whole["segments"] if row["text"]]
    subtitles = {kind: post(client, content=talk(9), to_language=target, response_format=kind).text
                 for kind in ("srt", "vtt")}  # fmt: skip
    assert done == {"type": "transcript.text.done", **whole, **subtitles}


def test_silence_is_a_warning(client):
    silence = encoded(np.zeros(16_000), format="WAV")
    reply = post(client, content=silence)
    assert reply.json() == {"text": ""} and "silent" in reply.headers["X-Aista-Warnings"]
    (done,) = events(post(client, content=silence, stream="true", response_format="verbose_json"))
    assert done["text"] == "" and done["warnings"][0]["kind"] == "silence"
    (plain,) = events(post(client, content=silence, stream="true"))  # no header can tell it by then
    assert plain == {"type": "transcript.text.done", "text": "", "warnings": done["warnings"]}


def test_the_header_of_warnings_is_bounded_and_says_what_it_leaves_out(client, monkeypatch):
    def warnings(self, recording, answered):
        for number in range(100):
            yield TranslationWarning("repeats", f"the answer repeats itself ({number}: 书书书)")

    monkeypatch.setattr(SpeechTranslator, "_warnings", warnings)
    told = post(client).headers["X-Aista-Warnings"]
    *rows, more = told.split("; ")
    assert 1_500 < len(told) < 2_100 and all(row.endswith("\\u4e66)") for row in rows)
    assert more == f"{100 - len(rows)} more: response_format verbose_json has them all"
    reply = post(client, response_format="verbose_json")
    assert len(reply.json()["warnings"]) == 100 and reply.headers["X-Aista-Warnings"] == told
    long = lambda *_: iter([TranslationWarning("repeats", "x" * 3_000)])  # noqa: E731
    monkeypatch.setattr(SpeechTranslator, "_warnings", long)
    assert post(client).headers["X-Aista-Warnings"].startswith("1 more: ")


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"to_language": "de"}, 400, "en-zh, en-ja"),
        ({"to_language": "klingon"}, 400, "klingon"),
        ({"to_language": "zh-TW"}, 400, "simplified"),
        ({"content": b"no sound"}, 400, "cannot be decoded"),
        ({"content": b"no sound", "stream": "true"}, 400, "cannot be decoded"),
        ({"content": b""}, 400, "empty"),
        ({"content": bytes(1_030_000)}, 413, "at most 1 MB"),
        ({"content": bytes(1_100_000)}, 413, "at most 1 MB"),
        ({"model": "whisper-1"}, 404, "stand-in"),
        ({"temperature": "0.7"}, 400, "temperature"),
        ({"temperature": "nan"}, 400, "temperature"),
        ({"prompt": "names"}, 400, "prompt"),
        ({"stream": "true", "response_format": "srt"}, 400, "stream"),
        ({"stream": "perhaps"}, 400, "stream"),
        ({"response_format": "ass"}, 400, "response_format"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"timestamp_granularities[]": "segment"}, 400, "verbose_json"),
        ({"timestamp_granularities[]": "word", "response_format": "verbose_json"}, 400, "cannot tell when"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, 400, "granularities"),
        ({"to_lang": "zh"}, 400, "to_lang"),
        ({"include[]": "logprobs"}, 400, "include[]"),
        ({"chunking_strategy": "auto"}, 400, "chunking_strategy"),
        ({"to_language": ["zh", "ja"]}, 400, "more than once: to_language"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_form(client, form, status, words):
    reply = post(client, **form)
    assert reply.status_code == status and words in reply.json()["error"]["message"]
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"language": "klingon"}, "language"),
        ({"to_language": "zh-TW"}, "to_language"),
        ({"model": "whisper-1"}, "model"),
        ({"prompt": "names"}, "prompt"),
        ({"stream": "perhaps"}, "stream"),
        ({"to_lang": "zh"}, "to_lang"),
        ({"to_language": ["zh", "ja"]}, "to_language"),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities[]"),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities[]"),
    ],
)
def test_a_refusal_names_its_field(client, form, field):
    error = post(client, **form).json()["error"]
    assert error["param"] == field and field in error["message"] + "model"


def test_codes_are_public_names(client):
    sounds = {"NoSound": encoded(np.zeros(0), format="WAV"), "AudioError": b"no sound"}
    assert [post(client, content=sound).json()["error"]["code"] for sound in sounds.values()] == [*sounds]


def test_what_stands_in_the_address_is_not_ignored(client):
    reply = client.post("/v1/audio/translations?to_language=zh", files={"file": ("talk.wav", TALK)})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "to_language"


def test_an_empty_field_counts_as_left_out(client):
    fields = ["model", "language", "to_language", "response_format", "timestamp_granularities[]", "stream"]
    assert post(client, **dict.fromkeys([*fields, "prompt", "temperature"], "")).json() == {"text": "ew3"}


def test_an_answer_that_is_refused_is_no_fault_of_the_server_and_names_the_upload(monkeypatch):
    def warnings(self, recording, answered):
        yield TranslationWarning("repeats", "the answer repeats itself")

    monkeypatch.setattr(SpeechTranslator, "_warnings", warnings)
    strict = stand_in()
    strict.coverage = "fail"
    reply = post(TestClient(create_app(strict)))
    assert reply.status_code == 422 and reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["message"].startswith("talk.wav: an answer cannot be right.")


def test_a_transcription_takes_no_target(client):
    assert "to_language" in post(client, "transcriptions", to_language="zh").json()["error"]["message"]


def test_a_form_without_a_file_is_told_so(client):
    reply = client.post("/v1/audio/translations", data={"to_language": "zh"})
    assert reply.status_code == 400 and "file" in reply.json()["error"]["message"]
    two = client.post("/v1/audio/translations", files=[("file", ("a.wav", TALK)), ("file", ("b.wav", TALK))])
    assert two.status_code == 400 and "Too many files" in two.json()["error"]["message"]


def test_a_fault_of_ours_is_told_without_its_inside(client, monkeypatch):
    broken = stand_in()
    monkeypatch.setattr(broken, "answer", lambda pieces, request: 1 / 0)
    at = TestClient(create_app(broken), raise_server_exceptions=False)
    reply = post(at)
    assert reply.status_code == 500 and reply.json()["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in reply.json()["error"]["message"]


def test_health_models_and_the_page(client):
    health = client.get("/health").json()
    assert (health["status"], health["model"], health["requests"]) == ("ok", "stand-in", 0)
    assert health["directions"] == ["en-zh", "en-ja", "en-en"] and health["about"] == ""
    assert (health["max_upload_mb"], health["max_minutes"]) == (1.0, 120.0)
    (row,) = client.get("/v1/models").json()["data"]
    assert row["id"] == "stand-in" and client.get("/v1/models/stand-in").json() == row
    assert client.get("/v1/models/whisper-1").status_code == 404
    assert client.head("/").status_code == client.head("/health").status_code == 200
    page = client.get("/").text
    assert '<form method="post" action="v1/audio/translations"' in page and "http:" not in page
    sample = client.get("/sample.flac")
    assert sample.content.startswith(b"fLaC") and post(client, content=sample.content).status_code == 200


def test_who_has_no_key_is_not_let_in():
    at = TestClient(create_app(stand_in(), Limits(api_key="s3cret")))
    for key in (None, "Bearer wrong", "s3cret", "Bearer s3cret\u00e9".encode()):
        reply = at.get("/v1/models", headers={} if key is None else {"Authorization": key})
        assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"
        assert post(at).json()["error"]["code"] == "invalid_api_key"
    at.headers["Authorization"] = "Bearer s3cret"
    assert at.get("/v1/models").status_code == 200 and post(at).json() == {"text": "ew3"}
    umlaut = TestClient(create_app(stand_in(), Limits(api_key="schlüssel")))
    for key, form, status in (
        ("schlüssel", "utf-8", 200),
        ("schlüssel", "latin-1", 200),
        ("schlussel", "utf-8", 401),
    ):
        told = umlaut.get("/v1/models", headers={"Authorization": f"Bearer {key}".encode(form)})
        assert told.status_code == status
    del at.headers["Authorization"]
    assert at.get("/health").json()["asks_for_key"] and at.get("/").status_code == 200
