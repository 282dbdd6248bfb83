"""What runs say when they are compared: correlations, gains over seeds, telling sentences.

A handful of runs says little: coefficients come with a 95 % interval, and where runs are too few for one it
is missing rather than narrow. Runs that share a seed, data and start are not independent draws.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from aista.errors import EvaluationError

FEWEST = 4
RESAMPLES = 4999


# ---- does a smaller transport cost go with better translation (Figure 6)? ----


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        group: What it may be compared with: runs of one backbone and direction.
        seed: Of its training.
        name: Its system.
        x: Mean logarithm of the transport cost.
        y: BLEU.
    """

    group: str
    seed: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Coefficient:
    """A correlation.

    Attributes:
        value: Between -1 and 1; None where it is not defined (fewer than 3 runs, or one side is constant).
        low, high: 95 % interval: Fisher's for Pearson, the percentile bootstrap over runs for Spearman; None
            with fewer than 4 runs.
        p_value: Two-sided; exact t for Pearson, permutation of the pairing for Spearman.
        n: How many runs.
    """

    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    n: int


@dataclass(frozen=True)
class Correlation:
    """Both coefficients over one set of runs."""

    pearson: Coefficient
    spearman: Coefficient


def correlate(x: Sequence[float], y: Sequence[float], groups: Sequence[str] | None = None) -> Correlation:
    """Correlate two series.

    Args:
        x, y: One value per run each.
        groups: What each run belongs to. Runs are then compared within their group alone: each loses its
            group's mean, which also costs a degree of freedom per further group.

    Returns:
        Both coefficients, empty where they are not defined.
    """
    names = np.unique(list(groups or [""] * len(x)), return_inverse=True)[1]
    one, other = (_centred(np.asarray(side, dtype=float), names) for side in (x, y))
    free = len(one) - int(names.max(initial=0))
    if free < 3 or _is_flat(one) or _is_flat(other):
        nothing = Coefficient(None, None, None, None, len(one))
        return Correlation(nothing, nothing)
    return Correlation(_pearson(one, other, free), _spearman(one, other, names, free))


