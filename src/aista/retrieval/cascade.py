"""Judge pairs of speech and text against each speech item's own text, exactly and cheaply (Eq. 3).

Products of a tile of tokens are computed in float32, ``ot.bounds`` decides what they can decide, and the few
pairs within rounding error of the threshold are recomputed in float64. Nothing larger than a tile of products
and one block of each side is held beside the input.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.ot.exact import for_ranges, solve_flat, starts, uniform_masses

#: Float32 products of length d are trusted to this many standard deviations of a random-sign rounding error.
DEVIATIONS = 4.0
#: Float64 distances that agree to this fraction of their scale are equal: a tie.
TIE = 1e-12
#: Text rows are multiplied once each when at most this fraction of them is distinct (as at the embedding
#: layer).
DISTINCT = 0.6


def check_clouds(speech: Sequence[Tensor], text: Sequence[Tensor]) -> None:
    """Refuse what cannot be compared: unequal counts, empty clouds, other dimensions, NaN.

    Raises:
        TransportError: Naming the item.
    """
    if len(speech) != len(text) or not len(speech):
        raise TransportError(
            "speech and text must come in pairs, at least one", got=f"{len(speech)} and {len(text)} items"
        )
    dims = set()
    for name, clouds in (("speech", speech), ("text", text)):
        for i, cloud in enumerate(clouds):
            if cloud.dim() != 2 or 0 in cloud.shape:
                raise TransportError(
                    f"{name} item {i} must be (tokens, dimension) with at least one token",
                    got=f"shape {tuple(cloud.shape)}",
                    advice="leave items without speech tokens or transcript out",
                )
            if not bool(torch.isfinite(cloud.sum(dtype=torch.float64))):
                raise TransportError(
                    f"{name} item {i} holds NaN or infinity",
                    advice="extract hidden states in float32 or bfloat16, not float16",
                )
            dims.add(cloud.shape[1])
    if len(dims) > 1:
        raise TransportError("all items must have one dimension", got=sorted(dims))


def distances64(speech: Sequence[Tensor], text: Sequence[Tensor], *, threads: int = 1) -> NDArray[np.float64]:
    """Exact transport distances of pairs, all in float64.

    Args:
        speech: K tensors (n_k, d). text: K tensors (m_k, d).

    Returns:
        (K,) distances. Equal inputs give bit-equal outputs.
    """
    found = []
    for first in range(0, len(speech), 256):
        part = slice(first, first + 256)
        costs = [_cost64(s, t) for s, t in zip(speech[part], text[part], strict=True)]
        sizes = np.array([cost.shape for cost in costs], dtype=np.int64)
        flat = np.concatenate([cost.ravel() for cost in costs])
        raw = solve_flat(
            flat,
            starts(sizes.prod(1)),
            sizes[:, 1],
            sizes,
            *uniform_masses(sizes),
            threads=threads,
            plans=False,
        )
        found.append(raw.values)
    return np.concatenate(found) if found else np.empty(0)


def _cost64(speech: Tensor, text: Tensor) -> NDArray[np.float64]:
    x, y = speech.detach().double(), text.detach().double()
    centre = y.mean(0)
    x, y = x - centre, y - centre
    cost = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * (x @ y.T)
    return cost.clamp_(min=0.0).cpu().numpy()


class _Side:
    """What is known of every item of one side; tokens themselves stay where they are."""

    def __init__(self, clouds: Sequence[Tensor], centre: Tensor, own_centre: bool) -> None:
        self.clouds, self.centre, self.own_centre = clouds, centre, own_centre
        count, dim = len(clouds), clouds[0].shape[1]
        self.lengths = np.array([len(cloud) for cloud in clouds], dtype=np.int64)
        self.means = torch.empty(count, dim, dtype=torch.float64, device=centre.device)
        self.spread, self.size, self.largest = np.empty(count), np.empty(count), np.empty(count)
        for i, cloud in enumerate(clouds):
            x = cloud.detach().float() - centre
            self.means[i] = x.mean(0, dtype=torch.float64)
            norms = self._centred(i).square().sum(1, dtype=torch.float64)
            self.size[i], self.largest[i] = float(norms.mean()), float(norms.max())
            self.spread[i] = self.size[i] - (0.0 if own_centre else float(self.means[i].square().sum()))
        self.size, self.largest = np.sqrt(self.size), np.sqrt(self.largest)

    def _centred(self, i: int) -> Tensor:
        x = self.clouds[i].detach().float() - self.centre
        return x - self.means[i].float() if self.own_centre else x

    def tokens(self, items: NDArray[np.int64]) -> Tensor:
        """(sum of lengths, d) float32 tokens of some items, centred."""
        return torch.cat([self._centred(i) for i in items])


def _blocks(
    items: NDArray[np.int64], lengths: NDArray[np.int64], block_size: int
) -> Iterator[NDArray[np.int64]]:
    """Cut a list of items into runs of about ``block_size`` tokens."""
    edges = np.searchsorted(
        np.cumsum(lengths[items]), np.arange(block_size, lengths[items].sum(), block_size)
    )
    for part in np.split(items, np.unique(edges)):
        if len(part):
            yield part


class Cascade:
    """Pairs of one layer, ready to be judged.

    Args:
        speech: Q tensors (n_i, d). text: Q tensors (m_i, d), on the same device.
        texts: Identity of each text; pairs of equal identity are not rivals. None: all differ.
        block_size: Tokens along each side of a tile of products. threads: CPU threads.
    """

    def __init__(
        self,
        speech: Sequence[Tensor],
        text: Sequence[Tensor],
        *,
        texts: Sequence[Hashable] | None = None,
        block_size: int = 1536,
        threads: int = 0,
    ) -> None:
        check_clouds(speech, text)
        if texts is not None and len(texts) != len(text):
            raise TransportError("texts must name every text", got=len(texts), expected=len(text))
        self.block_size, self.threads = block_size, threads or torch.get_num_threads()
        count = sum(len(cloud) for cloud in text)
        centre = torch.stack([cloud.detach().sum(0, dtype=torch.float64) for cloud in text]).sum(0) / count
        self.speech = _Side(speech, centre.float(), own_centre=True)
        self.text = _Side(text, centre.float(), own_centre=False)
        names: dict[Hashable, int] = {}
        self.identity = np.array(
            [
                names.setdefault(name, len(names))
                for name in (texts if texts is not None else range(len(text)))
            ]
        )
        self.gold = np.full(len(text), np.nan)
        self.counts = np.zeros(7, np.int64)
        self.num_pairs = 0
        self._index, self._distinct = _distinct_rows(self.text)

    def stages(self) -> dict[str, int]:
        """How many pairs each stage decided so far."""
        from aista.ot.bounds import STAGES

        return dict(zip(STAGES, self.counts.tolist(), strict=True))

    def need_gold(self, items: NDArray[np.int64]) -> None:
        """Compute the float64 distance of these speech items to their own texts, once."""
        new = items[np.isnan(self.gold[items])]
        self.gold[new] = distances64(
            [self.speech.clouds[i] for i in new], [self.text.clouds[i] for i in new], threads=self.threads
        )

    def judge(self, items: NDArray[np.int64], texts: NDArray[np.int64]) -> Iterator[tuple[NDArray, NDArray]]:
        """Judge every pair of ``items`` x ``texts``, a block of items at a time.

        Yields:
            (items of the block (P,), verdicts (P, len(texts)) int8): 1 = nearer than its own text, -1 =
            farther, 0 = exactly as far, 2 = same text.
        """
        self.need_gold(items)
        for block in _blocks(items, self.speech.lengths, self.block_size):
            tokens = self.speech.tokens(block)
            shared = None if self._distinct is None else tokens @ self._distinct.T
            parts = []
            for tile in _blocks(texts, self.text.lengths, self.block_size):
                parts.append(self._judge_tile(block, tile, self._products(tokens, shared, tile)))
            self.num_pairs += len(block) * len(texts)
            yield block, np.concatenate(parts, 1)

    def _products(
        self, tokens: Tensor, shared: Tensor | None, tile: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if shared is None:
            products = tokens @ self.text.tokens(tile).T
        else:
            products = shared[:, torch.cat([self._index[j] for j in tile]).to(shared.device)]
        return products.cpu().numpy()

    def _judge_tile(
        self, items: NDArray[np.int64], texts: NDArray[np.int64], products: NDArray[np.float32]
    ) -> NDArray[np.int8]:
        from aista.ot import bounds, kernels

        s, t = self.speech, self.text
        ours, theirs = s.means[items], t.means[texts]
        apart = torch.cdist(ours, theirs, compute_mode="use_mm_for_euclid_dist").square().cpu().numpy()
        targets = 0.5 * ((s.spread[items] - self.gold[items])[:, None] + t.spread[texts] + apart)
        rounding = DEVIATIONS * np.sqrt(s.means.shape[1]) * 2.0**-24
        verdicts = np.empty(targets.shape, np.int8)
        rows, cols = s.lengths[items], t.lengths[texts]
        tables = (
            products, rows, cols, starts(rows), starts(cols), self.identity[items], self.identity[texts],
            s.largest[items] * 1.001, t.largest[texts] * 1.001, targets, s.size[items] * rounding,
            t.size[texts],
        )  # fmt: skip

        def run(part: slice) -> NDArray[np.int64]:
            counts = np.zeros_like(self.counts)
            work = kernels.scratch(int(rows.max()), int(cols.max()))
            bounds.judge_tile(*work, *tables, part.start, part.stop, verdicts, counts)
            return counts

        self.counts += sum(for_ranges(run, len(items), self.threads))
        self._recheck(items, texts, verdicts, targets)
        return verdicts

    def _recheck(
        self, items: NDArray[np.int64], texts: NDArray[np.int64], verdicts: NDArray[np.int8], targets: NDArray
    ) -> None:
        """Decide in float64 what float32 could not."""
        p, q = np.nonzero(verdicts == 0)
        if not len(p):
            return
        i, j = items[p], texts[q]
        found = distances64(
            [self.speech.clouds[k] for k in i], [self.text.clouds[k] for k in j], threads=self.threads
        )
        scale = self.gold[i] + self.speech.spread[i] + self.text.spread[j]
        difference = found - self.gold[i]
        verdicts[p, q] = np.where(np.abs(difference) <= TIE * scale, 0, -np.sign(difference)).astype(np.int8)


def _distinct_rows(side: _Side) -> tuple[list[Tensor], Tensor | None]:
    """Token index of each text into its distinct centred rows, or ([], None) when few rows repeat."""
    total, limit = int(side.lengths.sum()), int(DISTINCT * side.lengths.sum())
    seen: dict[bytes, int] = {}
    index, rows, passed = [], [], 0
    for cloud in side.clouds:
        host = cloud.detach().float().cpu().numpy()
        names = [blake2b(row.tobytes(), digest_size=16).digest() for row in host]
        for k, name in enumerate(names):
            if name not in seen:
                seen[name] = len(seen)
                rows.append(cloud.detach()[k])
        index.append(torch.tensor([seen[name] for name in names]))
        passed += len(names)
        if len(seen) > limit or (passed > 0.05 * total + 200 and len(seen) > 0.98 * passed):
            return [], None
    return index, torch.stack(rows).float() - side.centre
