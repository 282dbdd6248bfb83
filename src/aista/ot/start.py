"""Where the exact solver starts: dual potentials that are nearly right, and the flow they suggest.

A few rounds of Sinkhorn's algorithm in single precision, blurred by a fraction of the costs' own spread, say
how much every column is in demand. Made feasible by two c-transforms, these potentials save the solver most
of its searches, and as bounds they decide most comparisons. They need not be accurate: any finite potentials
can be made feasible, and the solver goes from there to the optimum.
"""

from __future__ import annotations

import math

import numpy as np

from aista.ot.kernels import (
    CAME,
    COL_DUAL,
    LEFT,
    NOTHING,
    NUM_GIVERS,
    ROOM,
    ROW_DUAL,
    SEEN,
    VIA,
    gone,
    inner,
    inner_sum,
    padded,
)

#: Entropy weight of the smoothing, relative to the mean reduced cost; and how many rounds.
BLUR, ROUNDS = np.float32(0.12), 5
#: Weights below exp(-FLOOR) are raised to it, so that nothing overflows.
FLOOR = np.float32(40.0)
# exp(x) as the bits of a float: x / log 2 shifted into the exponent, wrong by at most 4 % (Schraudolph 1999).
EXP_SLOPE, EXP_BASE = np.float32(2**23 / math.log(2)), np.float32(127 * 2**23 - 486411)


@inner
def complete_rows(cost, work, n, m, bits):
    """u = row minima of the costs less v; SEEN = the column of each minimum; returns the sum of u."""
    width, mask = padded(m), (1 << bits) - 1
    u, v, nearest = work[ROW_DUAL], work[COL_DUAL], work[SEEN]
    for j in range(m, width):
        v[j] = gone(bits)
    total = 0
    for i in range(n):
        key = NOTHING
        for j in range(width):
            key = min(key, cost[i, j] - v[j])
        nearest[i] = key & mask
        u[i] = key - nearest[i]
        total += u[i]
    return total


@inner
def complete_columns(cost, work, n, m, bits):
    """v = column minima of the costs less u; VIA = the row of each minimum; returns the sum of v."""
    width, mask = padded(m), (1 << bits) - 1
    u, v, nearest = work[ROW_DUAL], work[COL_DUAL], work[VIA]
    for j in range(width):
        v[j] = NOTHING
    for i in range(n):
        start = (i << bits) - u[i]
        for j in range(width):
            v[j] = min(v[j], cost[i, j] + start)
    total = 0
    for j in range(width):
        nearest[j] = v[j] >> bits & mask
        v[j] = v[j] >> 2 * bits << 2 * bits
    for j in range(m):
        total += v[j]
    for j in range(m, width):
        v[j] = gone(bits)
    return total


@inner_sum
def _weights(cost, weights, work, n, m, bits):
    """exp(-(cost - u - v) / blur), padding 0; returns the blur (0: the reduced costs are all 0)."""
    u, v, total = work[ROW_DUAL], work[COL_DUAL], 0.0
    for i in range(n):
        low = u[i]
        for j in range(m):
            total += float((cost[i, j] - low - v[j]) >> 2 * bits)
    if total == 0.0:
        return np.float32(0.0)
    blur = BLUR * np.float32(total / (n * m))
    slope = -np.float32(1.0) / blur
    for i in range(n):
        low = u[i]
        for j in range(m):
            x = max(np.float32((cost[i, j] - low - v[j]) >> 2 * bits) * slope, -FLOOR)
            weights[i, j] = np.int32(x * EXP_SLOPE + EXP_BASE).view(np.float32)
        for j in range(m, padded(m)):
            weights[i, j] = np.float32(0.0)
    return blur


@inner_sum
def _balance(weights, work, n, m):
    """ROUNDS of Sinkhorn's algorithm; the scaling of the columns is left in row ``n`` of the weights."""
    width, one = padded(m), np.float32(1.0)
    scaling, received = weights[n], weights[n + 1]
    for j in range(width):
        scaling[j] = one
    for _ in range(ROUNDS):
        for j in range(width):
            received[j] = np.float32(0.0)
        for i in range(n):
            total = np.float32(0.0)
            for j in range(width):
                total += weights[i, j] * scaling[j]
            row = np.float32(max(work[LEFT, i], 1)) / total
            for j in range(width):
                received[j] += row * weights[i, j]
        for j in range(m):
            scaling[j] = np.float32(max(work[ROOM, j], 1)) / received[j]


@inner
def smooth(cost, weights, work, n, m, bits):
    """Better duals from feasible ones; returns the sums of u and v. Masses are in LEFT and ROOM.

    Afterwards every row and column has an equality arc (SEEN, VIA), and the largest v is 0.
    """
    v = work[COL_DUAL]
    blur = _weights(cost, weights, work, n, m, bits)
    if blur > 0.0:
        _balance(weights, work, n, m)
        for j in range(m):
            x = weights[n, j]
            if 1e-30 < x < 1e30:
                v[j] += np.int64(blur * math.log(x)) << 2 * bits
    complete_rows(cost, work, n, m, bits)
    complete_columns(cost, work, n, m, bits)
    top = v[0]
    for j in range(m):
        top = max(top, v[j])
    rows, cols = 0, 0
    for i in range(n):
        work[ROW_DUAL, i] += top
        rows += work[ROW_DUAL, i]
    for j in range(m):
        v[j] -= top
        cols += v[j]
    return rows, cols


@inner
def _fill(flow, givers, work, i, j):
    amount = min(work[LEFT, i], work[ROOM, j])
    if amount > 0:
        flow[i, j] = amount
        givers[j, work[NUM_GIVERS, j]] = i
        work[NUM_GIVERS, j] += 1
        work[LEFT, i] -= amount
        work[ROOM, j] -= amount


@inner
def fill_nearest(flow, givers, work, n, m):
    """Start the flow on the equality arcs that :func:`smooth` left in SEEN and VIA."""
    for j in range(m):
        work[NUM_GIVERS, j] = 0
    for i in range(n):
        work[CAME, i] = -1
        for j in range(padded(m)):
            flow[i, j] = 0
    for i in range(n):
        _fill(flow, givers, work, i, work[SEEN, i])
    for j in range(m):
        _fill(flow, givers, work, work[VIA, j], j)
