"""A real server on a port of its own, in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import uvicorn

from aista.inference.translating import SpeechTranslator
from aista.inference.translator import Translator
from aista.serve.app import create_app
from aista.serve.bounds import Limits, PromptH11
from tests.audio.sounds import encoded
from tests.evaluation.standins import Model, Processor, tone


def stand_in() -> Translator:
    """A translator whose answers a test can compute by hand: they count windows of 0.34 s."""
    return Translator(Model(), Processor(), name="stand-in")


class Gated(Translator):
    """A stand-in that answers nothing until its gate opens."""

    def __init__(self) -> None:
        super().__init__(Model(), Processor(), name="stand-in")
        self.at_work, self.gate = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def answer(self, pieces, request):
        self.at_work.set()
        assert self.gate.wait(20)
        self.batches.append(len(pieces))
        return super().answer(pieces, request)


def wav(seconds: float, loudness: float = 0.3) -> bytes:
    """A tone as a WAV file; it is answered with one ``w`` and the number of its windows."""
    return encoded(tone(seconds, loudness=loudness), format="WAV")


def talk(num_segments: int) -> bytes:
    """Tones of a second with half a second of silence after each, as a WAV file."""
    part = np.concatenate([tone(1.0), np.zeros(8_000, np.float32)])
    return encoded(np.tile(part, num_segments), format="WAV")


@contextmanager
def served(
    translator: SpeechTranslator, limits: Limits | None = None
) -> Iterator[tuple[str, uvicorn.Server]]:
    """Serve a translator; yields the address and the server, which is asked to end as SIGTERM asks it."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(translator, limits), http=PromptH11, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"
