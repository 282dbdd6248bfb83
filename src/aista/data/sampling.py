"""The order of training: clips of like length together, a different order each epoch, the same in every run.

The order is a function of (seed, epoch) alone, so a run that stops resumes exactly: it skips the batches of
the epoch that were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aista.errors import TrainingError


class LengthGroupedSampler:
    """Indices in an order whose consecutive batches hold clips of similar length.

    A random order is cut into pools of ``pool_batches`` batches, each pool is sorted by length and cut into
    batches, and the batches are shuffled. Only the very last batch of an epoch can be incomplete.

    Args:
        lengths: Length of every item, in any one unit (seconds, samples, tokens). (n,)
        batch_size: Items per batch.
        seed: Seed of all orders.
        groups: Group (task, corpus, manifest) of every item, with ``weights``. (n,)
        weights: Share of each group in an epoch; items of a group are repeated or left for a later epoch as
            its share asks for, each as often as the others of its group to within one. Without it every item
            comes once.
        blocks: Number of the archive (a shard) that holds each item, -1 for an item by itself. (n,) Items of
            a block come near one another, blocks in a new order each epoch: reading jumps within a few large
            files, not among all of them.
        pool_batches: Batches per pool: more makes batches more even in length and less random in content.

    Raises:
        TrainingError: Nothing to sample from, or lengths, groups and weights contradict one another.
    """

    def __init__(
        self,
        lengths: Sequence[float] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        *,
        groups: Sequence[Any] | np.ndarray | None = None,
        weights: dict[Any, float] | None = None,
        blocks: Sequence[int] | np.ndarray | None = None,
        pool_batches: int = 50,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.float64)
        self.batch_size, self.seed, self.pool_batches = batch_size, seed, pool_batches
        if len(self.lengths) == 0 or batch_size < 1:
            raise TrainingError(
                "There is nothing to sample from.", got=f"{len(self.lengths)} items, batch size {batch_size}"
            )
        self._members = _members(groups, weights, len(self.lengths))
        self._counts = shares(weights, len(self.lengths)) if weights else {}
        self._blocks = None if blocks is None or np.max(blocks) < 0 else np.asarray(blocks)

    def __len__(self) -> int:
        return len(self.lengths)

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch. int64 (n,)."""
        rng = np.random.default_rng([self.seed, epoch])
        chosen = np.arange(len(self.lengths))
        if self._counts:
            parts = enumerate(sorted(self._counts.items()))
            chosen = np.concatenate(
                [rounds(self._members[name], n * epoch, n, [self.seed, at]) for at, (name, n) in parts]
            )
        rng.shuffle(chosen)
        if self._blocks is not None:  # those of a block together, blocks and lone items in random order
            other = np.random.default_rng([self.seed, epoch, 1])
            places = other.random(int(self._blocks.max()) + 1)
            block = self._blocks[chosen]
            place = np.where(block < 0, other.random(len(chosen)), places[block])
            chosen = chosen[np.argsort(place, kind="stable")]
        pool = self.batch_size * self.pool_batches
        whole = len(chosen) // self.batch_size * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, whole, pool):
            part = chosen[start : min(start + pool, whole)]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches.extend(part.reshape(-1, self.batch_size))
        rng.shuffle(batches)
        return np.concatenate([*batches, chosen[whole:]])

    def padding_waste(self, epoch: int = 0) -> float:
        """Return the share of an epoch's padded volume that is padding, 0 <= waste < 1."""
        return padding_waste(self.lengths, self.order(epoch), self.batch_size)


def padding_waste(lengths: Sequence[float] | np.ndarray, order: np.ndarray, batch_size: int) -> float:
    """Return 1 - sum of lengths / sum over batches of (items x longest) for an order cut into batches."""
    ordered = np.asarray(lengths, dtype=np.float64)[order]
    starts = np.arange(0, len(ordered), batch_size)
    longest = np.maximum.reduceat(ordered, starts)
    padded = longest @ np.diff(np.append(starts, len(ordered)))
    return float(1.0 - ordered.sum() / padded) if padded > 0 else 0.0


def _members(
    groups: Sequence[Any] | np.ndarray | None, weights: dict[Any, float] | None, count: int
) -> dict[Any, np.ndarray]:
    """Return the items of each weighted group."""
    if weights is None:
        return {}
    if groups is None or len(groups) != count:
        raise TrainingError(
            "Weights need the group of every item.", got="no groups" if groups is None else len(groups)
        )
    names = np.asarray(groups)
    members = {name: np.flatnonzero(names == name) for name in weights}
    empty = [name for name, items in members.items() if len(items) == 0 and weights[name] > 0]
    unknown = sorted(set(names.tolist()) - set(weights))
    if empty or unknown or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise TrainingError(
            "The weights do not fit the groups.",
            got=f"weights {weights}; groups without items: {empty}; groups without weight: {unknown}",
            expected="a weight >= 0 for every group, not all 0",
        )
    return members


def shares(weights: dict[Any, float], total: int) -> dict[Any, int]:
    """Split ``total`` items by weight; the largest remainders take what rounding leaves."""
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: count for name, count in counts.items() if count}


def rounds(items: np.ndarray, start: int, count: int, seed: list[int]) -> np.ndarray:
    """Return ``count`` items from position ``start`` of an endless sequence of shuffled rounds."""
    numbers = range(start // len(items), (start + count - 1) // len(items) + 1)
    sequence = np.concatenate(
        [np.random.default_rng([*seed, number]).permutation(items) for number in numbers]
    )
    first = start - numbers.start * len(items)
    return sequence[first : first + count]
