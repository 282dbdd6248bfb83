"""Many at once: every answer is what it is alone, and nothing of a request stays behind."""

from __future__ import annotations

import copy
import functools
import gc
import io
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import numpy as np
import psutil
import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import httpx

import aista
from aista.audio.files import as_flac
from aista.inference.formats import render
from aista.inference.translator import Translator
from tests.serve.serving import served, stand_in, talk, wav


def ask(client: httpx.Client, sound: bytes, to: str) -> str:
    reply = client.post(
        "/v1/audio/translations", files={"file": ("talk.wav", sound)}, data={"to_language": to}
    )
    assert reply.status_code == 200, reply.text
    return reply.json()["text"]


def at_once(at: str, jobs: list[tuple[bytes, str]], num_clients: int) -> list[str]:
    limits = httpx.Limits(max_connections=num_clients)
    with (
        httpx.Client(base_url=at, timeout=120, limits=limits) as client,
        ThreadPoolExecutor(num_clients) as threads,
    ):
        return list(threads.map(lambda job: ask(client, *job), jobs))


@pytest.mark.slow
def test_a_hundred_at_once_each_get_their_own():
    """The stand-in's answer is known: the number of windows of 0.34 s."""
    seconds = np.random.default_rng(0).uniform(0.5, 4.0, 100).round(1)
    jobs = [(wav(length), "zh" if number % 2 else "ja") for number, length in enumerate(seconds)]
    wanted = [
        f"{'中' if number % 2 else '日'}w{-(-round(16_000 * length) // 5_440)}"
        for number, length in enumerate(seconds)
    ]
    translator = stand_in()
    with served(translator) as (at, _):
        assert at_once(at, jobs, 100) == wanted
    assert max(translator.model.batches) > 1


SAMPLE = (files("aista.serve") / "page" / "sample.flac").read_bytes()


@pytest.fixture(scope="module")
def shipped() -> Translator:
    return aista.load()


@pytest.mark.slow
def test_the_shipped_model_answers_a_batch_as_it_answers_alone(shipped):
    """Pieces of its own sample, of several lengths and under noise, three languages."""
    sample, rate = soundfile.read(io.BytesIO(SAMPLE), dtype="float32")
    rng = np.random.default_rng(1)
    sounds = []
    for _ in range(18):
        start, seconds = rng.uniform(0.0, 6.0), rng.uniform(1.0, 4.8)
        piece = sample[int(start * rate) : int((start + seconds) * rate)]
        sounds.append(as_flac(piece + rng.normal(0.0, 0.01, len(piece)).astype(np.float32)))
    jobs = [(sound, ("zh", "ja", "en")[number % 3]) for number, sound in enumerate(sounds)]
    alone = [shipped.translate(sound, to).text for sound, to in jobs]
    with served(shipped) as (at, _):
        assert at_once(at, jobs, len(jobs)) == alone


@pytest.mark.slow
def test_words_have_the_times_that_they_have_alone(shipped):
    timed = copy.copy(shipped)
    timed.word_times = True
    whole = timed.translate(SAMPLE, "en")
    alone = [
        {"word": word.text, "start": word.start_seconds, "end": word.end_seconds}
        for row in whole.segments
        for word in row.words
    ]
    form = {"language": "en", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    with served(shipped) as (at, _), httpx.Client(base_url=at, timeout=60) as client:
        ask = functools.partial(client.post, "/v1/audio/transcriptions", files={"file": ("a.flac", SAMPLE)})
        told = ask(data=form).json()
        assert told["words"] == alone and len(alone) > 20 and "segments" not in told
        both = ask(data={**form, "timestamp_granularities[]": ["word", "segment"]}).json()
        assert both["words"] == alone and len(both["segments"]) == len(whole.segments)
        assert ask(data={"response_format": "srt"}).text == render(whole, "srt")
        assert "words" not in ask(data={"response_format": "verbose_json"}).json()


@pytest.mark.slow
def test_nothing_of_a_request_stays_behind():
    """Memory after many requests, whole and streamed and refused, is what it was after few."""
    rounds = [(wav(3.0), "zh"), (talk(20), "ja"), (wav(1.0), "en")] * 20
    process = psutil.Process()
    with served(stand_in()) as (at, _):
        at_once(at, rounds, 8)
        gc.collect()
        before, threads, open_files = process.memory_info().rss, process.num_threads(), process.num_fds()
        for _ in range(3):
            at_once(at, rounds, 8)
            httpx.post(at + "/v1/audio/translations", files={"file": ("a.wav", b"no sound")})
        gc.collect()
        assert process.memory_info().rss - before < 30e6  # one of the talks alone takes 2 MB decoded
        assert process.num_threads() <= threads + 24 and process.num_fds() <= open_files + 8
