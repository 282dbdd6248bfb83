"""When each word of an answer is said: time warping between the windows of the sound and the tokens.

The path is monotone: in a translation whose words stand in another order than those that were spoken, times
are when the sound up to there is heard, not when the translated word itself was said. A time is no finer than
a window of the model (0.34 s in ours).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aista.text.prompts import language

_UNSPACED = re.compile(r"[A-Za-z0-9À-ɏ]+|.", re.DOTALL)
_OPENING = "([{「『（【《“‘〈"


@dataclass(frozen=True)
class Word:
    """A word, or a character of a language without spaces, with the punctuation that belongs to it.

    Attributes:
        text: As it stands in the answer.
        start_seconds, end_seconds: When it is heard, in the recording.
    """

    text: str
    start_seconds: float
    end_seconds: float


def monotone_path(cost: np.ndarray) -> list[tuple[int, int]]:
    """Return the cheapest path from the first window and token to the last (dynamic time warping).

    Args:
        cost: (N, M), of window i and token j.

    Returns:
        Pairs (i, j) in order; each step goes on by a window, a token, or both, and pays where it arrives.

    Cost:
        O(N M).
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(rows):
        both = np.minimum(total[i, :-1], total[i, 1:]) + cost[i]  # by a window, or by a window and a token
        for j in range(columns):
            total[i + 1, j + 1] = min(both[j], total[i + 1, j] + cost[i, j])
    i, j = rows - 1, columns - 1
    path = [(i, j)]
    while i or j:
        steps = ((total[i, j], i - 1, j - 1), (total[i, j + 1], i - 1, j), (total[i + 1, j], i, j - 1))
        _, i, j = min(steps)
        path.append((i, j))
    return path[::-1]


def token_times(cost: np.ndarray, seconds: float) -> np.ndarray:
    """Return when each token is heard, (M, 2) seconds: the tokens follow one another without a gap.

    Args:
        cost: (N, M) of windows and tokens.
        seconds: Length of the sound; a window lasts ``seconds / N``. Tokens that share one share its time.
    """
    rows, columns = cost.shape
    path = monotone_path(cost)
    sharing = np.bincount([i for i, _ in path], minlength=rows)
    times = np.full((columns, 2), -1.0)
    clock = 0.0
    for i, j in path:
        times[j, 0] = clock if times[j, 0] < 0 else times[j, 0]
        clock += seconds / rows / sharing[i]
        times[j, 1] = clock
    return times


def units(text: str, code: str) -> list[tuple[int, int]]:
    """Return the words of a text, (start, stop) in letters: what stands between spaces, or characters."""
    if language(code).spaces:
        return [found.span() for found in re.finditer(r"\S+", text)]
    out: list[tuple[int, int]] = []
    opening: int | None = None
    for found in _UNSPACED.finditer(text):
        start, stop = found.span()
        mark = found.group()
        if mark.isspace():
            continue
        if mark in _OPENING:
            opening = start if opening is None else opening
        elif mark.isalnum() or opening is not None or not out:
            out.append((start if opening is None else opening, stop))
            opening = None
        else:
            out[-1] = (out[-1][0], stop)
    return out if opening is None else [*out, (opening, len(text.rstrip()))]


def words_at(text: str, code: str, letter_times: np.ndarray, start_seconds: float) -> tuple[Word, ...]:
    """Return the words of a text by the times (letters, 2) of its letters, counted from ``start_seconds``."""
    return tuple(
        Word(
            text[a:b],
            round(start_seconds + float(letter_times[a:b, 0].min()), 3),
            round(start_seconds + float(letter_times[a:b, 1].max()), 3),
        )
        for a, b in units(text, code)
    )


def out_of_pauses(words: Sequence[Word], pauses: Sequence[tuple[float, float]]) -> tuple[Word, ...]:
    """Move the ends of words out of pauses (start, end in seconds): nobody speaks there.

    A word on both sides of a pause is where the longer part of it was.
    """
    found = []
    for word in words:
        start, end = word.start_seconds, word.end_seconds
        for a, b in pauses:
            if end <= a or b <= start:
                continue
            if a - start >= end - b:
                end = max(a, start)
            else:
                start = min(b, end)
        found.append(replace(word, start_seconds=start, end_seconds=end))
    return tuple(found)


def evenly(text: str, code: str, start_seconds: float, end_seconds: float) -> tuple[Word, ...]:
    """Return the words of a text spread over its time by their letters: a guess, for subtitles alone."""
    text = text.strip()
    edges = np.linspace(0.0, end_seconds - start_seconds, len(text) + 1)
    return words_at(text, code, np.stack([edges[:-1], edges[1:]], axis=1), start_seconds) if text else ()


def letter_times(offsets: Sequence[tuple[int, int]], times: np.ndarray, num_letters: int) -> np.ndarray:
    """Return the times (letters, 2) of letters by those (M, 2) of tokens, which stand at ``offsets``.

    The letters of a token share its time; a letter made of several tokens has that of all.
    """
    out = np.full((num_letters, 2), np.nan)
    for (a, b), (start, end) in zip(offsets, times, strict=True):
        edges = np.linspace(start, end, max(1, b - a) + 1)
        for place in range(a, b):
            known = out[place]
            out[place] = (
                np.fmin(known[0], edges[place - a]),
                np.fmax(known[1], edges[place - a + 1]),
            )
    for place in range(num_letters):  # letters of no token (spaces, here and there) stand at the one before
        if np.isnan(out[place, 0]):
            out[place] = out[place - 1, 1] if place else times[0, 0] if len(times) else 0.0
    return out
