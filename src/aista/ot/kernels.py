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

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: No Python objects are made inside, so no reference counts are needed: compiles faster.
BARE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
#: For functions that only compiled code calls; they are compiled with their caller.
inner = njit(**(BARE | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}))
#: The same where sums may be taken in any order.
inner_sum = njit(
    **(BARE | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "fastmath": {"reassoc", "contract"}})
)
#: For functions that Python calls.
outer = njit(**(BARE | {"cache": True}))

OPTIMAL, STOPPED, CAPPED, NOT_FINITE = 0, 1, 2, 3
#: Columns are padded to a multiple of this, so that loops over them have no scalar rest.
LANES = 16
NOTHING = 2**62

# Rows of the work space: what is kept for each row ...
ROW_DUAL, LEFT, CAME, SEEN = 0, 1, 2, 3
# ... and for each column of a problem.
COL_DUAL, ROOM, KEYS, OPEN_DUAL, REACH, VIA, CLOSED, NUM_GIVERS = 4, 5, 6, 7, 8, 9, 10, 11
WORK_ROWS = 12


def scratch(n_max: int, m_max: int) -> tuple[NDArray[Any], ...]:
    """Work space of one thread for problems up to (n_max, m_max): cost, flow, givers, work, weights."""
    width = -(-m_max // LANES) * LANES
    shapes = ((n_max, width), (n_max, width), (width, n_max), (WORK_ROWS, max(n_max, width)))
    whole = (np.empty(shape, np.int64) for shape in shapes)
    return *whole, np.empty((n_max + 2, width), np.float32)


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
