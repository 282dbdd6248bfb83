"""The compiled kernel: exact transport by successive shortest paths in whole numbers.

The algorithm is the Hungarian method with capacities. A dual feasible pair (u, v) is kept throughout,
``u[i] + v[j] <= C[i, j]``, and mass flows only along arcs where that is an equality. Each round takes a row
that still has mass, grows the tree of cheapest ways from it (Dijkstra over reduced costs, going back along
arcs that carry flow) until columns with room are reached, pushes mass, and raises the duals by what the tree
showed. The dual objective only rises, so a solve may stop as soon as it passes a threshold.

Costs and masses are integers: costs are rounded to about 45 bits of their range, which loses nothing that
float32 held, and then every comparison is exact, no loop can stall on rounding, and a minimum over columns is
one vector instruction. The low bits of a cost are kept free to carry the row a distance came from, and a
distance shifted by the same number of bits carries its column, so that a minimum is also its own argument:

    cost      = level << bits            level in [0, 2 ** (58 - 3 bits)]
    distance  = cost + row               ways[j] = distance + v[j]
    key       = distance << bits | j

No integer overflows: while some column has room, u <= max C and v >= -max C (a column that is full is on an
equality arc), so distances stay below 4 max C.

Everything here is compiled on first use (some seconds) and cached on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: No Python objects are made inside, so no reference counts are needed: compiles faster.
BARE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
#: For functions that only compiled code calls; they are compiled with their caller.
inner = njit(**(BARE | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}))
#: For functions that Python calls.
outer = njit(**(BARE | {"cache": True}))

OPTIMAL, STOPPED, CAPPED, NOT_FINITE = 0, 1, 2, 3
#: Columns are padded to a multiple of this, so that loops over them have no scalar rest.
LANES = 16
NOTHING = 2**62

# Rows of the work space: what is kept for each row ...
ROW_DUAL, LEFT, CAME, SEEN = 0, 1, 2, 3
# ... and for each column of a problem.
COL_DUAL, ROOM, WAYS, OPEN_DUAL, REACH, VIA, CLOSED, NUM_GIVERS = 4, 5, 6, 7, 8, 9, 10, 11
WORK_ROWS = 12


def scratch(n_max: int, m_max: int) -> tuple[NDArray[np.int64], ...]:
    """Work space of one thread for problems up to (n_max, m_max): cost, flow, givers, work."""
    width = -(-m_max // LANES) * LANES
    shapes = ((n_max, width), (n_max, width), (width, n_max), (WORK_ROWS, max(n_max, width)))
    return tuple(np.empty(shape, np.int64) for shape in shapes)


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
    return -(1 << (61 - 2 * bits))


@inner
def reduce_columns_first(cost, work, n, m, bits):
    """Dual feasible start: v = column minima, u = row minima of what is left."""
    width = padded(m)
    u, v = work[ROW_DUAL], work[COL_DUAL]
    for j in range(width):
        v[j] = cost[0, j]
    for i in range(1, n):
        for j in range(width):
            v[j] = min(v[j], cost[i, j])
    for j in range(m, width):
        v[j] = gone(bits)
    for i in range(n):
        low = NOTHING
        for j in range(width):
            low = min(low, cost[i, j] - v[j])
        u[i] = low


@inner
def fill_equal_arcs(cost, flow, givers, work, n, m):
    """Start the flow: fill arcs whose cost equals the duals, row by row."""
    left, room, count = work[LEFT], work[ROOM], work[NUM_GIVERS]
    for j in range(m):
        count[j] = 0
    for i in range(n):
        work[CAME, i] = -1
        for j in range(m):
            flow[i, j] = 0
        for j in range(m):
            if cost[i, j] - work[COL_DUAL, j] == work[ROW_DUAL, i] and room[j] > 0 and left[i] > 0:
                amount = min(left[i], room[j])
                flow[i, j] = amount
                givers[j, count[j]] = i
                count[j] += 1
                left[i] -= amount
                room[j] -= amount


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
    ways, open_dual, reached, closed = work[WAYS], work[OPEN_DUAL], work[REACH], work[CLOSED]
    mask, away = (1 << bits) - 1, gone(bits)
    num_seen, num_closed, reach, waiting = 1, 0, 0, 0
    seen[0], came[source] = source, -2
    start = source - u[source]
    key = NOTHING
    for j in range(width):
        ways[j] = cost[source, j] + start
        open_dual[j] = v[j]
        key = min(key, (cost[source, j] + start - v[j]) << bits | j)
    while True:
        column, row = key & mask, (key >> bits) & mask
        now = (key >> bits) - row
        dual += float(now - reach) * (work[LEFT, source] + waiting)
        reach = now
        work[VIA, column], reached[column], open_dual[column] = row, reach, away
        closed[num_closed] = column
        num_closed += 1
        if dual > stop_at:
            break
        if work[ROOM, column] > 0 and (_push(flow, givers, work, source, column) or work[LEFT, source] == 0):
            break
        key = NOTHING
        for k in range(work[NUM_GIVERS, column]):
            row = givers[column, k]
            if came[row] == -1:
                came[row] = column
                seen[num_seen] = row
                num_seen += 1
                waiting += work[LEFT, row]
                start, key = reach - u[row] + row, NOTHING
                for j in range(width):
                    way = min(ways[j], start + cost[row, j])
                    ways[j] = way
                    key = min(key, (way - open_dual[j]) << bits | j)
        if key == NOTHING:
            for j in range(width):
                key = min(key, (ways[j] - open_dual[j]) << bits | j)
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


@inner
def _levels(costs, offset, stride, n, m, bits, cost, real, us, a):
    """Round costs less row means (into ``us``) to integers; returns levels per unit (0: not finite)."""
    for j in range(m):
        real[0, j], real[1, j], real[2, j] = np.inf, -np.inf, 0.0
    for i in range(n):
        mean = 0.0
        for j in range(m):
            mean += costs[offset + i * stride + j]
        us[a + i] = mean = mean / m
        for j in range(m):
            x = costs[offset + i * stride + j] - mean
            real[0, j] = min(real[0, j], x)
            real[1, j] = max(real[1, j], x)
            real[2, j] += abs(x)
    low, high, total = real[0, 0], real[1, 0], 0.0
    for j in range(m):
        low, high, total = min(low, real[0, j]), max(high, real[1, j]), total + real[2, j]
    if not total < 1e300:
        return 0.0
    spread = high - low
    scale = 2.0 ** (58 - 3 * bits) / spread if spread > 0 else 1.0
    if scale > 1e300:
        scale = 1e300
    for i in range(n):
        mean = us[a + i]
        for j in range(m):
            cost[i, j] = np.int64((costs[offset + i * stride + j] - mean - low) * scale) << bits
        for j in range(m, padded(m)):
            cost[i, j] = 0
    return scale


@inner
def _certify(costs, offset, stride, n, m, flow, givers, work, unit, row_mass, a, col_mass, b, us, vs):
    """Value of the plan and of a dual pair feasible on the costs as given; and the total mass."""
    value, dual, total = 0.0, 0.0, 0.0
    for j in range(m):
        vs[b + j] = np.inf
    for i in range(n):
        us[a + i] += work[ROW_DUAL, i] * unit
        u = us[a + i]
        dual += row_mass[a + i] * u
        for j in range(m):
            vs[b + j] = min(vs[b + j], costs[offset + i * stride + j] - u)
    for j in range(m):
        dual += col_mass[b + j] * vs[b + j]
        total += col_mass[b + j]
        for k in range(work[NUM_GIVERS, j]):
            i = givers[j, k]
            value += flow[i, j] * costs[offset + i * stride + j]
    return value / total, dual / total, total


@outer
def solve_range(
    cost,
    flow,
    givers,
    work,
    real,
    costs,
    offsets,
    strides,
    ns,
    ms,
    row_mass,
    row_start,
    col_mass,
    col_start,
    values,
    gaps,
    outcomes,
    plans,
    us,
    vs,
):
    """Solve the problems of a flat buffer one after another (the caller gives each thread its own range).

    Args:
        cost, flow, givers, work: From :func:`scratch`. real: (3, columns) float64 scratch.
        costs: (total,) float64 costs; problem k starts at ``offsets[k]``, its rows ``strides[k]`` apart.
        ns, ms: Rows and columns of each problem. row_mass, col_mass: flat integer masses, equal totals a
            problem, starting at ``row_start[k]`` and ``col_start[k]``.
        values, gaps, outcomes: (problems,) results. plans: flat, laid out as ``costs``, or empty for none.
        us, vs: flat potentials, laid out as the masses.
    """
    for k in range(len(ns)):
        n, m, a, b = ns[k], ms[k], row_start[k], col_start[k]
        bits = index_bits(n, m)
        scale = _levels(costs, offsets[k], strides[k], n, m, bits, cost, real, us, a)
        if scale == 0.0:
            values[k], gaps[k], outcomes[k] = np.nan, np.nan, NOT_FINITE
            continue
        for i in range(n):
            work[LEFT, i] = row_mass[a + i]
        for j in range(m):
            work[ROOM, j] = col_mass[b + j]
        reduce_columns_first(cost, work, n, m, bits)
        fill_equal_arcs(cost, flow, givers, work, n, m)
        outcomes[k], _ = serve_all(cost, flow, givers, work, n, m, bits, 0.0, np.inf)
        unit = 1.0 / (scale * 2.0**bits)
        values[k], dual, total = _certify(
            costs, offsets[k], strides[k], n, m, flow, givers, work, unit, row_mass, a, col_mass, b, us, vs
        )
        gaps[k] = values[k] - dual
        if len(plans) > 0:
            for i in range(n):
                for j in range(m):
                    plans[offsets[k] + i * strides[k] + j] = flow[i, j] / total
