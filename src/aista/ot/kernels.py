"""The compiled kernel: exact transport by successive shortest paths in whole numbers.

The algorithm is the Hungarian method with capacities. A dual feasible pair (u, v) is kept throughout,
``u[i] + v[j] <= C[i, j]``, and mass flows only along arcs where that is an equality. Each round takes a row
that still has mass, grows the tree of cheapest ways from it (Dijkstra over reduced costs, going back along
arcs that carry flow) until columns with room are reached, pushes mass, and raises the duals by what the tree
showed. The dual objective only rises, so a solve may stop as soon as it passes a threshold.

Costs and masses are integers: costs are rounded to about 45 bits of their range, which loses nothing that
float32 held, and then every comparison is exact, no loop can stall on rounding, and a minimum over columns is
one vector instruction. The low bits of a cost carry its column, and the next ones are kept free for the row a
distance came from, so that a minimum is also its own argument:

    cost[i, j] = level << 2 bits | j      level in [0, 2 ** (57 - 3 bits)]
    key[j]     = distance << 2 bits | row << bits | j

No integer overflows: the start leaves max v = 0 and every column on an equality arc, so v >= -max C and
u <= max C there. Columns with room keep their v, so u <= 2 max C for ever, and a full column stays on an
equality arc, so v >= -2 max C: distances stay below 6 max C, and columns that are ``gone`` are farther.

Everything here is compiled on first use (some seconds) and cached on disk.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

#: No Python objects are made inside, so no reference counts are needed: compiles faster.
BARE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
#: For functions that only compiled code calls; they are compiled with their caller.
inner = njit(**(BARE | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}))
#: The same where sums may be taken in any order.
inner_sum = njit(
    **(BARE | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "fastmath": {"reassoc", "contract"}})
)


def outer(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls; where compiled code cannot be kept on disk, it is not."""
    try:
        compiled = njit(**(BARE | {"cache": True}))(function)
    except RuntimeError as error:  # numba looks for a folder here, not when it compiles
        if "cannot cache" not in str(error):
            raise
        _say_it_is_not_kept(function.__name__)
        return njit(**BARE)(function)
    keep = compiled._cache.save_overload

    def keep_if_there_is_room(*overload: Any) -> None:
        try:
            keep(*overload)
        except OSError:
            _say_it_is_not_kept(function.__name__)

    compiled._cache.save_overload = keep_if_there_is_room
    return compiled


def _say_it_is_not_kept(name: str) -> None:
    if not uncached:
        print(
            "warning: compiled transport cannot be kept on disk here, so every process compiles anew "
            "(seconds); NUMBA_CACHE_DIR=FOLDER names a place that can be written",
            file=sys.stderr,
        )
    uncached.append(name)


uncached: list[str] = []
"""Functions whose compiled code is not kept."""


OPTIMAL, STOPPED, CAPPED, NOT_FINITE = 0, 1, 2, 3
#: Columns are padded to a multiple of this, so that loops over them have no scalar rest.
LANES = 16
NOTHING = 2**62

# Rows of the work space: what is kept for each row ...
ROW_DUAL, LEFT, CAME, SEEN = 0, 1, 2, 3
# ... and for each column of a problem.
COL_DUAL, ROOM, KEYS, OPEN_DUAL, REACH, VIA, CLOSED, NUM_GIVERS = 4, 5, 6, 7, 8, 9, 10, 11
WORK_ROWS = 12


@inner
def padded(m):
    """Columns including the padding."""
    return (m + LANES - 1) // LANES * LANES


@inner
def index_bits(n, m):
    """Bits that hold any row or column number, padding included."""
    bits = 4
    while (1 << bits) < max(n, padded(m)):
        bits += 1
    return bits


@inner
def gone(bits):
    """A dual value no column can have: it makes the column farther than any real one."""
    return -(1 << (61 - bits))  # 16 times the largest cost


@inner
def _push(flow, givers, work, source, sink):
    """Send what the way from source to sink carries; True when an arc on the way ran empty."""
    via, came, count = work[VIA], work[CAME], work[NUM_GIVERS]
    amount, narrow = min(work[LEFT, source], work[ROOM, sink]), NOTHING
    j = sink
    while via[j] != source:
        i = via[j]
        j = came[i]
        narrow = min(narrow, flow[i, j])
    amount = min(amount, narrow)
    j = sink
    while True:
        i = via[j]
        if flow[i, j] == 0:
            givers[j, count[j]] = i
            count[j] += 1
        flow[i, j] += amount
        if i == source:
            break
        j = came[i]
        flow[i, j] -= amount
        if flow[i, j] == 0:
            k = 0
            while givers[j, k] != i:
                k += 1
            count[j] -= 1
            givers[j, k] = givers[j, count[j]]
    work[LEFT, source] -= amount
    work[ROOM, sink] -= amount
    return amount == narrow


