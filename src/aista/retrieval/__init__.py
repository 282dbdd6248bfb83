"""Cross-modal retrieval by transport (paper 4.2): exact ranks, mean reciprocal rank, certified decisions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Decision": "decision",
    "Ranking": "ranking",
    "chance_mrr": "scores",
    "control_ranks": "ranking",
    "decide_mrr": "decision",
    "exact_ranks": "ranking",
    "merge": "ranking",
    "mrr": "scores",
    "pair_distances": "ranking",
    "read_selected": "scores",
    "select_layers": "scores",
}
__all__ = [*_HOMES]

if TYPE_CHECKING:
    from aista.retrieval.decision import Decision as Decision
    from aista.retrieval.decision import decide_mrr as decide_mrr
    from aista.retrieval.ranking import Ranking as Ranking
    from aista.retrieval.ranking import control_ranks as control_ranks
    from aista.retrieval.ranking import exact_ranks as exact_ranks
    from aista.retrieval.ranking import merge as merge
    from aista.retrieval.ranking import pair_distances as pair_distances
    from aista.retrieval.scores import chance_mrr as chance_mrr
    from aista.retrieval.scores import mrr as mrr
    from aista.retrieval.scores import read_selected as read_selected
    from aista.retrieval.scores import select_layers as select_layers


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"aista.retrieval.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'aista.retrieval' has no attribute {name!r}")
