"""Who is nearer? Certified bounds on many transport values, cheapest first, stopping as soon as one decides.

For the pair (speech item s, text item t) only the sign of W(s, t) - threshold is asked for. With X centred on
its own mean and Y on any common point, both uniform,

    W(s, t) = P_s + Q_t + |mean s - mean t|^2 + 2 min_Z <Z, -X Y'>,   P_s = mean |x - mean s|^2, Q_t likewise,

so only the products G = X Y' are needed, and the question becomes whether min_Z <Z, cap - G> passes a number
k. The stages, for the integer costs K = round((cap - G) * scale):

    relaxed    max(mean_i min_j K, mean_j min_i K) is a lower bound: every token goes to its nearest
    dual       u_i = min_j K, v_j = min_i (K - u_i): sum of means is a lower bound (and the other way round)
    greedy     any plan is an upper bound: fill arcs in the order of their reduced cost
    stopped    the exact solver's dual objective rises from bound to bound: stop when it passes k
    solved     the exact value

``slack`` covers everything by which K may be wrong (float32 products, rounding); what lies within it stays
undecided and is recomputed in float64 by the caller.
"""

from __future__ import annotations

import numpy as np

from aista.ot.kernels import (
    CLOSED,
    COL_DUAL,
    LEFT,
    NOTHING,
    ROOM,
    ROW_DUAL,
    STOPPED,
    fill_equal_arcs,
    gone,
    index_bits,
    inner,
    outer,
    padded,
    reduce_columns_first,
    serve_all,
)

#: Verdicts on a pair: farther than the threshold, nearer, or within the slack of it.
FARTHER, NEARER, UNDECIDED, SKIPPED = -1, 1, 0, 2
#: Stages, in the order of ``counts``.
STAGES = ("relaxed", "dual", "greedy", "stopped", "solved", "undecided", "same_text")


@inner
def _load_products(products, row, col, n, m, cap, scale, bits, cost):
    """cost = (cap - G) * scale, in whole levels."""
    for i in range(n):
        for j in range(m):
            cost[i, j] = np.int64((cap - products[row + i, col + j]) * scale) << bits
        for j in range(m, padded(m)):
            cost[i, j] = 1 << (58 - 2 * bits)


@inner
def _relaxed(cost, work, n, m):
    """Row minima into ROW_DUAL, column minima into COL_DUAL; returns their sums."""
    width = padded(m)
    u, v = work[ROW_DUAL], work[COL_DUAL]
    for j in range(width):
        v[j] = NOTHING
    rows, cols = 0, 0
    for i in range(n):
        low = NOTHING
        for j in range(width):
            low = min(low, cost[i, j])
            v[j] = min(v[j], cost[i, j])
        u[i] = low
        rows += low
    for j in range(m):
        cols += v[j]
    return rows, cols


@inner
def _rows_first(cost, work, n, m, bits):
    """Complete row minima to a dual pair, v = min_i (K - u); returns the sum of v."""
    width = padded(m)
    u, v = work[ROW_DUAL], work[COL_DUAL]
    for j in range(width):
        v[j] = NOTHING
    for i in range(n):
        low = u[i]
        for j in range(width):
            v[j] = min(v[j], cost[i, j] - low)
    total = 0
    for j in range(m):
        total += v[j]
    for j in range(m, width):
        v[j] = gone(bits)
    return total


@inner
def _greedy(cost, flow, work, n, m):
    """Complete the started flow anyhow (cheapest reduced cost first, row by row); returns its cost.

    The flow and the masses are left as they were.
    """
    value = 0.0
    for i in range(n):
        for j in range(m):
            if flow[i, j] > 0:
                value += float(flow[i, j]) * cost[i, j]
    free = work[CLOSED]  # idle until the solver runs
    for j in range(m):
        free[j] = work[ROOM, j]
    for i in range(n):
        rest = work[LEFT, i]
        while rest > 0:
            best, place = NOTHING, 0
            for j in range(m):
                reduced = cost[i, j] - work[COL_DUAL, j]
                if free[j] > 0 and reduced < best:
                    best, place = reduced, j
            amount = min(rest, free[place])
            free[place] -= amount
            rest -= amount
            value += float(amount) * cost[i, place]
    return value


@inner
def _judge(cost, flow, givers, work, n, m, bits, row_mass, col_mass, low, high):
    """(verdict, stage) on min <Z, K> against the band [low, high], in units of cost times mass."""
    rows, cols = _relaxed(cost, work, n, m)
    if max(float(rows) * row_mass, float(cols) * col_mass) > high:
        return FARTHER, 0
    rest = _rows_first(cost, work, n, m, bits)
    dual = float(rows) * row_mass + float(rest) * col_mass
    if dual > high:
        return FARTHER, 1
    reduce_columns_first(cost, work, n, m, bits)
    rows = 0
    for i in range(n):
        rows += work[ROW_DUAL, i]
    other = float(rows) * row_mass + float(cols) * col_mass
    if other > high:
        return FARTHER, 1
    if dual > other:
        for i in range(n):
            least = NOTHING
            for j in range(m):
                least = min(least, cost[i, j])
            work[ROW_DUAL, i] = least
        _rows_first(cost, work, n, m, bits)
        other = dual
    for i in range(n):
        work[LEFT, i] = row_mass
    for j in range(m):
        work[ROOM, j] = col_mass
    fill_equal_arcs(cost, flow, givers, work, n, m)
    if _greedy(cost, flow, work, n, m) < low:
        return NEARER, 2
    outcome, dual = serve_all(cost, flow, givers, work, n, m, bits, other, high)
    if outcome == STOPPED or dual > high:
        return FARTHER, 3
    if outcome == 0 and dual < low:
        return NEARER, 4
    return UNDECIDED, 5


@outer
def judge_tile(
    cost, flow, givers, work, products, rows, cols, row_at, col_at, row_text, col_text,
    caps_row, caps_col, targets, slacks_row, slacks_col, first, last, verdicts, counts,
):  # fmt: skip
    """Judge the pairs of a tile of products, rows ``first`` to ``last``.

    Args:
        cost, flow, givers, work: From ``kernels.scratch``.
        products: (speech tokens, text tokens) float32 inner products.
        rows, cols: Number of tokens of each speech and text item of the tile; row_at, col_at: where they
            begin.
        row_text, col_text: Text identities; equal ones are not compared.
        caps_row, caps_col: |G| <= cap_row * cap_col. targets: (items, texts) float64: nearer means
            max <Z, G> > target. slacks_row, slacks_col: error of <Z, G> <= slack_row * slack_col.
        verdicts: (items, texts) int8, filled. counts: (stages,) int64, added to.
    """
    for p in range(first, last):
        for q in range(len(cols)):
            if row_text[p] == col_text[q]:
                verdicts[p, q] = SKIPPED
                counts[6] += 1
                continue
            n, m = rows[p], cols[q]
            a, b = n, m
            while b > 0:
                a, b = b, a % b
            bits = index_bits(n, m)
            cap = caps_row[p] * caps_col[q]
            scale = 2.0 ** (57 - 3 * bits) / max(cap, 1e-300)
            _load_products(products, row_at[p], col_at[q], n, m, cap, scale, bits, cost)
            mass = float(n) * float(m // a) * scale * 2.0**bits
            slack = slacks_row[p] * slacks_col[q] + 4.0 / scale
            middle = cap - targets[p, q]
            verdict, stage = _judge(
                cost,
                flow,
                givers,
                work,
                n,
                m,
                bits,
                m // a,
                n // a,
                (middle - slack) * mass,
                (middle + slack) * mass,
            )
            verdicts[p, q] = verdict
            counts[stage] += 1
