"""Gains over seeds, and what training on speech does for text (the paper's Table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from aista.errors import EvaluationError


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
    if deviation > 0:
        test: Any = stats.ttest_1samp(values, 0.0)
        p_value = float(test.pvalue)
    return Gain(mean, deviation, mean - half, mean + half, p_value, tuple(map(float, values)))


@dataclass(frozen=True)
class Transfer:
    """What one system gains over another from speech and from text.

    Attributes:
        speech: Gain in speech translation.
        text: Gain in zero-shot text translation.
        gap_first, gap_second: Text minus speech, mean over seeds: what is lost between hearing and reading.
    """

    speech: Gain
    text: Gain
    gap_first: float
    gap_second: float


def transfer(
    first: tuple[Sequence[float], Sequence[float]], second: tuple[Sequence[float], Sequence[float]]
) -> Transfer:
    """Compare two systems in speech translation and in zero-shot translation of text.

    Args:
        first, second: Of each system its scores from speech and from text, one per seed, in the same order.

    Raises:
        EvaluationError: There is no seed, or one is missing somewhere.
    """
    speech, text = (gain(one, other) for one, other in zip(first, second, strict=True))
    gap_first, gap_second = (gain(*scores).mean for scores in (first, second))
    return Transfer(speech, text, gap_first, gap_second)