@inner
def _serve(cost, flow, givers, work, source, width, bits, dual, stop_at):
    """One tree: bring mass of row ``source`` to columns with room; returns the dual objective."""
    u, v, came, seen = work[ROW_DUAL], work[COL_DUAL], work[CAME], work[SEEN]
    keys, open_dual, reached, closed = work[KEYS], work[OPEN_DUAL], work[REACH], work[CLOSED]
    mask, away = (1 << bits) - 1, gone(bits)
    num_seen, num_closed, reach, waiting = 1, 0, 0, 0
    seen[0], came[source] = source, -2
    start, key = (source << bits) - u[source], NOTHING
    for j in range(width):
        open_dual[j] = v[j]
        keys[j] = cost[source, j] - v[j] + start
        key = min(key, keys[j])
    while True:
        column, row = np.uint32(key & mask), np.uint32((key >> bits) & mask)
        now = key >> 2 * bits << 2 * bits
        dual += float(now - reach) * (work[LEFT, source] + waiting)
        reach = now
        work[VIA, column], reached[column], open_dual[column], keys[column] = row, reach, away, NOTHING
        closed[num_closed] = column
        num_closed += 1
        if dual > stop_at:
            break
        if work[ROOM, column] > 0 and (_push(flow, givers, work, source, column) or work[LEFT, source] == 0):
            break
        key = NOTHING
        for k in range(work[NUM_GIVERS, column]):
            giver = np.uint32(givers[column, k])  # unsigned: no test for counting from the end
            if came[giver] == -1:
                came[giver] = column
                seen[num_seen] = giver
                num_seen += 1
                waiting += work[LEFT, giver]
                start, key = reach - u[giver] + (np.int64(giver) << bits), NOTHING
                for j in range(width):
                    keys[j] = min(keys[j], cost[giver, j] - open_dual[j] + start)
                    key = min(key, keys[j])
        if key == NOTHING:
            for j in range(width):
                key = min(key, keys[j])
    u[source] += reach
    came[source] = -1
    for k in range(1, num_seen):
        u[seen[k]] += reach - reached[came[seen[k]]]
        came[seen[k]] = -1
    for k in range(num_closed):
        v[closed[k]] -= reach - reached[closed[k]]
    return dual


@inner
def serve_all(cost, flow, givers, work, n, m, bits, dual, stop_at):
    """Carry a started flow to the optimum, or to a dual objective above ``stop_at``.

    Args:
        cost, flow, givers, work: Feasible duals, and a flow on equality arcs with what is left and what room.
        dual: The dual objective of these duals, in units of cost times mass. stop_at: In the same units.

    Returns:
        (outcome, dual objective reached).
    """
    rounds, cap = 0, 64 * (n + m) + 1024
    for source in range(n):
        while work[LEFT, source] > 0:
            if dual > stop_at:
                return STOPPED, dual
            if rounds == cap:
                return CAPPED, dual
            rounds += 1
            dual = _serve(cost, flow, givers, work, source, padded(m), bits, dual, stop_at)
    return OPTIMAL, dual


# ---- where the solver starts: dual potentials that are nearly right, and the flow they suggest ----
#
# A few rounds of Sinkhorn's algorithm in single precision, blurred by a fraction of the costs' own spread,
# say how much every column is in demand. Made feasible by two c-transforms, these potentials save the solver
# most of its searches, and as bounds they decide most comparisons. They need not be accurate: any finite
# potentials can be made feasible, and the solver goes from there to the optimum.

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


# ---- the loop over a batch of problems: read the costs, start, solve, certify ----

# Rows of ``edges``: what is kept of every column of a problem.
LOW, HIGH, SIZE = 0, 1, 2


@inner
def _read(costs, offset, stride, n, m, turned, real):
    """Copy one matrix into ``real``; ``turned``: its columns become rows."""
    if turned:
        for j in range(m):
            for i in range(n):
                real[i, j] = costs[offset + j * stride + i]
    else:
        for i in range(n):
            for j in range(m):
                real[i, j] = costs[offset + i * stride + j]


@inner_sum
def _row_means(real, means, n, m):
    for i in range(n):
        total = 0.0
        for j in range(m):
            total += real[i, j]
        means[i] = total / m


