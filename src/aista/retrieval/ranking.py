"""Exact ranks of the gold text among all texts by transport distance (Eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.retrieval.cascade import Cascade, distances64
from aista.retrieval.scores import chance_mrr, mrr
from aista.retrieval.tokens import check_pairs


@dataclass(frozen=True)
class Ranking:
    """Exact ranks of one layer, or of some of its items (then the means are over those).

    Attributes:
        ranks: (K,) 1 + number of texts strictly nearer than the gold one.
        mrr: Mean reciprocal rank (Eq. 4). chance: What random ranks would give (H_Q / Q).
        mrr_pessimistic: The same when every tie counts against the gold text.
        num_ties: Pairs of different texts exactly as far as the gold text (float64).
        gold: (K,) transport distance of each item to its own text.
        stages: How many pairs each stage of the cascade decided; ``undecided`` ones were recomputed in
            float64.
        ties: (K,) ties of each item. queries: (K,) which items these are. num_texts: Q.
    """

    ranks: NDArray[np.int64]
    mrr: float
    chance: float
    mrr_pessimistic: float
    num_ties: int
    gold: NDArray[np.float64]
    stages: dict[str, int]
    ties: NDArray[np.int64]
    queries: NDArray[np.int64]
    num_texts: int


def _ranking(
    ranks: NDArray[np.int64],
    ties: NDArray[np.int64],
    gold: NDArray[np.float64],
    stages: dict[str, int],
    queries: NDArray[np.int64],
    num_texts: int,
) -> Ranking:
    return Ranking(
        ranks=ranks,
        mrr=mrr(ranks),
        chance=chance_mrr(num_texts),
        mrr_pessimistic=mrr(ranks + ties),
        num_ties=int(ties.sum()),
        gold=gold,
        stages=stages,
        ties=ties,
        queries=queries,
        num_texts=num_texts,
    )


def pair_distances(
    speech: Sequence[Tensor], text: Sequence[Tensor], *, threads: int = 1
) -> NDArray[np.float64]:
    """Exact transport distance of each item to its own text (their logarithm is the paper's alignment score).

    Args:
        speech: Q tensors (n_i, d). text: Q tensors (m_i, d), one for each speech item.
        threads: CPU threads for the solver.

    Returns:
        (Q,) float64.

    Raises:
        TransportError: Lengths or dimensions differ, a cloud is empty or not finite.

    Equation: 1 and 3 (diagonal).
    """
    check_pairs(speech, text)
    return distances64(speech, text, threads=threads)


def exact_ranks(
    speech: Sequence[Tensor],
    text: Sequence[Tensor],
    *,
    queries: Sequence[int] | None = None,
    texts: Sequence[Hashable] | None = None,
    block_size: int = 1536,
    threads: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Ranking:
    """Rank every item's own text among all texts.

    Args:
        speech: Q tensors (n_i, d). text: Q tensors (m_i, d); text i belongs to speech i. All on one device.
        queries: Items to rank, such as ``range(rank, Q, world)`` in one of several processes; only their
            speech is looked at. :func:`merge` joins the parts. None: all.
        texts: Q strings or ids; items with equal text count as gold, never as rivals.
        block_size: Tokens along each side of a tile: memory is about 4 block_size (block_size + 2 d) bytes.
        threads: CPU threads, 0 = torch's number. progress: Called with (speech items done, all of them).

    Returns:
        The ranking; certified by bounds and float64 rechecks, not sampled.

    Raises:
        TransportError: As :func:`pair_distances`; or ``queries`` or ``texts`` do not fit.

    Equation: 3 and 4, rank = 1 + number of strictly smaller distances.
    Cost: 2 N M d operations for N speech and M text tokens, and 1-10 us a pair.
    """
    cascade = Cascade(speech, text, queries=queries, texts=texts, block_size=block_size, threads=threads)
    count, done = len(cascade.queries), 0
    ranks, ties = np.ones(count, np.int64), np.zeros(count, np.int64)
    for items, verdicts in cascade.judge(np.arange(count), np.arange(len(text))):
        ranks[items] += (verdicts == 1).sum(1)
        ties[items] = (verdicts == 0).sum(1)
        done += len(items)
        if progress is not None:
            progress(done, count)
    return _ranking(ranks, ties, cascade.gold, cascade.stages(), cascade.queries, len(text))


def merge(parts: Sequence[Ranking]) -> Ranking:
    """Join rankings of different items of one layer: the same as ranking all of them at once.

    Args:
        parts: From :func:`exact_ranks` with ``queries`` that share no item, over the same texts.

    Returns:
        The ranking of all items of all parts, in the order of their numbers.

    Raises:
        TransportError: No parts, an item in two of them, or different numbers of texts.
    """
    if not parts or len({part.num_texts for part in parts}) != 1:
        raise TransportError(
            "parts of a ranking must be over the same texts", got=[part.num_texts for part in parts]
        )
    queries = np.concatenate([part.queries for part in parts])
    if len(np.unique(queries)) != len(queries):
        raise TransportError("parts of a ranking share items", advice="give every process its own queries")
    order = np.argsort(queries)
    ranks, ties, gold = (
        np.concatenate([getattr(part, name) for part in parts])[order] for name in ("ranks", "ties", "gold")
    )
    stages = {name: sum(part.stages[name] for part in parts) for name in parts[0].stages}
    return _ranking(ranks, ties, gold, stages, queries[order], parts[0].num_texts)


def control_ranks(speech: Sequence[Tensor], text: Sequence[Tensor], **options: Any) -> Ranking:
    """Ranks of a wrong text of the most similar length: what length alone, not content, would give.

    Args:
        speech, text, options: As :func:`exact_ranks` (without ``texts``).
    """
    order = np.argsort([len(cloud) for cloud in text], kind="stable")
    partner = np.empty(len(text), np.int64)
    partner[order] = np.roll(order, 1)
    return exact_ranks(speech, [text[i] for i in partner.tolist()], **options)
