"""What is too large or too long is answered with 413: before it is stored, and before it fills the memory."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient

from aista.inference.translator import Translator
from aista.serve import app as service
from aista.serve.app import create_app
from tests.audio.sounds import encoded, tone
from tests.evaluation.standins import Model, Processor


def client(**limits) -> TestClient:
    translator = Translator(Model(), Processor(), name="stand-in")
    return TestClient(create_app(translator, **limits), raise_server_exceptions=False)


def post(at: TestClient, content: bytes, name: str = "talk.wav"):
    return at.post("/v1/audio/translations", files={"file": (name, content)})


def test_a_recording_of_many_hours_is_refused_by_its_length():
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", 2_000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(8):
            file.write(np.zeros(2_000_000, np.int16))  # 1,000 s
    told = post(client(), stream.getvalue())
    assert told.status_code == 413 and told.json()["error"]["code"] == "Overlong"
    assert "at most 120 minutes" in told.json()["error"]["message"]
    assert (
        "--max-minutes" in told.json()["error"]["message"] and "talk.wav" in told.json()["error"]["message"]
    )
    assert post(client(max_minutes=0.1), encoded(tone(8.0), format="OGG", subtype="OPUS")).status_code == 413
    assert post(client(max_minutes=0.2), encoded(tone(8.0), format="OGG", subtype="OPUS")).status_code == 200


def test_too_many_bytes_are_refused_by_the_header_and_by_counting():
    at = client(max_upload_mb=0.1)
    told = post(at, bytes(300_000))
    assert told.status_code == 413 and told.json()["error"]["code"] == "TooLarge"
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    told = at.post(
        "/v1/audio/translations",
        content=iter([head, *[bytes(50_000)] * 10]),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert told.status_code == 413 and "at most 0.1 MB" in told.json()["error"]["message"]


def test_a_list_of_files_reads_nothing_of_the_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "secret.wav", tone(1.0), 16_000)
    told = post(client(), b"ffconcat version 1.0\nfile 'secret.wav'\n", "x.wav")
    assert told.status_code == 400 and "cannot be decoded" in told.json()["error"]["message"]


def test_decoding_does_not_wait_for_the_model(monkeypatch):
    """While one request is at the model, another is decoded."""
    busy, decoded = threading.Event(), threading.Event()
    translator = Translator(Model(), Processor(), name="stand-in")
    answer, listen = translator.answer, service.listen

    def slow(pieces, request):
        busy.set()
        assert decoded.wait(20)
        return answer(pieces, request)

    def heard(sound, **limits):
        if busy.is_set():
            decoded.set()
        return listen(sound, **limits)

    monkeypatch.setattr(translator, "answer", slow)
    monkeypatch.setattr(service, "listen", heard)
    at = TestClient(create_app(translator))
    told = []
    first = threading.Thread(
        target=lambda: told.append(post(at, encoded(tone(1.0), format="WAV")).status_code)
    )
    first.start()
    assert busy.wait(20)
    told.append(post(at, encoded(tone(1.0), format="WAV")).status_code)
    first.join()
    assert told == [200, 200]


def test_warnings_of_the_sound_travel_and_late_sound_is_late():
    loud = tone(1.0)
    told = post(client(), encoded(np.stack([loud, -loud], axis=1), format="WAV"))
    assert told.json()["text"] and "channels cancel" in told.headers["X-Aista-Warnings"]


def test_what_the_framework_refuses_has_the_form_too():
    assert client().get("/nowhere").json()["error"]["message"] == "Not Found"