@inner
def _levels(real, means, edges, n, m, bits, cost, work):
    """Round costs less row means and column minima to integers; returns levels per unit (0: not finite)."""
    low, high, size = edges[LOW], edges[HIGH], edges[SIZE]
    for j in range(m):
        low[j], high[j], size[j] = np.inf, -np.inf, 0.0
    for i in range(n):
        mean = means[i]
        for j in range(m):
            x = real[i, j] - mean
            low[j] = min(low[j], x)
            high[j] = max(high[j], x)
            size[j] += abs(x)
    spread, total = 0.0, 0.0
    for j in range(m):
        spread, total = max(spread, high[j] - low[j]), total + size[j]
    if not total < 1e300:
        return 0.0
    scale = 2.0 ** (57 - 3 * bits) / spread if spread > 0 else 1.0
    if scale > 1e300:
        scale = 1e300
    for i in range(n):
        mean = means[i]
        for j in range(m):
            cost[i, j] = np.int64((real[i, j] - mean - low[j]) * scale) << 2 * bits | j
        for j in range(m, padded(m)):
            cost[i, j] = j
    for j in range(m):
        work[COL_DUAL, j] = 0
    return scale


@inner
def _certify(real, means, n, m, flow, givers, work, unit, rows, cols, us, vs):
    """Value of the plan and of a dual pair feasible on the costs as given, and the total mass."""
    value, dual, total = 0.0, 0.0, 0.0
    for j in range(m):
        vs[j] = np.inf
    for i in range(n):
        u = means[i] + work[ROW_DUAL, i] * unit
        us[i] = u
        dual += rows[i] * u
        for j in range(m):
            vs[j] = min(vs[j], real[i, j] - u)
    for j in range(m):
        dual += cols[j] * vs[j]
        total += cols[j]
        for k in range(work[NUM_GIVERS, j]):
            i = givers[j, k]
            value += flow[i, j] * real[i, j]
    return value / total, dual / total, total


@outer
def solve_range(
    cost, flow, givers, work, weights, real, means, edges,
    costs, offsets, strides, ns, ms,
    row_mass, row_start, col_mass, col_start,
    values, gaps, outcomes, plans, us, vs,
):  # fmt: skip
    """Solve the problems of a flat buffer one after another (the caller gives each thread its own range).

    Each problem is turned so that it has no more rows than columns: searches start from rows and scan
    columns.

    Args:
        cost, flow, givers, work, weights: From :func:`aista.ot.exact.scratch`. real: (rows, columns), means:
            (rows,), edges: (3, columns): float64 scratch.
        costs: (total,) float64 costs; problem k starts at ``offsets[k]``, its rows ``strides[k]`` apart.
        ns, ms: Rows and columns of each problem. row_mass, col_mass: flat integer masses, equal totals a
            problem, starting at ``row_start[k]`` and ``col_start[k]``.
        values, gaps, outcomes: (problems,) results. plans: flat, laid out as ``costs``, zeros. us, vs: flat
            potentials, laid out as the masses.
    """
    for k in range(len(ns)):
        n, m = ns[k], ms[k]
        rows, cols = row_mass[row_start[k] :], col_mass[col_start[k] :]
        row_dual, col_dual = us[row_start[k] :], vs[col_start[k] :]
        turned = n > m
        if turned:
            n, m, rows, cols, row_dual, col_dual = m, n, cols, rows, col_dual, row_dual
        bits = index_bits(n, m)
        _read(costs, offsets[k], strides[k], n, m, turned, real)
        _row_means(real, means, n, m)
        scale = _levels(real, means, edges, n, m, bits, cost, work)
        if scale == 0.0:
            values[k], gaps[k], outcomes[k] = np.nan, np.nan, NOT_FINITE
            continue
        for i in range(n):
            work[LEFT, i] = rows[i]
        for j in range(m):
            work[ROOM, j] = cols[j]
        complete_rows(cost, work, n, m, bits)
        smooth(cost, weights, work, n, m, bits)
        fill_nearest(flow, givers, work, n, m)
        outcomes[k], _ = serve_all(cost, flow, givers, work, n, m, bits, 0.0, np.inf)
        unit = 1.0 / (scale * 4.0**bits)
        values[k], dual, total = _certify(
            real, means, n, m, flow, givers, work, unit, rows, cols, row_dual, col_dual
        )
        gaps[k] = values[k] - dual
        for j in range(m):
            for c in range(work[NUM_GIVERS, j]):
                i = givers[j, c]
                place = j * strides[k] + i if turned else i * strides[k] + j
                plans[offsets[k] + place] = flow[i, j] / total
