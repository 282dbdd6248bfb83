"""What a request may take: bytes, seconds, places; and what becomes of those who leave or come too many."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import httpx
from fastapi.testclient import TestClient

from aista.errors import ConfigError
from aista.serve import app
from aista.serve.app import create_app
from aista.serve.bounds import Limits, PromptH11
from tests.audio.sounds import encoded, tone
from tests.serve.serving import Gated, served, stand_in, talk, wav


def client(**limits) -> TestClient:
    return TestClient(create_app(stand_in(), Limits(**limits)), raise_server_exceptions=False)


def connected(at: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(at.rsplit(":")[-1])), timeout=20)


def send(at: str, content: bytes) -> httpx.Response:
    """Post to a real server."""
    return httpx.post(at + "/v1/audio/translations", files={"file": ("talk.wav", content)}, timeout=30)


def post(at: TestClient, content: bytes, name: str = "talk.wav"):
    return at.post("/v1/audio/translations", files={"file": (name, content)})


@pytest.mark.slow
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


def test_decoding_does_not_wait_for_the_model():
    """While one request is at the model, another is refused by its sound."""
    model = Gated()
    with served(model) as (at, _), ThreadPoolExecutor(1) as threads:
        first = threads.submit(send, at, wav(1.0))
        assert model.at_work.wait(20)
        told = send(at, b"no sound")
        assert told.status_code == 400 and "cannot be decoded" in told.json()["error"]["message"]
        assert not first.done()
        model.gate.set()
        assert first.result().json() == {"text": "ew3"}


def test_a_short_recording_passes_long_ones_that_wait_for_room(monkeypatch):
    """A silent one needs no model: it is answered while the room is full, and as many long ones wait as there
    are threads for them, and one more."""
    monkeypatch.setattr(app, "_DECODED_SECONDS", 60.0)
    model = Gated()
    model.generation = model.generation.model_copy(update={"batch_size": 1})
    with served(model) as (at, _), ThreadPoolExecutor(4) as threads:
        first = threads.submit(send, at, wav(62.0))
        assert model.at_work.wait(20)
        later = [threads.submit(send, at, wav(62.0)) for _ in range(3)]
        while httpx.get(at + "/health").json()["requests"] < 4:
            time.sleep(0.01)
        assert send(at, encoded(np.zeros(32_000), format="WAV")).json() == {"text": ""}
        assert not first.done() and not any(reply.done() for reply in later)
        model.gate.set()
        assert {reply.result().status_code for reply in [first, *later]} == {200}


def test_health_does_not_wait_for_subtitles(monkeypatch):
    at_work, gate = threading.Event(), threading.Event()

    def slow(*_) -> str:
        at_work.set()
        assert gate.wait(20)
        return "WEBVTT"

    monkeypatch.setattr(app, "render", slow)
    for form in ({"response_format": "vtt"}, {"response_format": "verbose_json", "stream": "true"}):
        at_work.clear()
        gate.clear()
        with served(stand_in()) as (at, _), ThreadPoolExecutor(1) as threads:
            url, files = at + "/v1/audio/translations", {"file": ("talk.wav", wav(1.0))}
            reply = threads.submit(httpx.post, url, files=files, data=form, timeout=30)
            assert at_work.wait(20)
            try:
                assert httpx.get(at + "/health", timeout=3).status_code == 200
            finally:
                gate.set()
            assert "WEBVTT" in reply.result().text


def test_a_limit_is_a_finite_number():
    for value in (float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="answer_seconds"):
            Limits(answer_seconds=value)


def test_health_and_a_full_house():
    """Beyond the bound: 503 with a time to come back. Health, models and the page answer all the while."""
    model = Gated()
    with served(model, Limits(max_waiting=3)) as (at, _), ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(send, at, wav(1.0)) for _ in range(3)]
        assert model.at_work.wait(20)
        while httpx.get(at + "/health").json()["requests"] < 3:
            time.sleep(0.01)
        for content in (wav(1.0), bytes(9_000_000)):
            refused = send(at, content)
            assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["type"] == "server_error"
        assert httpx.get(at + "/v1/models").status_code == httpx.get(at).status_code == 200
        model.gate.set()
        assert [reply.result().json() for reply in waiting] == [{"text": "ew3"}] * 3
        assert send(at, wav(1.0)).status_code == 200


def test_a_client_that_leaves_is_not_served():
    model = Gated()
    model.generation = model.generation.model_copy(update={"batch_size": 1})
    with served(model) as (at, _), ThreadPoolExecutor(1) as threads:
        leaver = httpx.Client(timeout=0.3)
        with pytest.raises(httpx.ReadTimeout):
            leaver.post(at + "/v1/audio/translations", files={"file": ("talk.wav", talk(40))})
        leaver.close()
        kept = threads.submit(send, at, wav(1.0))
        while httpx.get(at + "/health").json()["requests"] != 1:
            time.sleep(0.01)
        model.gate.set()
        assert kept.result().json() == {"text": "ew3"}
        assert len(model.batches) <= 3


def test_an_answer_that_takes_too_long_is_an_error_and_gives_its_place_back():
    model = Gated()
    with served(model, Limits(answer_seconds=0.2)) as (at, _):
        late = send(at, wav(1.0))
        assert late.status_code == 504 and "at most 0.2 s" in late.json()["error"]["message"]
        late = httpx.post(
            at + "/v1/audio/translations", files={"file": ("talk.wav", wav(1.0))}, data={"stream": "true"}
        )
        assert late.status_code == 504
        assert httpx.get(at + "/health").json()["requests"] == 0
        model.gate.set()


def test_a_slow_upload_is_ended():
    with served(stand_in(), Limits(upload_seconds=0.5)) as (at, _):
        with connected(at) as line:
            line.sendall(
                b"POST /v1/audio/translations HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            assert line.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert httpx.get(at + "/health").json()["requests"] == 0


def test_a_connection_that_asks_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(PromptH11, "patience_seconds", 0.2)
    with served(stand_in()) as (at, _), connected(at) as line:
        line.sendall(b"POST /v1/audio/translations HTTP/1.1\r\nHost")
        assert line.recv(4096) == b""


@pytest.mark.slow
def test_sigterm_loses_nothing_that_was_taken():
    """As SIGTERM does it: nothing new is taken, and what waits is answered before the server ends."""
    model = Gated()
    with ThreadPoolExecutor(12) as threads:
        with served(model) as (at, server):
            waiting = [threads.submit(send, at, wav(1.0)) for _ in range(12)]
            while httpx.get(at + "/health").json()["requests"] < 12:
                time.sleep(0.01)
            server.should_exit = True
            time.sleep(0.5)
            with pytest.raises(httpx.HTTPError):
                httpx.get(at + "/health", timeout=1.0)
            model.gate.set()
        assert [reply.result().json() for reply in waiting] == [{"text": "ew3"}] * 12


_STUCK = """
import threading
from aista.cli.serve import app
from aista.inference import translator
from tests.serve.serving import stand_in

