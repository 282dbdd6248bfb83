"""Sentences on which two systems differ most (the paper's Figure 7), found by rule: nobody picks.

As many sentences are shown on which the second system is better as on which it is worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SentenceScore = Callable[[str, str], float]
"""Hypothesis, reference -> score; higher is better."""


@dataclass(frozen=True)
class Answered:
    """One row of a test set with what every system made of it.

    Attributes:
        id: Of the row.
        recording: What it shares with rows of the same sound: at most one row per recording is shown.
        language: ISO code of the texts.
        source: What is said.
        reference: What is right.
        texts: System -> its translation.
    """

    id: str
    recording: str
    language: str
    source: str
    reference: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """A row with its scores.

    Attributes:
        row: The row.
        scores: System -> sentence-level score.
        difference: Score of the second system minus that of the first.
    """

    row: Answered
    scores: Mapping[str, float]
    difference: float


@dataclass(frozen=True)
class Cases:
    """What was found.

    Attributes:
        better, worse: As many rows each, by size of the difference.
        num_better, num_worse, num_equal: How many rows of the whole test set went which way.
        mean_difference: Over all rows.
    """

    better: tuple[Case, ...]
    worse: tuple[Case, ...]
    num_better: int
    num_worse: int
    num_equal: int
    mean_difference: float


def find_cases(
    rows: Sequence[Answered], score: SentenceScore, *, first: str, second: str, count: int = 3
) -> Cases:
    """Find the rows on which two systems' scores differ most, both ways.

    Args:
        rows: A test set with the answers of at least these two systems.
        score: Of one sentence.
        first, second: The systems compared.
        count: Rows each way; fewer where one way has fewer. Ties go to the row that stands first.
    """
    differences = [
        score(row.texts[second], row.reference) - score(row.texts[first], row.reference) for row in rows
    ]
    better, worse = _both_ways(differences, [row.recording for row in rows], count)
    return Cases(
        tuple(_case(rows[i], score, differences[i]) for i in better),
        tuple(_case(rows[i], score, differences[i]) for i in worse),
        num_better=sum(value > 0 for value in differences),
        num_worse=sum(value < 0 for value in differences),
        num_equal=sum(value == 0 for value in differences),
        mean_difference=sum(differences) / len(differences) if differences else 0.0,
    )


def _both_ways(
    differences: Sequence[float], recordings: Sequence[str], count: int
) -> tuple[list[int], list[int]]:
    """Take in turn the largest gain and the largest loss whose recording is free; equally many of both."""
    places = range(len(differences))
    ways = (sorted(places, key=lambda i: -differences[i]), sorted(places, key=lambda i: differences[i]))
    signs = (1, -1)
    chosen: tuple[list[int], list[int]] = ([], [])
    taken: set[str] = set()
    for _ in range(count):
        for way, sign, places_chosen in zip(ways, signs, chosen, strict=True):
            found = next((i for i in way if sign * differences[i] > 0 and recordings[i] not in taken), None)
            if found is not None:
                taken.add(recordings[found])
                places_chosen.append(found)
    even = min(map(len, chosen))
    return chosen[0][:even], chosen[1][:even]


def _case(row: Answered, score: SentenceScore, difference: float) -> Case:
    return Case(row, {name: score(text, row.reference) for name, text in row.texts.items()}, difference)
