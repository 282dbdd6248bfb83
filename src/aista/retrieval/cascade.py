"""Judge pairs of speech and text against each speech item's own text, exactly and cheaply (Eq. 3).

Products of a tile of tokens are computed in float32, ``ot.bounds`` decides what they can decide, and the few
pairs within rounding error of the threshold are recomputed in float64. Nothing larger than a tile of products
and one block of each side is held beside the input.

Rounding is bounded, not estimated. Let x = fl(s - m) and y = fl(t - c) be the tokens that enter the product,
c about the mean of all text tokens, m about that of the item, both float32, and mu = m - c. In exact
arithmetic

    W(x + mu, y) = E|x + mu|^2 + E|y|^2 - 2 mu . E y - 2 max_Z <Z, x y'>

* A float32 product of length d, summed in any order, errs by at most g |x| |y| with g = d u / (1 - d u),
  u = 2^-24. Averaged over any plan that is at most g sqrt(E|x|^2 E|y|^2), by Cauchy-Schwarz.
* Rounding the tokens moved them by at most delta = u (rms|x| + rms|y|), and sqrt(W) is a metric:
  | sqrt(W(s, t)) - sqrt(W(x + mu, y)) | <= delta.
* The other terms, and the threshold, are float64: 8 (d + 16) 2^-53 of their scale.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.ot.exact import for_ranges, scratch, solve_batch, starts
from aista.ot.loss import full_float32
from aista.retrieval.tokens import ROUND32, ROUND64, Side, blocks, check_pairs, distinct_rows

#: Float64 distances that agree to this fraction of their scale are equal: a tie.
TIE = 1e-12
#: What decides a pair: the stages of ``ot.bounds``; the same on products that were summed in float64; the
#: distance in float64; or nothing, as the texts are the same.
STAGES = ("relaxed", "dual", "smooth", "greedy", "stopped", "solved", "sharpened", "undecided", "same_text")
SHARPENED, UNDECIDED, SAME_TEXT = 6, 7, 8


def distances64(speech: Sequence[Tensor], text: Sequence[Tensor], *, threads: int = 1) -> NDArray[np.float64]:
    """Exact transport distances of pairs, all in float64.

    Args:
        speech: K tensors (n_k, d). text: K tensors (m_k, d).

    Returns:
        (K,) distances. Equal inputs give bit-equal outputs.
    """
    found = [np.empty(0)]
    for first in range(0, len(speech), 256):
        part = slice(first, first + 256)
        costs = [_cost64(s, t) for s, t in zip(speech[part], text[part], strict=True)]
        found.append(solve_batch(costs, threads=threads).values)
    return np.concatenate(found)


def _cost64(speech: Tensor, text: Tensor) -> NDArray[np.float64]:
    x, y = speech.detach().double(), text.detach().double()
    centre = y.mean(0)
    x, y = x - centre, y - centre
    cost = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * (x @ y.T)
    return cost.clamp_(min=0.0).cpu().numpy()


@dataclass
class _Tile:
    """Some speech items (P) against some texts (T), all tables (P, T).

    Attributes:
        items, texts: Which. targets: Nearer means max <Z, G> > target.
        slacks: By how much that may be wrong with products rounded once. rough: With float32 products.
        verdicts: 0 = none yet. ours, theirs: Tokens of both sides.
    """

    items: NDArray[np.int64]
    texts: NDArray[np.int64]
    targets: NDArray[np.float64]
    slacks: NDArray[np.float64]
    rough: NDArray[np.float64]
    verdicts: NDArray[np.int8]
    ours: Tensor
    theirs: Tensor | None = None


class Cascade:
    """Pairs of one layer, ready to be judged.

    Args:
        speech: Q tensors (n_i, d). text: Q tensors (m_i, d), on the same device.
        queries: Which speech items will be asked for (others are never looked at). None: all.
        texts: Identity of each text; pairs of equal identity are not rivals. None: all differ.
        block_size: Tokens along each side of a tile of products. threads: CPU threads.
    """

    def __init__(
        self,
        speech: Sequence[Tensor],
        text: Sequence[Tensor],
        *,
        queries: Sequence[int] | None = None,
        texts: Sequence[Hashable] | None = None,
        block_size: int = 1536,
        threads: int = 0,
    ) -> None:
        check_pairs(speech, text, queries)
        if texts is not None and len(texts) != len(text):
            raise TransportError("texts must name every text", got=len(texts), expected=len(text))
        self.queries = np.array(range(len(text)) if queries is None else queries, dtype=np.int64)
        self.block_size, self.threads = block_size, threads or torch.get_num_threads()
        self.device_bounds = bounds_on_device(text[0])
        count = sum(len(cloud) for cloud in text)
        centre = torch.stack([cloud.detach().sum(0, dtype=torch.float64) for cloud in text]).sum(0) / count
        self.speech = Side([speech[i] for i in self.queries.tolist()], centre.float(), True, block_size)
        self.text = Side(text, centre.float(), False, block_size)
        names: dict[Hashable, int] = {}
        named = range(len(text)) if texts is None else texts
        self.identity = np.array([names.setdefault(name, len(names)) for name in named])
        self.gold = np.full(len(self.queries), np.nan)
        self.counts = np.zeros(len(STAGES), np.int64)
        self._index, self._distinct = distinct_rows(self.text)

    def stages(self) -> dict[str, int]:
        """How many pairs each stage decided so far."""
        return dict(zip(STAGES, self.counts.tolist(), strict=True))

    def need_gold(self, items: NDArray[np.int64]) -> None:
        """Compute the float64 distance of these speech items to their own texts, once."""
        new = items[np.isnan(self.gold[items])]
        theirs = [self.text.clouds[i] for i in self.queries[new]]
        self.gold[new] = distances64([self.speech.clouds[i] for i in new], theirs, threads=self.threads)

    def judge(self, items: NDArray[np.int64], texts: NDArray[np.int64]) -> Iterator[tuple[NDArray, NDArray]]:
        """Judge every pair of ``items`` x ``texts``, a block of items at a time.

        Args:
            items: Places in ``queries``. texts: Numbers of texts.

        Yields:
            (items of the block (P,), verdicts (P, len(texts)) int8): 1 = nearer than its own text, -1 =
            farther, 0 = exactly as far, 2 = same text.
        """
        self.need_gold(items)
        for block in blocks(items, self.speech.lengths, self.block_size):
            tokens = self.speech.tokens(block)
            shared = None if self._distinct is None else _product(self._distinct, tokens)
            parts = []
            for some in blocks(texts, self.text.lengths, self.block_size):
                tile = self._tile(block, some, tokens)
                if shared is None:
                    tile.theirs = self.text.tokens(some)
                    products = _product(tile.theirs, tokens)
                else:
                    products = shared[torch.cat([self._index[j] for j in some])]
                if self.device_bounds:
                    self._bound_on_device(tile, products)
                self._bound_on_host(tile, products)
                if (tile.verdicts == 0).any():
                    self._sharpen(tile)
                    self._recheck(tile)
                parts.append(tile.verdicts)
            yield block, np.concatenate(parts, 1)

    def _tile(self, items: NDArray[np.int64], texts: NDArray[np.int64], tokens: Tensor) -> _Tile:
        s, t, d = self.speech, self.text, self.speech.means.shape[1]
        power, gold = s.power[items][:, None] + t.power[texts], self.gold[items][:, None]
        across = (s.shifts[items] @ t.means[texts].T).cpu().numpy()
        moved, size = s.moved[items][:, None] + t.moved[texts], s.size[items][:, None] * t.size[texts]
        scale = power + t.power[self.queries[items]][:, None]
        slacks = np.sqrt(gold) * moved + 0.5 * moved**2 + 8.0 * (d + 16) * ROUND64 * scale
        same = self.identity[self.queries[items]][:, None] == self.identity[texts]
        self.counts[SAME_TEXT] += same.sum()
        return _Tile(
            items,
            texts,
            targets=0.5 * (power - gold) - across,
            slacks=slacks + 2.0 * ROUND32 * size,
            rough=slacks + d * ROUND32 / (1.0 - d * ROUND32) * size,
            verdicts=np.where(same, 2, 0).astype(np.int8),
            ours=tokens,
        )

    def _bound_on_device(self, tile: _Tile, products: Tensor) -> None:
        """Settle what the first two bounds settle, without moving the products."""
        from aista.ot.bounds import product_bounds

        rows, cols = (
            torch.from_numpy(x).to(products.device)
            for x in (self.text.lengths[tile.texts], self.speech.lengths[tile.items])
        )
        for stage, bound in enumerate(product_bounds(products, rows, cols)):
            farther = (bound.cpu().numpy() < tile.targets - tile.rough) & (tile.verdicts == 0)
            tile.verdicts[farther] = -1
            self.counts[stage] += farther.sum()

    def _bound_on_host(self, tile: _Tile, products: Tensor) -> None:
        """All stages, for the pairs without a verdict."""
        p, q = np.nonzero(tile.verdicts == 0)
        rows, cols = self.text.lengths[tile.texts], self.speech.lengths[tile.items]
        row, col = starts(rows)[q], starts(cols)[p]
        offsets, width = row * products.shape[1] + col, products.shape[1]
        if self.device_bounds:  # only the blocks of these pairs cross to the CPU, one after another
            sizes, device, strides = rows[q] * cols[p], products.device, cols[p]
            owner = torch.repeat_interleave(torch.from_numpy(sizes).to(device))
            known = (offsets, starts(sizes), strides)
            begin, first, wide = (torch.from_numpy(x).to(device)[owner] for x in known)
            inside = torch.arange(len(owner), device=device) - first
            place = begin + inside // wide * width + inside % wide
            host, offsets = products.reshape(-1)[place].cpu().numpy(), starts(sizes)
        else:
            host, strides = products.numpy().reshape(-1), np.full(len(p), width)
        counts = self._stages(tile, (p, q), host, offsets, strides, tile.rough)
        self.counts[:SHARPENED] += counts[:-1]
        self.counts[UNDECIDED] += counts[-1]

    def _sharpen(self, tile: _Tile) -> None:
        """Judge open pairs again with products that were summed in float64 and rounded once."""
        p, q = np.nonzero(tile.verdicts == 0)
        theirs = self.text.tokens(tile.texts) if tile.theirs is None else tile.theirs
        xs = tile.ours.split(self.speech.lengths[tile.items].tolist())
        ys = theirs.split(self.text.lengths[tile.texts].tolist())
        # Room that is used again: fresh memory costs more than the product.
        x_room, y_room = (
            part[0].new_empty(max(map(len, part)), part[0].shape[1], dtype=torch.float64) for part in (xs, ys)
        )
        products = [
            y_room[: len(ys[j])].copy_(ys[j]) @ x_room[: len(xs[i])].copy_(xs[i]).T
            for i, j in zip(p, q, strict=True)
        ]
        flat = torch.cat([x.reshape(-1) for x in products]).float().cpu().numpy()
        offsets = starts(np.array([x.numel() for x in products]))
        strides = self.speech.lengths[tile.items[p]]
        counts = self._stages(tile, (p, q), flat, offsets, strides, tile.slacks)
        self.counts[SHARPENED] += counts[:-1].sum()
        self.counts[UNDECIDED] -= counts[:-1].sum()

    def _stages(
        self,
        tile: _Tile,
        pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
        products: NDArray[np.float32],
        offsets: NDArray[np.int64],
        strides: NDArray[np.int64],
        slacks: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Put verdicts on some pairs; returns how many each stage decided."""
        from aista.ot import bounds

        items, texts = tile.items[pairs[0]], tile.texts[pairs[1]]
        rows, cols = self.text.lengths[texts], self.speech.lengths[items]
        caps = self.speech.largest[items] * self.text.largest[texts]
        targets, slacks, found = tile.targets[pairs], slacks[pairs], np.empty(len(items), np.int8)

        def run(part: slice) -> NDArray[np.int64]:
            counts = np.zeros(bounds.NUM_STAGES, np.int64)
            bounds.judge_pairs(
                *scratch(int(rows.max()), int(cols.max())), products, offsets, strides, rows, cols,
                caps, targets, slacks, part.start, part.stop, found, counts,
            )  # fmt: skip
            return counts

        counts = sum(for_ranges(run, len(items), self.threads), np.zeros(bounds.NUM_STAGES, np.int64))
        tile.verdicts[pairs] = found
        return counts

    def _recheck(self, tile: _Tile) -> None:
        """Decide in float64 what float32 could not."""
        p, q = np.nonzero(tile.verdicts == 0)
        if not len(p):
            return
        i, j = tile.items[p], tile.texts[q]
        found = distances64(
            [self.speech.clouds[k] for k in i], [self.text.clouds[k] for k in j], threads=self.threads
        )
        scale = self.gold[i] + self.speech.power[i] + self.text.power[j]
        difference = found - self.gold[i]
        tied = np.abs(difference) <= TIE * scale
        tile.verdicts[p, q] = np.where(tied, 0, -np.sign(difference)).astype(np.int8)


def bounds_on_device(tokens: Tensor) -> bool:
    """Whether the first bounds run in torch, where the tokens lie: unless that is the CPU."""
    return tokens.device.type != "cpu"


def _product(text: Tensor, speech: Tensor) -> Tensor:
    """(text tokens, speech tokens) float32."""
    with full_float32(text.device):
        return text @ speech.T
