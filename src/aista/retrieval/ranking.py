"""Exact ranks of the gold text among all texts by transport distance (Eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aista.retrieval.cascade import Cascade, check_clouds, distances64
from aista.retrieval.scores import chance_mrr, mrr


@dataclass(frozen=True)
class Ranking:
    """Exact ranks of one layer.

    Attributes:
        ranks: (Q,) 1 + number of texts strictly nearer than the gold one.
        mrr: Mean reciprocal rank (Eq. 4). chance: What random ranks would give (H_Q / Q).
        mrr_pessimistic: The same when every tie counts against the gold text.
        num_ties: Pairs of different texts exactly as far as the gold text (float64).
        gold: (Q,) transport distance of each item to its own text.
        stages: How many pairs each stage of the cascade decided; ``undecided`` ones were recomputed in
            float64.
    """

    ranks: NDArray[np.int64]
    mrr: float
    chance: float
    mrr_pessimistic: float
    num_ties: int
    gold: NDArray[np.float64]
    stages: dict[str, int]


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
    check_clouds(speech, text)
    return distances64(speech, text, threads=threads)


def exact_ranks(
    speech: Sequence[Tensor],
    text: Sequence[Tensor],
    *,
    texts: Sequence[Hashable] | None = None,
    block_size: int = 1536,
    threads: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Ranking:
    """Rank every item's own text among all texts.

    Args:
        speech: Q tensors (n_i, d). text: Q tensors (m_i, d); text i belongs to speech i. All on one device.
        texts: Q strings or ids; items with equal text count as gold, never as rivals.
        block_size: Tokens along each side of a tile: memory is about 4 block_size (block_size + 2 d) bytes.
        threads: CPU threads, 0 = torch's number. progress: Called with (speech items done, Q).

    Returns:
        The ranking; certified by bounds and float64 rechecks, not sampled.

    Raises:
        TransportError: As :func:`pair_distances`.

    Equation: 3 and 4, rank = 1 + number of strictly smaller distances.
    Cost: 2 N M d operations for N speech and M text tokens, and 1-10 us a pair.
    """
    cascade = Cascade(speech, text, texts=texts, block_size=block_size, threads=threads)
    everything = np.arange(len(text))
    ranks, ties, done = np.ones(len(text), np.int64), np.zeros(len(text), np.int64), 0
    for items, verdicts in cascade.judge(everything, everything):
        ranks[items] += (verdicts == 1).sum(1)
        ties[items] = (verdicts == 0).sum(1)
        done += len(items)
        if progress is not None:
            progress(done, len(text))
    return Ranking(
        ranks=ranks,
        mrr=mrr(ranks),
        chance=chance_mrr(len(text)),
        mrr_pessimistic=mrr(ranks + ties),
        num_ties=int(ties.sum()),
        gold=cascade.gold,
        stages=cascade.stages(),
    )


def control_ranks(speech: Sequence[Tensor], text: Sequence[Tensor], **options: Any) -> Ranking:
    """Ranks of a wrong text of the most similar length: what length alone, not content, would give.

    Args:
        speech, text, options: As :func:`exact_ranks` (without ``texts``).
    """
    order = np.argsort([len(cloud) for cloud in text], kind="stable")
    partner = np.empty(len(text), np.int64)
    partner[order] = np.roll(order, 1)
    return exact_ranks(speech, [text[i] for i in partner.tolist()], **options)