def _centred(values: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Take each group's mean away (over the last axis)."""
    members = (names[:, None] == np.arange(names.max(initial=0) + 1)).astype(float)
    return values - (values @ members / np.maximum(members.sum(0), 1)) @ members.T


def _is_flat(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _pearson(x: np.ndarray, y: np.ndarray, free: int) -> Coefficient:
    """Return r of centred values, of which ``free`` less one may vary."""
    r = float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
    t = r * np.sqrt((free - 2) / max(1 - r * r, 1e-300))
    p_value = float(2 * stats.t.sf(abs(t), free - 2))
    if free < FEWEST:
        return Coefficient(r, None, None, p_value, len(x))
    half = float(stats.norm.ppf(0.975)) / np.sqrt(free - 3)
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    return Coefficient(r, float(np.tanh(z - half)), float(np.tanh(z + half)), p_value, len(x))


def _spearman(x: np.ndarray, y: np.ndarray, names: np.ndarray, free: int) -> Coefficient:
    ranks, fixed = stats.rankdata(x), stats.rankdata(y)
    value = float(np.corrcoef(ranks, fixed)[0, 1])
    if free < FEWEST:
        return Coefficient(value, None, None, None, len(x))
    draw = np.random.default_rng(0)
    low, high = _bootstrap(x, y, names, draw)
    return Coefficient(value, low, high, _permuted(ranks, fixed, names, draw), len(x))


def _permuted(ranks: np.ndarray, fixed: np.ndarray, names: np.ndarray, draw: np.random.Generator) -> float:
    """Return p of a rank correlation: how often a pairing redrawn within the groups is as strong."""
    if not names.any():
        test: Any = stats.permutation_test(
            (ranks,), lambda r, axis=-1: (r * (fixed - fixed.mean())).sum(axis=axis),
            permutation_type="pairings", vectorized=True, n_resamples=RESAMPLES, rng=draw,
        )  # fmt: skip
        return float(test.pvalue)
    centred = fixed - fixed.mean()
    keys = names + draw.random((RESAMPLES, len(ranks)))
    shuffled = np.empty((RESAMPLES, len(ranks)))
    shuffled[:, np.argsort(names, kind="stable")] = ranks[np.argsort(keys, axis=1)]
    strong = np.abs(shuffled @ centred) >= abs(ranks @ centred) - 1e-9
    return float((strong.sum() + 1) / (RESAMPLES + 1))


def _bootstrap(
    x: np.ndarray, y: np.ndarray, names: np.ndarray, draw: np.random.Generator
) -> tuple[float, float]:
    """Percentile interval of Spearman's coefficient over runs redrawn within their groups.

    Draws that leave one value are passed over.
    """
    draws = np.empty((RESAMPLES, len(x)), dtype=int)
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        draws[:, members] = members[draw.integers(0, len(members), (RESAMPLES, len(members)))]
    one, other = (stats.rankdata(_centred(side[draws], names), axis=1) for side in (x, y))
    one, other = (side - side.mean(axis=1, keepdims=True) for side in (one, other))
    norms = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    values = (one * other).sum(1)[norms > 0] / norms[norms > 0]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def by_group(points: Sequence[Point], *, seeds_apart: bool = False) -> dict[str, Correlation]:
    """Correlate within every group; ``seeds_apart``: within every group and seed (methods alone differ)."""
    sets: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        sets[f"{point.group}, seed {point.seed}" if seeds_apart else point.group].append(point)
    return {name: correlate([p.x for p in rows], [p.y for p in rows]) for name, rows in sets.items()}


def by_seed(points: Sequence[Point]) -> dict[str, Correlation]:
    """Correlate within every group and seed."""
    return by_group(points, seeds_apart=True)


def pooled(points: Sequence[Point]) -> Correlation:
    """Correlate all runs within their groups: levels of backbones and directions do not count."""
    return correlate([p.x for p in points], [p.y for p in points], [p.group for p in points])


# ---- gains over seeds ----


@dataclass(frozen=True)
class Gain:
    """A difference between two systems over seeds, each seed compared with itself.

    Attributes:
        mean: Second system minus first.
        deviation: Sample standard deviation over the seeds; None for one seed.
        low, high: 95 % interval of the mean (Student's t over the seeds); None for one seed.
        p_value: Paired t test, two-sided; None for one seed or where all differences are equal.
        values: One difference per seed.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    p_value: float | None
    values: tuple[float, ...]

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out: another draw of seeds would hardly turn the sign."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def gain(first: Sequence[float], second: Sequence[float]) -> Gain:
    """Compare two systems trained with the same seeds.

    Raises:
        EvaluationError: There is no seed, or one is missing on one side.
    """
    if len(first) != len(second) or not first:
        raise EvaluationError("Gains need both systems of every seed.", got=f"{len(first)} and {len(second)}")
    values = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    mean = float(values.mean())
    if len(values) == 1:
        return Gain(mean, None, None, None, None, (mean,))
    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    p_value = None
    if deviation > 1e-12 * max(1.0, abs(mean)):  # equal differences differ by rounding
        test: Any = stats.ttest_1samp(values, 0.0)
        p_value = float(test.pvalue)
    return Gain(mean, deviation, mean - half, mean + half, p_value, tuple(map(float, values)))


# ---- sentences on which two systems differ most (Figure 7), found by rule: nobody picks ----
#
# As many sentences are shown on which the second system is better as on which it is worse.

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

    def cases(places: Sequence[int]) -> tuple[Case, ...]:
        chosen = [(rows[i], differences[i]) for i in places]
        return tuple(
            Case(row, {name: score(text, row.reference) for name, text in row.texts.items()}, difference)
            for row, difference in chosen
        )

    return Cases(
        cases(better),
        cases(worse),
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
