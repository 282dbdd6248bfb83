"""Cutting a long recording where it is quiet, so that every piece fits what the model can hear."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from aista.audio.files import SILENCE_DBFS, is_silent
from aista.audio.rates import MAX_SECONDS, MEL_HOP, SAMPLE_RATE_HZ
from aista.errors import AudioError

_PAUSE_FRAMES = 31  # a cut looks at 0.31 s around it: the middle of a long pause beats a short one
_LEVEL_SAMPLES = SAMPLE_RATE_HZ // 50
_STEADY_FRAMES = 50  # a second of 20 ms frames
_STEADY_DECIBEL = 1.5  # noise and tones vary by less (one standard deviation), speech by ten and more
_IDLE_SECONDS = 2.0
_MARGIN_FRAMES = 10  # kept of what is idle beside what is not
_CUT_PENALTY = 0.05  # in units of the loudness range: of two equally quiet ways, fewer cuts


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


def segment(
    samples: np.ndarray, *, max_seconds: float = MAX_SECONDS, min_seconds: float = 1.0
) -> list[Segment]:
    """Split a recording into adjoining segments of at most ``max_seconds``, cut at quiet places.

    Of all ways to cut that respect the lengths, the one with the least loudness at its cuts is taken (found
    exactly, by dynamic programming over a 10 ms grid). The segments cover every sample once, in order.

    Args:
        samples: float32 (n,), mono, 16 kHz, n >= 1.
        max_seconds: Longest segment; at least 0.1.
        min_seconds: Shortest segment where there is more than one; at most half of ``max_seconds`` is used.

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
    cuts = _quietest_cuts(_loudness(samples), longest, int(min_seconds * SAMPLE_RATE_HZ))
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
    count = -(-len(samples) // _LEVEL_SAMPLES)
    if count < _IDLE_SECONDS * 50:
        return []
    power = np.zeros(count)
    whole = len(samples) // _LEVEL_SAMPLES
    power[:whole] = np.square(samples[: whole * _LEVEL_SAMPLES].reshape(whole, -1)).mean(axis=1)
    if whole < count:
        power[-1] = np.square(samples[whole * _LEVEL_SAMPLES :]).mean()
    decibel = 10.0 * np.log10(np.maximum(power, 1e-10))
    sums, squares = (np.concatenate([[0.0], np.cumsum(values)]) for values in (decibel, decibel**2))
    size = _STEADY_FRAMES
    mean = (sums[size:] - sums[:-size]) / size
    steady = (squares[size:] - squares[:-size]) / size - mean**2 < _STEADY_DECIBEL**2
    begun = np.zeros(count + 1, dtype=np.int64)
    np.add.at(begun, np.flatnonzero(steady), 1)
    np.add.at(begun, np.flatnonzero(steady) + size, -1)
    quiet = (np.cumsum(begun[:-1]) > 0) | (decibel < SILENCE_DBFS)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    found = []
    for first, end in edges.reshape(-1, 2).tolist():
        if end - first >= _IDLE_SECONDS * 50:
            first = first + _MARGIN_FRAMES if first else 0
            end = end - _MARGIN_FRAMES if end < count else count
            found.append((first * _LEVEL_SAMPLES, min(end * _LEVEL_SAMPLES, len(samples))))
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
