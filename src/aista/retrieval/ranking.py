"""Exact ranks of the gold text among all texts by transport distance (Eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.ot.cost import squared_euclidean
from aista.ot.exact import solve_flat, uniform_masses
from aista.retrieval.scores import chance_mrr, mrr


@dataclass(frozen=True)
class Ranking:
    """Exact ranks of one layer.

    Attributes:
        ranks: (Q,) 1 + number of texts strictly nearer than the gold one.
        mrr: Mean reciprocal rank (Eq. 4). chance: What random ranks would give (H_Q / Q).
        num_ties: Pairs (i, j), j not gold, exactly as far as the gold text (equal texts do not count).
        gold: (Q,) transport distance of each item to its own text.
        stages: How many pairs each stage of the cascade decided.
    """

    ranks: NDArray[np.int64]
    mrr: float
    chance: float
    num_ties: int
    gold: NDArray[np.float64]
    stages: dict[str, int] = field(default_factory=dict)


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
    if not len(speech):
        return np.empty(0)
    costs = [squared_euclidean(s, t).cpu().numpy() for s, t in zip(speech, text, strict=True)]
    sizes = np.array([c.shape for c in costs], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes.prod(1))[:-1]])
    flat = np.concatenate([c.ravel() for c in costs])
    raw = solve_flat(flat, offsets, sizes[:, 1], sizes, *uniform_masses(sizes), threads=threads, plans=False)
    return raw.values


def check_clouds(speech: Sequence[Tensor], text: Sequence[Tensor]) -> None:
    """Refuse what cannot be compared: unequal counts, empty clouds, other dimensions, NaN."""
    if len(speech) != len(text):
        raise TransportError("speech and text must come in pairs", got=f"{len(speech)} and {len(text)} items")
    dims = set()
    for name, clouds in (("speech", speech), ("text", text)):
        for i, cloud in enumerate(clouds):
            if cloud.dim() != 2 or 0 in cloud.shape:
                raise TransportError(
                    f"{name} item {i} must be (tokens, dimension) with at least one token",
                    got=f"shape {tuple(cloud.shape)}",
                    advice="leave items without speech tokens or transcript out",
                )
            if not bool(torch.isfinite(cloud).all()):
                raise TransportError(
                    f"{name} item {i} holds NaN or infinity",
                    advice="extract hidden states in float32 or bfloat16, not float16",
                )
            dims.add(cloud.shape[1])
    if len(dims) > 1:
        raise TransportError("all items must have one dimension", got=sorted(dims))


def exact_ranks(
    speech: Sequence[Tensor],
    text: Sequence[Tensor],
    *,
    texts: Sequence[Hashable] | None = None,
    block_size: int = 32,
    threads: int = 1,
    progress: Callable[[int, int], Any] | None = None,
) -> Ranking:
    """Rank every item's own text among all texts.

    Args:
        speech: Q tensors (n_i, d). text: Q tensors (m_i, d); text i belongs to speech i.
        texts: Q strings or ids; items with equal text count as gold, never as rivals.
        block_size: Speech items a block: bounds the memory.
        threads: CPU threads. progress: Called with (speech items done, Q).

    Returns:
        The ranking.

    Raises:
        TransportError: As :func:`pair_distances`.

    Equation: 3 and 4, rank = 1 + number of strictly smaller distances.
    """
    check_clouds(speech, text)
    count = len(speech)
    distances = np.empty((count, count))
    for i in range(count):
        distances[i] = pair_distances([speech[i]] * count, text, threads=threads)
        if progress is not None:
            progress(i + 1, count)
    gold = distances.diagonal().copy()
    rival = ~np.eye(count, dtype=bool)
    if texts is not None:
        _, ids = np.unique(np.array([str(t) for t in texts]), return_inverse=True)
        rival &= ids[:, None] != ids[None, :]
    ranks = 1 + ((distances < gold[:, None]) & rival).sum(1)
    ties = int(((distances == gold[:, None]) & rival).sum())
    return Ranking(ranks, mrr(ranks), chance_mrr(max(count, 1)), ties, gold, {"solved": count * count})
