"""Exact optimal transport between small clouds, many at a time (paper 3.2); usable alone.

    >>> from aista.ot import solve, solve_batch
    >>> solve([[0.0, 1.0], [1.0, 0.0]]).value
    0.0

Names are imported when first used: ``import aista.ot`` loads neither numba nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "WassersteinLoss": "loss",
    "Solution": "exact",
    "Solutions": "exact",
    "Status": "exact",
    "Outcome": "exact",
    "solve": "exact",
    "solve_batch": "exact",
    "squared_euclidean": "loss",
    "sinkhorn_batch": "sinkhorn",
}
__all__ = [*_HOMES]

if TYPE_CHECKING:
    from aista.ot.exact import Outcome as Outcome
    from aista.ot.exact import Solution as Solution
    from aista.ot.exact import Solutions as Solutions
    from aista.ot.exact import Status as Status
    from aista.ot.exact import solve as solve
    from aista.ot.exact import solve_batch as solve_batch
    from aista.ot.loss import WassersteinLoss as WassersteinLoss
    from aista.ot.loss import squared_euclidean as squared_euclidean
    from aista.ot.sinkhorn import sinkhorn_batch as sinkhorn_batch


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"aista.ot.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'aista.ot' has no attribute {name!r}")
