"""Is a layer's MRR above the threshold? A proof that judges few pairs (Eq. 5).

After some pairs of item i have been judged, its rank lies between 1 + (nearer texts found) and that plus the
number of texts not judged yet, so the MRR lies in an interval [low, high] that only shrinks. Two moves shrink
it:

* *hubs*: judge every item against the texts that tend to be near everything: ``high`` falls fast when ranks
are bad;
* *rows*: judge the most promising items against all texts: ``low`` rises as 1/Q for every item that is first.

The next move follows the best guess of the MRR; the answer follows only from the interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.retrieval.cascade import Cascade
from aista.retrieval.scores import chance_mrr

UNKNOWN = 9
PILOT_ITEMS = 8
FIRST_HUBS = 8


@dataclass(frozen=True)
class Decision:
    """A certified answer to "is the MRR above the threshold?".

    Attributes:
        selected: True, False, or None when the budget ended first.
        low, high: The MRR lies in [low, high].
        threshold: What was asked. chance: H_Q / Q.
        pairs_touched, num_pairs: Pairs judged, and all pairs.
        nearer, judged: (Q,) nearer texts found and rivals judged for each item: the certificate.
        stages: How many pairs each stage of the cascade decided.
    """

    selected: bool | None
    low: float
    high: float
    threshold: float
    chance: float
    pairs_touched: int
    num_pairs: int
    nearer: NDArray[np.int64]
    judged: NDArray[np.int64]
    stages: dict[str, int]


def decide_mrr(
    speech: Sequence[Tensor],
    text: Sequence[Tensor],
    threshold: float = 0.05,
    *,
    texts: Sequence[Hashable] | None = None,
    budget: float = 1.0,
    threads: int = 0,
) -> Decision:
    """Decide whether the MRR of a layer exceeds a threshold, exactly.

    Args:
        speech, text, texts, threads: As :func:`aista.retrieval.exact_ranks`.
        threshold: Between 0 and 1.
        budget: Largest fraction of all pairs to judge, 1 = until decided.

    Returns:
        The decision with its interval.

    Raises:
        TransportError: As :func:`exact_ranks`, or the threshold is not in [0, 1].

    Equation: 5.
    """
    if not 0.0 <= threshold <= 1.0:
        raise TransportError("threshold must lie between 0 and 1", got=threshold)
    cascade = Cascade(speech, text, texts=texts, threads=threads)
    search = _Search(cascade, threshold)
    allowed = budget * search.count**2
    while search.verdict() is None and search.touched < allowed:
        if search.guess() > threshold:
            search.complete_rows()
        else:
            search.try_hubs()
    low, high = search.interval()
    return Decision(
        selected=search.verdict(),
        low=low,
        high=high,
        threshold=threshold,
        chance=chance_mrr(search.count),
        pairs_touched=search.touched,
        num_pairs=search.count**2,
        nearer=search.nearer,
        judged=search.judged,
        stages=cascade.stages(),
    )


class _Search:
    """What is known so far, and the two moves."""

    def __init__(self, cascade: Cascade, threshold: float) -> None:
        self.cascade, self.threshold, self.count = cascade, threshold, len(cascade.gold)
        self.known = np.full((self.count, self.count), UNKNOWN, np.int8)
        self.known[cascade.identity[:, None] == cascade.identity] = 2
        self.rivals = (self.known == UNKNOWN).sum(1)
        self.touched, self.num_hubs = 0, 0
        self._update()
        pilot = np.random.default_rng(0).permutation(self.count)[:PILOT_ITEMS]
        self._judge(np.sort(pilot), np.arange(self.count))
        nearness = (self.known[pilot] == 1).sum(0) - self._remoteness()
        self.hubs = np.argsort(-nearness, kind="stable")

    def _remoteness(self) -> NDArray[np.float64]:
        """Expected distance of each text without its gain, scaled to [0, 1): orders equal counts."""
        speech, text = self.cascade.speech, self.cascade.text
        gap = (text.means - speech.means.mean(0)).square().sum(1) - text.means.square().sum(1)
        far = text.power + gap.cpu().numpy()
        return (np.argsort(np.argsort(far)) / len(far)).astype(np.float64)

    def _judge(self, items: NDArray[np.int64], texts: NDArray[np.int64]) -> None:
        for block, verdicts in self.cascade.judge(items, texts):
            self.known[np.ix_(block, texts)] = verdicts
        self.touched += len(items) * len(texts)
        self._update()

    def _update(self) -> None:
        self.nearer = (self.known == 1).sum(1)
        self.judged = self.rivals - (self.known == UNKNOWN).sum(1)

    def interval(self) -> tuple[float, float]:
        """Bounds of the MRR."""
        best = 1 + self.nearer
        return float((1.0 / (best + self.rivals - self.judged)).mean()), float((1.0 / best).mean())

    def verdict(self) -> bool | None:
        """True, False or not known yet."""
        low, high = self.interval()
        return True if low > self.threshold else False if high <= self.threshold else None

    def guess(self) -> float:
        """The upper bound times what completed items kept of theirs."""
        done = self.judged == self.rivals
        hubs = self.hubs[: self.num_hubs]
        promised = 1.0 / (1 + (self.known[:, hubs] == 1).sum(1))
        kept = (1.0 / (1 + self.nearer[done])).sum() / max(promised[done].sum(), 1e-9)
        return float(kept * promised.mean())

    def complete_rows(self) -> None:
        """Judge the most promising open items against everything."""
        promise = np.where(self.judged < self.rivals, self.nearer, self.count)
        size = max(PILOT_ITEMS, int(np.ceil(0.5 * self.threshold * self.count)))
        items = np.argsort(promise, kind="stable")[:size]
        items = np.sort(items[promise[items] < self.count])
        self._judge(items, np.arange(self.count))

    def try_hubs(self) -> None:
        """Judge items that still promise much against the next texts in the order of nearness."""
        step = max(FIRST_HUBS, self.num_hubs // 4)
        texts = self.hubs[self.num_hubs : self.num_hubs + step]
        if not len(texts):
            self.complete_rows()
            return
        self.num_hubs += len(texts)
        worth = (self.judged < self.rivals) & (1.0 / (1 + self.nearer) > 0.5 * self.threshold)
        if worth.any():
            self._judge(np.flatnonzero(worth), np.sort(texts))
