"""Broken and hostile requests: each gets an answer below 500, or a closed connection; the service goes on."""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import httpx

from aista.serve.bounds import Limits, PromptH11
from tests.audio.sounds import encoded
from tests.evaluation.standins import tone
from tests.serve.serving import served, stand_in, talk, wav

PATIENCE_SECONDS = 30.0
SOUNDS = [
    wav(1.0), talk(5), b"", b"RIFF", b"\0" * 5_000,
    encoded(tone(2.0), format="FLAC"), encoded(tone(2.0), format="MP3"),
    encoded(tone(2.0), format="OGG", subtype="OPUS"), encoded(np.zeros(9_000), format="WAV", subtype="FLOAT"),
    encoded(np.full((900, 3), np.nan), rate=44_100, format="WAV", subtype="FLOAT"),
]  # fmt: skip
NAMES = [
    "model", "language", "to_language", "response_format", "prompt", "temperature", "stream", "file",
    "timestamp_granularities[]", "include[]", "chunking_strategy", "hotwords", "", "__proto__", "日本", 'a"b',
    "a\r\nb",
]  # fmt: skip
VALUES = [
    "stand-in", "en", "zh", "ja", "zh-CN", "Chinese", "json", "text", "srt", "vtt", "verbose_json", "true",
    "false", "0", "0.0", "1e999", "nan", "-1", "word", "segment", "", " ", "\0", "%00", "'; --", "{{7*7}}",
    "日本", "\udc80", "x" * 70_000, "../../etc/passwd", "en-en-en", "zh_hant",
]  # fmt: skip
GOOD = [
    ("to_language", "zh-CN"), ("language", "English"), ("response_format", "verbose_json"),
    ("stream", "true"), ("response_format", "srt"), ("model", "stand-in"), ("temperature", "0"),
]  # fmt: skip
PATHS = [
    *["/v1/audio/translations"] * 40, *["/v1/audio/transcriptions"] * 20,
    "/health", "/", "/v1/models/%2e", "//",
]  # fmt: skip
KINDS = [*["multipart/form-data; boundary=x"] * 40, "application/json", "multipart/form-data", "text/a"]
METHODS = [*["POST"] * 40, "GET", "PUT", "HEAD", "BREW"]


def mutated(rng: Random, data: bytes) -> bytes:
    """Flip, cut, repeat or insert a few bytes."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(4):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[at : at + rng.randint(1, 200)]
            case 2:
                found[at:at] = found[at : at + rng.randint(1, 200)]
            case _:
                found[at:at] = rng.randbytes(rng.randint(1, 20))
    return bytes(found)


def request_of(rng: Random) -> bytes:
    """Draw an HTTP request that is wrong in its sound, its form, its framing, its headers, or nowhere."""
    sound = rng.choice(SOUNDS)
    if rng.random() < 0.4:
        sound = mutated(rng, sound)
    fields = [
        rng.choice(GOOD) if rng.random() < 0.7 else (rng.choice(NAMES), rng.choice(VALUES))
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 40]))
    ]
    name = "".join(rng.choices('ab/\\."%\r\n日\0', k=30)) if rng.random() < 0.2 else "talk.wav"
    parts = [
        (f'form-data; name="{field}"', value.encode("utf-8", "surrogateescape")) for field, value in fields
    ]
    if rng.random() < 0.95:
        parts.insert(rng.randint(0, len(parts)), (f'form-data; name="file"; filename="{name}"', sound))
    body = b"".join(
        b"--x\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (head.encode(), value) for head, value in parts
    )
    body += b"--x--\r\n"
    if rng.random() < 0.15:
        body = mutated(rng, body)
    head = f"{rng.choice(METHODS)} {rng.choice(PATHS)} HTTP/1.1\r\n"
    head += f"Host: x\r\nConnection: close\r\nContent-Type: {rng.choice(KINDS)}\r\n"
    length = len(body) + (rng.choice([-7, 7, 10**7, 10**12]) if rng.random() < 0.08 else 0)
    if rng.random() < 0.1:
        chunks = [body[i : i + 997] for i in range(0, len(body), 997)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n"
    else:
        head += f"Content-Length: {max(0, length)}\r\n\r\n"
    raw = head.encode() + body
    return mutated(rng, raw[:400]) + raw[400:] if rng.random() < 0.08 else raw


def outcome(at: str, raw: bytes) -> int:
    """Send bytes and return the status that comes back: 0 where the connection is just closed.

    Raises:
        TimeoutError: Nothing came for half a minute.
    """
    with socket.create_connection(("127.0.0.1", int(at.rsplit(":")[-1])), timeout=PATIENCE_SECONDS) as line:
        try:
            line.sendall(raw)
            told = line.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            return 0
    return int(told[9:12]) if told.startswith(b"HTTP/1.1 ") else 0


def fuzz(num_requests: int) -> Counter[int]:
    """Send drawn requests, sixteen at a time, and return how often each status came."""
    limits = Limits(max_upload_mb=1.0, max_minutes=1.0, upload_seconds=2.0)
    with pytest.MonkeyPatch.context() as patch, served(stand_in(), limits) as (at, _):
        patch.setattr(PromptH11, "patience_seconds", 2.0)
        with ThreadPoolExecutor(16) as threads:
            drawn = (request_of(Random(seed)) for seed in range(num_requests))
            counts = Counter(threads.map(lambda raw: outcome(at, raw), drawn))
        latest = time.monotonic() + PATIENCE_SECONDS
        while httpx.get(at + "/health").json()["requests"] and time.monotonic() < latest:
            time.sleep(0.05)
        assert httpx.get(at + "/health").json()["requests"] == 0
        sound = httpx.post(at + "/v1/audio/translations", files={"file": ("talk.wav", wav(1.0))})
        assert sound.json() == {"text": "ew3"}
    return counts


def check(counts: Counter[int]) -> None:
    print("\nstatus: requests", dict(sorted(counts.items())))
    assert not [status for status in counts if status >= 500]
    assert counts[0] < 0.1 * counts.total()
    assert all(counts[status] for status in (200, 400, 404, 405, 408, 413))


@pytest.mark.slow
def test_some_broken_requests():
    check(fuzz(400))


@pytest.mark.stress
def test_ten_thousand_broken_requests():
    check(fuzz(10_000))
