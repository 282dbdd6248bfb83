"""Who is nearer? Certified bounds on many transport values, cheapest first, stopping as soon as one decides.

For the pair (speech item s, text item t) only the sign of W(s, t) - threshold is asked for. Up to terms that
are known, W is -2 max_Z <Z, G> with the inner products G = Y X' of the tokens (see ``retrieval.cascade``),
and the question becomes whether min_Z <Z, cap - G> passes a number k. The stages, for the integer costs
K = round((cap - G) * scale), text tokens as rows:

    relaxed    max(mean_i min_j K, mean_j min_i K) is a lower bound: every token goes to its nearest
    dual       u_i = min_j K, v_j = min_i (K - u_i): sum of means is a lower bound
    smooth     the same sum for potentials from a few rounds of Sinkhorn's algorithm, made feasible
    greedy     any plan is an upper bound: fill arcs in the order of their reduced cost
    stopped    the exact solver's dual objective rises from bound to bound: stop when it passes k
    solved     the exact value

``slacks`` bounds everything by which <Z, G> may be wrong; what lies within it stays undecided and is
recomputed in float64 by the caller.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aista.ot.kernels import (
    COL_DUAL,
    KEYS,
    LEFT,
    NOTHING,
    NUM_GIVERS,
    OPEN_DUAL,
    OPTIMAL,
    ROOM,
    ROW_DUAL,
    STOPPED,
    complete_columns,
    fill_nearest,
    gone,
    index_bits,
    inner,
    outer,
    padded,
    serve_all,
    smooth,
)  # fmt: skip  # isort: skip

#: Verdicts on a pair: farther than the threshold, nearer, or within the slack of it.
FARTHER, NEARER, UNDECIDED = -1, 1, 0
#: Stages, in the order of ``counts``; the last one counts what none decided.
RELAXED, DUAL, SMOOTH, GREEDY, STOPPED_EARLY, SOLVED, LEFT_OPEN = range(7)
NUM_STAGES = 7


@inner
def _load_products(products, offset, stride, n, m, cap, scale, bits, cost):
    """cost = (cap - G) * scale, in whole levels, with the column in the low bits."""
    for i in range(n):
        for j in range(m):
            cost[i, j] = np.int64((cap - products[offset + i * stride + j]) * scale) << 2 * bits | j
        for j in range(m, padded(m)):
            cost[i, j] = 1 << (58 - bits)


@inner
def _relaxed(cost, work, n, m, bits):
    """Row minima into ROW_DUAL; returns their sum and that of the column minima."""
    width = padded(m)
    lowest = work[COL_DUAL]
    for j in range(width):
        lowest[j] = NOTHING
    rows, cols = 0, 0
    for i in range(n):
        low = NOTHING
        for j in range(width):
            low = min(low, cost[i, j])
            lowest[j] = min(lowest[j], cost[i, j])
        work[ROW_DUAL, i] = low >> 2 * bits << 2 * bits
        rows += work[ROW_DUAL, i]
    for j in range(m):
        cols += lowest[j] - j
    return rows, cols


@inner
def _greedy(cost, flow, givers, work, n, m, bits):
    """Cost of the started flow completed anyhow: each row to its cheapest reduced costs with room.

    The flow and the masses are left as they were.
    """
    value, width, mask = 0.0, padded(m), (1 << bits) - 1
    free, open_dual = work[KEYS], work[OPEN_DUAL]  # both idle until the solver runs
    for j in range(m):
        free[j] = work[ROOM, j]
        open_dual[j] = work[COL_DUAL, j] if free[j] > 0 else gone(bits)
        for k in range(work[NUM_GIVERS, j]):
            i = givers[j, k]
            value += float(flow[i, j]) * cost[i, j]
    for j in range(m, width):
        open_dual[j] = gone(bits)
    for i in range(n):
        rest = work[LEFT, i]
        while rest > 0:
            key = NOTHING
            for j in range(width):
                key = min(key, cost[i, j] - open_dual[j])
            place = key & mask
            amount = min(rest, free[place])
            free[place] -= amount
            rest -= amount
            value += float(amount) * cost[i, place]
            if free[place] == 0:
                open_dual[place] = gone(bits)
    return value


@inner
def _judge(cost, flow, givers, work, weights, n, m, bits, row_mass, col_mass, low, high):
    """(verdict, stage) on min <Z, K> against the band [low, high], in units of cost times mass."""
    rows, cols = _relaxed(cost, work, n, m, bits)
    if max(float(rows) * row_mass, float(cols) * col_mass) > high:
        return FARTHER, RELAXED
    cols = complete_columns(cost, work, n, m, bits)
    if float(rows) * row_mass + float(cols) * col_mass > high:
        return FARTHER, DUAL
    for i in range(n):
        work[LEFT, i] = row_mass
    for j in range(m):
        work[ROOM, j] = col_mass
    rows, cols = smooth(cost, weights, work, n, m, bits)
    dual = float(rows) * row_mass + float(cols) * col_mass
    if dual > high:
        return FARTHER, SMOOTH
    fill_nearest(flow, givers, work, n, m)
    if _greedy(cost, flow, givers, work, n, m, bits) < low:
        return NEARER, GREEDY
    outcome, dual = serve_all(cost, flow, givers, work, n, m, bits, dual, high)
    if outcome == STOPPED or dual > high:
        return FARTHER, STOPPED_EARLY
    if outcome == OPTIMAL and dual < low:
        return NEARER, SOLVED
    return UNDECIDED, LEFT_OPEN


@outer
def judge_pairs(
    cost, flow, givers, work, weights, products, offsets, strides, rows, cols, caps, targets, slacks,
    first, last, verdicts, counts,
):  # fmt: skip
    """Judge pairs ``first`` to ``last`` of a list.

    Args:
        cost, flow, givers, work, weights: From ``exact.scratch``.
        products: (total,) float32 inner products; those of pair k are (rows[k], cols[k]), begin at
            ``offsets[k]``, their rows ``strides[k]`` apart.
        caps: |G| <= cap. targets: nearer means max <Z, G> > target. slacks: by how much <Z, G> - target may
            be wrong. All (pairs,) float64.
        verdicts: (pairs,) int8, filled. counts: (stages,) int64, added to.
    """
    for k in range(first, last):
        n, m, cap = rows[k], cols[k], caps[k]
        a, b = n, m
        while b > 0:
            a, b = b, a % b
        bits = index_bits(n, m)
        scale = 2.0 ** (56 - 3 * bits) / max(cap, 1e-300)
        _load_products(products, offsets[k], strides[k], n, m, cap, scale, bits, cost)
        mass = float(n) * float(m // a) * scale * 4.0**bits
        slack = slacks[k] + 4.0 / scale
        low, high = (cap - targets[k] - slack) * mass, (cap - targets[k] + slack) * mass
        verdict, stage = _judge(
            cost, flow, givers, work, weights, n, m, bits, m // a, n // a, low, high
        )  # fmt: skip
        verdicts[k] = verdict
        counts[stage] += 1


# ---- the first two bounds for a whole tile of products at once, on whatever device it lies ----
#
# On a GPU they keep most pairs from ever crossing to the CPU; the other stages need the compiled solver. The
# sums run in float64 and maxima are exact, so no rounding enters that is not already in the products.


def segment_ids(lengths: Tensor) -> Tensor:
    """(sum of lengths,) the segment of every element."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def _greatest(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """(count, columns) maximum of the rows of each segment."""
    empty = values.new_full((count, values.shape[1]), -torch.inf)
    return empty.scatter_reduce_(0, owner[:, None].expand_as(values), values, "amax")


def _mean(values: Tensor, owner: Tensor, lengths: Tensor) -> Tensor:
    """(segments, columns) float64 mean of the rows of each segment."""
    total = values.new_zeros(len(lengths), values.shape[1], dtype=torch.float64)
    return total.index_add_(0, owner, values.double()) / lengths[:, None]


def product_bounds(products: Tensor, text_lengths: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of max_Z <Z, G> for every pair of a tile.

    Args:
        products: (text tokens, speech tokens) float32 G, items one after another on both sides.
        text_lengths: (texts,) int64. speech_lengths: (items,) int64.

    Returns:
        Two (items, texts) float64: the relaxed bound (every token goes to its nearest, the better side) and
        the dual bound (u_i = max_j G_ij of text tokens, v_j = max_i G_ij - u_i of speech tokens).

    Cost: a few passes over the products; memory of two more tiles.
    """
    text, speech = segment_ids(text_lengths), segment_ids(speech_lengths)
    best_speech = _greatest(products.T, speech, len(speech_lengths)).T  # (text tokens, items)
    rows = _mean(best_speech, text, text_lengths)
    cols = _mean(_greatest(products, text, len(text_lengths)).T, speech, speech_lengths)
    rest = _greatest(products - best_speech[:, speech], text, len(text_lengths))  # (texts, speech tokens)
    dual = rows.T + _mean(rest.T, speech, speech_lengths)
    return torch.minimum(rows.T, cols), dual