model = stand_in()
model.pieces = lambda samples: threading.Event().wait()
translator.load = lambda *_, **__: model
app(["--port", "0", "--vad", "off"])
"""


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once():
    """While the thread of a recording works on, as it does where a long one is decoded."""
    command = [sys.executable, "-c", _STUCK]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(1) as threads,
    ):
        try:
            at = next(line for line in process.stderr if "Listening" in line).split()[-1]
            threads.submit(send, at, wav(1.0))
            while httpx.get(at + "/health").json()["requests"] < 1:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.send_signal(signal.SIGINT)
            assert process.wait(10.0) == 130
        finally:
            process.kill()


_SERVED = """
import sys
from aista.cli import main
from aista.inference import translator
from tests.serve.serving import stand_in

translator.load = lambda *_, **__: stand_in()
sys.argv = ["aista", "serve", "--port", "0", "--vad", "off"]
main.main()
"""


@pytest.mark.slow
def test_the_end_of_a_service_says_that_sigterm_was_it():
    """Whoever keeps services (systemd) takes another end for a failure."""
    with subprocess.Popen([sys.executable, "-c", _SERVED], stderr=subprocess.PIPE, text=True) as process:
        try:
            at = next(line for line in process.stderr if "Listening" in line).split()[-1]
            assert httpx.get(at + "/health", timeout=60).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
        finally:
            process.kill()


def test_warnings_of_the_sound_travel_and_late_sound_is_late():
    loud = tone(1.0)
    told = post(client(), encoded(np.stack([loud, -loud], axis=1), format="WAV"))
    assert told.json()["text"] and "channels cancel" in told.headers["X-Aista-Warnings"]


def test_what_the_framework_refuses_has_the_form_too():
    assert client().get("/nowhere").json()["error"]["message"] == "Not Found"
    told = client().get("/v1/audio/translations")
    assert told.status_code == 405 and told.headers["Allow"] == "POST"
