"""Exact ranks by transport distance (Eq. 3), their mean reciprocal rank (Eq. 4), layers chosen by it (Eq. 5).

Whether an MRR is above a threshold can be proved from few pairs (:func:`decide_mrr`). After some pairs of
item i have been judged, its rank lies between 1 + (nearer texts found) and that plus the number of texts not
judged yet, so the MRR lies in an interval [low, high] that only shrinks. Two moves shrink it:

* *hubs*: judge every item against the texts that tend to be near everything: ``high`` falls fast when ranks
  are bad;
* *rows*: judge the most promising items against all texts: ``low`` rises as 1/Q for every item that is first.

The next move follows the best guess of the MRR; the answer follows only from the interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.retrieval.cascade import Cascade, distances64
from aista.retrieval.tokens import check_pairs

UNKNOWN = 9
PILOT_ITEMS = 8
_ORDERS = 1000  # of texts, whose mean is taken for chance
FIRST_HUBS = 8


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


def chance_mrr(num_items: int, texts: Sequence[Hashable] | None = None) -> float:
    """Expected MRR when all orders of the texts are equally likely: H_Q / Q where they differ.

    Args:
        num_items: Q >= 1, the number of candidates.
        texts: Q strings or ids. Copies of a text have the same states, so they are ranked together: before an
            item stand all copies of the texts that are nearer, and none of its own.

    Returns:
        0.0075 at Q = 1000, 0.052 at Q = 100, and 0.103 for 10 sentences spoken 100 times each: a threshold
        means nothing without them. Where texts have unequal numbers of copies: a mean over random orders.
    """
    counts = np.array(list(Counter(range(num_items) if texts is None else texts).values()), dtype=np.int64)
    alike = (counts == counts[0]).all()  # then every order gives the same
    orders = [counts] if alike else np.random.default_rng(0).permuted([counts] * _ORDERS, axis=1)
    before = np.cumsum(orders, axis=1) - orders
    return float((orders / (1.0 + before)).sum(1).mean() / num_items)


@dataclass(frozen=True)
class Ranking:
    """Exact ranks of one layer, or of some of its items (then the means are over those).

    Attributes:
        ranks: (K,) 1 + number of texts strictly nearer than the gold one.
        gold: (K,) transport distance of each item to its own text.
        stages: How many pairs each stage of the cascade decided; ``undecided`` ones were recomputed in
            float64.
        ties: (K,) different texts exactly as far as the gold text (float64).
        queries: (K,) which items these are. num_texts: Q. chance: The MRR of a random order.
    """

    ranks: NDArray[np.int64]
    gold: NDArray[np.float64]
    stages: dict[str, int]
    ties: NDArray[np.int64]
    queries: NDArray[np.int64]
    num_texts: int
    chance: float

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank (Eq. 4)."""
        return mrr(self.ranks)

    @property
    def mrr_pessimistic(self) -> float:
        """The same when every tie counts against the gold text."""
        return mrr(self.ranks + self.ties)

    @property
    def num_ties(self) -> int:
        """All ties together."""
        return int(self.ties.sum())


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
        texts: Q strings or ids; items of equal text are no rivals of each other.
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
    chance = chance_mrr(len(text), texts)
    return Ranking(ranks, cascade.gold, cascade.stages(), ties, cascade.queries, len(text), chance)


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
    return Ranking(ranks, gold, stages, ties, queries[order], parts[0].num_texts, parts[0].chance)


def control_ranks(
    speech: Sequence[Tensor],
    text: Sequence[Tensor],
    *,
    texts: Sequence[Hashable] | None = None,
    **options: Any,
) -> Ranking:
    """Ranks of a wrong text of the most similar length: what length alone, not content, would give.

    Args:
        speech, text, texts, options: As :func:`exact_ranks`. Items of equal text are not given each other's.
            (Where all texts are equal there is no wrong one, and every rank is 1.)
    """
    named = range(len(text)) if texts is None else texts
    order = np.argsort([len(cloud) for cloud in text], kind="stable").tolist()
    partner = list(range(len(text)))
    for place, item in enumerate(order):
        before = (order[place - back] for back in range(1, len(order)))
        partner[item] = next((other for other in before if named[other] != named[item]), item)
    return exact_ranks(speech, [text[i] for i in partner], texts=[named[i] for i in partner], **options)


@dataclass(frozen=True)
class Decision:
    """A certified answer to "is the MRR above the threshold?".

    Attributes:
        selected: True, False, or None when the budget ended first.
        low, high: The MRR lies in [low, high].
        threshold: What was asked. chance: The MRR of a random order.
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
    return Decision(
        search.verdict(), *search.interval(), threshold, chance_mrr(search.count, texts), search.touched,
        search.count**2, search.nearer, search.judged, cascade.stages(),
    )  # fmt: skip


class _Search:
    """What is known so far, and the two moves."""

    def __init__(self, cascade: Cascade, threshold: float) -> None:
        self.cascade, self.threshold, self.count = cascade, threshold, len(cascade.gold)
        self.known = np.full((self.count, self.count), UNKNOWN, np.int8)
        self.known[cascade.identity[:, None] == cascade.identity] = 2
        self.rivals = (self.known == UNKNOWN).sum(1)
        self.num_hubs = 0
        self._update()
        pilot = np.random.default_rng(0).permutation(self.count)[:PILOT_ITEMS]
        self._judge(np.sort(pilot), np.arange(self.count))
        # The expected distance of each text without its gain, scaled to [0, 1), orders equal counts.
        speech, text = cascade.speech, cascade.text
        gap = (text.means - speech.means.mean(0)).square().sum(1) - text.means.square().sum(1)
        far = text.power + gap.cpu().numpy()
        nearness = (self.known[pilot] == 1).sum(0) - np.argsort(np.argsort(far)) / len(far)
        self.hubs = np.argsort(-nearness, kind="stable")

    def _judge(self, items: NDArray[np.int64], texts: NDArray[np.int64]) -> None:
        for block, verdicts in self.cascade.judge(items, texts):
            self.known[np.ix_(block, texts)] = verdicts
        self._update()

    def _update(self) -> None:
        self.nearer = (self.known == 1).sum(1)
        self.judged = self.rivals - (self.known == UNKNOWN).sum(1)
        self.touched = int(self.judged.sum())  # a pair counts once, however often it is judged

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
