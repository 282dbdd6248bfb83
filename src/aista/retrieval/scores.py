"""Mean reciprocal rank (Eq. 4), what chance would give, and the layers chosen by it (Eq. 5)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from aista.errors import ConfigError


def mrr(ranks: ArrayLike) -> float:
    """Mean reciprocal rank.

    Args:
        ranks: (Q,) ranks, 1 = best; mid-ranks such as 1.5 are allowed.

    Returns:
        (1/Q) sum 1/r_i in (0, 1]; NaN without items.

    Equation: 4.
    """
    values = np.asarray(ranks, dtype=np.float64)
    return float(np.mean(1.0 / values)) if values.size else float("nan")


def select_layers(mrr_by_layer: Iterable[float], threshold: float) -> list[int]:
    """Return the set I of layers whose MRR exceeds the threshold.

    Args:
        mrr_by_layer: MRR of layer 0 (the embedding layer), 1, 2, ...
        threshold: The paper's is 0.05 at 1,000 pairs; compare :func:`chance_mrr`.

    Equation: 5.
    """
    return [layer for layer, value in enumerate(mrr_by_layer) if value > threshold]


def read_selected(path: str | os.PathLike[str]) -> list[int]:
    """Return the set I of layers that a layer report of ``aista select`` holds.

    Raises:
        ConfigError: The file is missing or is no layer report.
    """
    try:
        return [int(layer) for layer in json.loads(Path(path).read_text(encoding="utf-8"))["selected"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"Cannot read the layer report {path}.",
            got=str(error) or type(error).__name__,
            advice="Write one with `aista select`.",
        ) from None


def chance_mrr(num_items: int) -> float:
    """Expected MRR when all ranks are equally likely: H_Q / Q.

    Args:
        num_items: Q >= 1, the number of candidates.

    Returns:
        0.0075 at Q = 1000, 0.052 at Q = 100: a threshold means nothing without Q.
    """
    return float(np.mean(1.0 / np.arange(1, num_items + 1)))
