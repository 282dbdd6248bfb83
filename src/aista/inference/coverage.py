"""What a reader of a translation should know: where nothing was said, and where an answer cannot be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.text.prompts import language, script_complaint

Policy = Literal["warn", "retry", "fail"]
#: Kinds of warnings that speak against an answer, and not only of the sound.
AGAINST_THE_ANSWER = frozenset({"cut", "empty", "stops_early", "repeats", "script", "long", "short"})

_SPANS_TOLD = 3
_REPEATS, _REPEATED_UNITS = 3, 6  # the same words three times in a row, and six words or more of it
_LATIN_RATES, _CJK_RATES = (2.0, 40.0), (0.7, 15.0)  # characters per second of speech, least and most
_RATED_SECONDS = 2.0  # of less sound the rate says nothing
_LEVEL_SAMPLES = SAMPLE_RATE_HZ // 50
_PAUSE_DECIBEL, _FLOOR_DECIBEL, _LEAST_RANGE, _PAUSE_LEVELS = 25.0, 4.0, 12.0, 12
_SIDE_SAMPLES = int(0.9 * SAMPLE_RATE_HZ)
_HEARD_SHARE = 0.5


@dataclass(frozen=True)
class TranslationWarning:
    """One thing that a reader of a translation should know.

    Attributes:
        kind: Of the sound: ``silence``, ``tone``, ``noise`` (nothing was asked there), ``too_short``,
            ``recording`` (what is odd about the file). Of an answer: ``cut`` at ``max_new_tokens``,
            ``empty``, ``stops_early`` (before the sound does), ``repeats`` itself, ``script`` (not that of
            the language), ``long`` or ``short`` beyond belief, ``retried`` (asked again in two pieces).
        text: What it is, in a sentence.
        spans: Where, in seconds (start, end) of the recording; empty: the whole of it.
    """

    kind: str
    text: str
    spans: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        if not self.spans:
            return self.text
        told = ", ".join(f"{start:.1f}-{end:.1f} s" for start, end in self.spans[:_SPANS_TOLD])
        more = len(self.spans) - _SPANS_TOLD
        return f"{told}{f' and {more} more segments' if more > 0 else ''}: {self.text}"


def complaint(text: str, code: str, seconds: float) -> tuple[str, str] | None:
    """Return kind and description of what speaks against an answer, by its text alone; None if nothing.

    Args:
        text: The answer to one piece of sound.
        code: ISO code of the language that was asked for.
        seconds: How much sound it answers.
    """
    if not text.strip():
        return "empty", "the model answered nothing"
    units = text.split() if language(code).spaces else [mark for mark in text if mark.isalnum()]
    if told := _repetition(units, " " if language(code).spaces else ""):
        return "repeats", f"the answer repeats itself ({told})"
    if told := script_complaint(text, code):
        return "script", f"the answer is hardly in {language(code).name}: {told}"
    least, most = _LATIN_RATES if language(code).spaces else _CJK_RATES
    rate = sum(mark.isalnum() for mark in text) / max(seconds, 1e-9)
    if rate > most and seconds >= 0.5:
        return "long", f"the answer is far too long for its sound (over {most:g} letters a second)"
    if rate < least and seconds >= _RATED_SECONDS:
        return "short", f"the answer is far too short for its sound (under {least:g} letters a second)"
    return None


def _repetition(units: Sequence[str], joint: str) -> str | None:
    """Return a phrase that stands three times and more in a row, six units or more of it."""
    for size in range(1, len(units) // _REPEATS + 1):
        run = 0
        for place in range(size, len(units)):
            run = run + 1 if units[place] == units[place - size] else 0
            if run + size >= max(_REPEATS * size, _REPEATED_UNITS):
                return joint.join(units[place - size + 1 : place + 1])
    return None


def pauses(samples: np.ndarray) -> list[tuple[int, int]]:
    """Return the pauses in a piece of speech (n,), (first sample, after the last).

    A pause is 0.24 s or more that is 25 dB below the loud parts, or near the noise floor.
    """
    count = len(samples) // _LEVEL_SAMPLES
    if not count:
        return []
    power = np.square(samples[: count * _LEVEL_SAMPLES].reshape(count, -1), dtype=np.float64).mean(axis=1)
    decibel = 10.0 * np.log10(np.maximum(power, 1e-12))
    floor, loud = np.quantile(decibel, [0.05, 0.95])
    if loud - floor < _LEAST_RANGE:
        return []
    quiet = decibel < max(loud - _PAUSE_DECIBEL, floor + _FLOOR_DECIBEL)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8))).reshape(-1, 2)
    return [(a * _LEVEL_SAMPLES, b * _LEVEL_SAMPLES) for a, b in edges.tolist() if b - a >= _PAUSE_LEVELS]


def pause_in(samples: np.ndarray) -> int | None:
    """Return the middle of the longest pause with 0.9 s of sound on both sides, in samples, or None."""
    found = pauses(samples)
    first = next((b for a, b in found if a == 0), 0)
    last = next((a for a, b in found if b > len(samples) - _LEVEL_SAMPLES), len(samples))
    inner = [
        (b - a, (a + b) // 2) for a, b in found if a - first >= _SIDE_SAMPLES and last - b >= _SIDE_SAMPLES
    ]
    return max(inner)[1] if inner else None


def holds(text: str, tail: str) -> bool:
    """Whether an answer holds what is answered to the end of its sound alone.

    True where half of the tail's letters stand, in order, in the last part of the text, which is as long as
    the tail and half as much again.
    """
    wanted = [mark for mark in tail.casefold() if mark.isalnum()]
    given = [mark for mark in text.casefold() if mark.isalnum()][-(len(wanted) * 3 // 2) :]
    row = [0] * (len(given) + 1)  # longest common subsequence
    for mark in wanted:
        corner = 0
        for place, other in enumerate(given):
            corner, row[place + 1] = (
                row[place + 1],
                corner + 1 if mark == other else max(row[place], row[place + 1]),
            )
    return row[-1] >= _HEARD_SHARE * len(wanted)
