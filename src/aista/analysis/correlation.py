"""Does a smaller transport cost go with better translation (the paper's Figure 6)?

A handful of runs says little: both coefficients come with a 95 % interval, and where runs are too few for one
it is missing rather than narrow. Runs that share a seed, data and start are not independent draws.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

FEWEST = 4
RESAMPLES = 4999


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


def correlate(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Correlation:
    """Correlate two series of equal length; ``seed`` is that of bootstrap and permutations."""
    one, other = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(one) < 3 or not np.ptp(one) or not np.ptp(other):
        nothing = Coefficient(None, None, None, None, len(one))
        return Correlation(nothing, nothing)
    return Correlation(_pearson(one, other), _spearman(one, other, seed))


def _pearson(x: np.ndarray, y: np.ndarray) -> Coefficient:
    found: Any = stats.pearsonr(x, y)
    if len(x) < FEWEST:
        return Coefficient(float(found.statistic), None, None, float(found.pvalue), len(x))
    interval = found.confidence_interval(0.95)
    return Coefficient(
        float(found.statistic), float(interval.low), float(interval.high), float(found.pvalue), len(x)
    )


def _spearman(x: np.ndarray, y: np.ndarray, seed: int) -> Coefficient:
    ranks, fixed = stats.rankdata(x), stats.rankdata(y)
    value = float(np.corrcoef(ranks, fixed)[0, 1])
    if len(x) < FEWEST:
        return Coefficient(value, None, None, None, len(x))

    def pairing(shuffled: np.ndarray, axis: int = -1) -> np.ndarray:
        return (shuffled * (fixed - fixed.mean())).sum(axis=axis)

    test: Any = stats.permutation_test(
        (ranks,),
        pairing,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    low, high = _bootstrap(x, y, seed)
    return Coefficient(value, low, high, float(test.pvalue), len(x))


def _bootstrap(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentile interval of Spearman's coefficient over redrawn runs; draws of one value are passed over."""
    draws = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    one, other = (stats.rankdata(side[draws], axis=1) for side in (x, y))
    one, other = (side - side.mean(axis=1, keepdims=True) for side in (one, other))
    norms = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    values = (one * other).sum(1)[norms > 0] / norms[norms > 0]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def by_group(points: Sequence[Point]) -> dict[str, Correlation]:
    """Correlate within every group."""
    return _each(points, lambda point: point.group)


def by_seed(points: Sequence[Point]) -> dict[str, Correlation]:
    """Correlate within every group and seed: methods alone differ."""
    return _each(points, lambda point: f"{point.group}, seed {point.seed}")


def _each(points: Sequence[Point], key: Callable[[Point], str]) -> dict[str, Correlation]:
    sets: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        sets[key(point)].append(point)
    return {name: correlate([p.x for p in rows], [p.y for p in rows]) for name, rows in sets.items()}


def pooled(points: Sequence[Point]) -> Correlation:
    """Correlate all runs, each less its group's mean: levels of backbones and directions do not count."""
    sets: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        sets[point.group].append(point)
    x: list[float] = []
    y: list[float] = []
    for rows in sets.values():
        centre_x, centre_y = (float(np.mean([getattr(p, side) for p in rows])) for side in ("x", "y"))
        x += [p.x - centre_x for p in rows]
        y += [p.y - centre_y for p in rows]
    return correlate(x, y)
