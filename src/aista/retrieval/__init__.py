"""Cross-modal retrieval by transport (paper 4.2): exact ranks, mean reciprocal rank, certified decisions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Decision",
    "Ranking",
    "chance_mrr",
    "control_ranks",
    "decide_mrr",
    "exact_ranks",
    "merge",
    "mrr",
    "pair_distances",
    "select_layers",
]

if TYPE_CHECKING:
    from aista.retrieval.ranking import Decision as Decision
    from aista.retrieval.ranking import Ranking as Ranking
    from aista.retrieval.ranking import chance_mrr as chance_mrr
    from aista.retrieval.ranking import control_ranks as control_ranks
    from aista.retrieval.ranking import decide_mrr as decide_mrr
    from aista.retrieval.ranking import exact_ranks as exact_ranks
    from aista.retrieval.ranking import merge as merge
    from aista.retrieval.ranking import mrr as mrr
    from aista.retrieval.ranking import pair_distances as pair_distances
    from aista.retrieval.ranking import select_layers as select_layers


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("aista.retrieval.ranking"), name)
    raise AttributeError(f"module 'aista.retrieval' has no attribute {name!r}")
