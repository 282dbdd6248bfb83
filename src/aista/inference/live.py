"""Live sound: from the microphone, or as raw samples from a pipe."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import AudioError

_BLOCK = SAMPLE_RATE_HZ // 10
_PATIENCE_SECONDS = 0.2


def from_pipe(stream: BinaryIO) -> Iterator[np.ndarray]:
    """Yield samples as they arrive: 16-bit little-endian, mono, 16 kHz, without a header.

    Raises:
        AudioError: It begins as a WAV or another file does.
    """
    rest = b""
    first = True
    while data := stream.read(2 * _BLOCK):
        if first and data[:4] in (b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04"):
            raise AudioError(
                "This is a file, not raw samples.",
                got=data[:4].decode("latin-1"),
                expected="16-bit mono PCM at 16 kHz",
                advice="ffmpeg -i IN -f s16le -ac 1 -ar 16000 - | aista translate - --live --to zh",
            )
        first = False
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], dtype="<i2").astype(np.float32) / 32768.0


def from_microphone(stop: threading.Event) -> Iterator[np.ndarray]:
    """Yield samples of the default microphone, a tenth of a second and more at a time.

    Args:
        stop: Ends it, after what was heard until then; so does a microphone that goes away. Sound that the
            machine was too busy to take is told on stderr.

    Raises:
        AudioError: There is no microphone, or no library that hears it.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio is missing
        raise AudioError(
            "The microphone cannot be heard.",
            got=str(error),
            advice="pip install '.[live]' (on Linux also PortAudio: apt install libportaudio2).",
        ) from None
    heard: queue.Queue[np.ndarray] = queue.Queue()
    lost = False

    def hear(block: np.ndarray, _frames: int, _time: object, status: object) -> None:
        nonlocal lost
        heard.put(block[:, 0].copy())
        if status and not lost:
            lost = True
            print(f"warning: sound of the microphone was lost ({status})", file=sys.stderr)

    try:
        device = sounddevice.InputStream(SAMPLE_RATE_HZ, _BLOCK, channels=1, dtype="float32", callback=hear)
        device.start()
    except Exception as error:  # PortAudio's own error has a name that older versions lack
        raise AudioError(
            "There is no microphone that can be heard.",
            got=str(error),
            advice="Is one plugged in, and may this program use it? python -m sounddevice lists them.",
        ) from None
    with contextlib.closing(device):
        while (device.active and not stop.is_set()) or not heard.empty():
            try:
                blocks = [heard.get(timeout=_PATIENCE_SECONDS)]
            except queue.Empty:
                continue
            while not heard.empty():  # what arrived while the model was at work
                blocks.append(heard.get_nowait())
            yield np.concatenate(blocks)
