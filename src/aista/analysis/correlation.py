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


def correlate(
    x: Sequence[float], y: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Correlation:
    """Correlate two series.

    Args:
        x, y: One value per run each.
        groups: What each run belongs to. Runs are then compared within their group alone: each loses its
            group's mean, which also costs a degree of freedom per further group.
        seed: Of bootstrap and permutations.

    Returns:
        Both coefficients, empty where they are not defined.
    """
    names = np.unique(list(groups or [""] * len(x)), return_inverse=True)[1]
    one, other = (_centred(np.asarray(side, dtype=float), names) for side in (x, y))
    free = len(one) - int(names.max(initial=0))
    if free < 3 or _is_flat(one) or _is_flat(other):
        nothing = Coefficient(None, None, None, None, len(one))
        return Correlation(nothing, nothing)
    return Correlation(_pearson(one, other, free), _spearman(one, other, names, free, seed))


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


def _spearman(x: np.ndarray, y: np.ndarray, names: np.ndarray, free: int, seed: int) -> Coefficient:
    ranks, fixed = stats.rankdata(x), stats.rankdata(y)
    value = float(np.corrcoef(ranks, fixed)[0, 1])
    if free < FEWEST:
        return Coefficient(value, None, None, None, len(x))
    draw = np.random.default_rng(seed)
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
    """Correlate all runs within their groups: levels of backbones and directions do not count."""
    return correlate([p.x for p in points], [p.y for p in points], [p.group for p in points])
