"""The compiled kernel: exact transport by successive shortest paths on integer masses.

The algorithm is the Hungarian method with capacities. A dual feasible pair (u, v) is kept throughout
(``u[i] + v[j] <= C[i, j]``); mass flows only along arcs where that is an equality. Each step takes a row that still
has mass, finds the cheapest way to a column that still has room (Dijkstra over reduced costs, going back along arcs
that carry flow), raises the duals by what it learned and pushes as much mass as the way allows. Masses are integers,
so a flow that is spent is exactly zero and the loop ends; the dual only rises, so it may be stopped as soon as it
passes a threshold.

Everything here is compiled on first use (a few seconds) and cached on disk.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Larger than any distance inside the kernel; finite, so that no arithmetic meets an infinity.
FAR = 1e300

OPTIMAL, CAPPED, NOT_FINITE = 0, 1, 2


@njit(cache=True, nogil=True, boundscheck=False)
def _dijkstra(cost, m, source, u, v, room, rows_at, num_rows_at, dist, open_cols, via, done, came, seen):
    """Grow the tree of cheapest ways from row ``source`` until a column with room is reached.

    Returns (sink column, its distance, number of finished columns, number of visited rows).
    """
    for j in range(m):
        dist[j] = cost[source, j] - v[j] - u[source]
        via[j] = source
        open_cols[j] = j
    num_open, num_done, num_seen = m, 0, 1
    seen[0] = source
    while True:
        best, place = FAR, 0
        for k in range(num_open):
            if dist[open_cols[k]] < best:
                best = dist[open_cols[k]]
                place = k
        column = open_cols[place]
        if room[column] > 0:
            return column, best, num_done, num_seen
        num_open -= 1
        open_cols[place] = open_cols[num_open]
        done[num_done] = column
        num_done += 1
        for k in range(num_rows_at[column]):
            row = rows_at[column, k]
            if row == source or came[row] >= 0:
                continue
            came[row] = column
            seen[num_seen] = row
            num_seen += 1
            base = best - u[row]
            for q in range(num_open):
                j = open_cols[q]
                new = base + cost[row, j] - v[j]
                if new < dist[j]:
                    dist[j] = new
                    via[j] = row
        if num_open == 0:
            return -1, best, num_done, num_seen


@njit(cache=True, nogil=True, boundscheck=False)
def _push(source, sink, left, room, flow, rows_at, num_rows_at, via, came):
    """Send as much as possible along the way found; returns the amount."""
    amount = min(left[source], room[sink])
    column = sink
    while via[column] != source:
        row = via[column]
        column = came[row]
        amount = min(amount, flow[row, column])
    column = sink
    while True:
        row = via[column]
        if flow[row, column] == 0:
            rows_at[column, num_rows_at[column]] = row
            num_rows_at[column] += 1
        flow[row, column] += amount
        if row == source:
            break
        column = came[row]
        flow[row, column] -= amount
        if flow[row, column] == 0:
            k = 0
            while rows_at[column, k] != row:
                k += 1
            num_rows_at[column] -= 1
            rows_at[column, k] = rows_at[column, num_rows_at[column]]
    left[source] -= amount
    room[sink] -= amount
    return amount


@njit(cache=True, nogil=True, boundscheck=False)
def _reduce(cost, n, m, u, v):
    """A first dual feasible pair: v = column minima, then u = row minima of what is left."""
    for j in range(m):
        v[j] = cost[0, j]
    for i in range(1, n):
        for j in range(m):
            v[j] = min(v[j], cost[i, j])
    for i in range(n):
        low = cost[i, 0] - v[0]
        for j in range(1, m):
            low = min(low, cost[i, j] - v[j])
        u[i] = low


@njit(cache=True, nogil=True, boundscheck=False)
def _first_flow(cost, n, m, u, v, left, room, flow, rows_at, num_rows_at):
    """Fill arcs of zero reduced cost greedily."""
    for i in range(n):
        for j in range(m):
            if room[j] > 0 and cost[i, j] - v[j] - u[i] <= 0.0:
                amount = min(left[i], room[j])
                flow[i, j] = amount
                rows_at[j, num_rows_at[j]] = i
                num_rows_at[j] += 1
                left[i] -= amount
                room[j] -= amount
                if left[i] == 0:
                    break


@njit(cache=True, nogil=True, boundscheck=False)
def successive_paths(cost, n, m, left, room, u, v, flow, rows_at, num_rows_at, work, places, stop_at):
    """Solve one problem in place.

    Args:
        cost: (>= n, >= m) finite costs.
        left, room: integer masses of rows and columns, equal totals; both are zero at the end of a full solve.
        u, v: filled with the dual potentials. flow: filled with the integer plan.
        rows_at, num_rows_at, work, places: scratch.
        stop_at: Give up as soon as the dual objective (in integer mass units) exceeds this.

    Returns:
        (outcome, dual objective reached).
    """
    dist, open_cols, via, done, came, seen = work, places[0], places[1], places[2], places[3], places[4]
    flow[:n, :m] = 0
    num_rows_at[:m] = 0
    came[:n] = -1
    _reduce(cost, n, m, u, v)
    dual = 0.0
    for i in range(n):
        dual += left[i] * u[i]
    for j in range(m):
        dual += room[j] * v[j]
    if dual > stop_at:
        return OPTIMAL, dual
    _first_flow(cost, n, m, u, v, left, room, flow, rows_at, num_rows_at)
    steps, cap = 0, 64 * (n + m) + 256
    for source in range(n):
        while left[source] > 0:
            sink, reach, num_done, num_seen = _dijkstra(
                cost, m, source, u, v, room, rows_at, num_rows_at, dist, open_cols, via, done, came, seen
            )
            steps += 1
            if sink < 0 or steps > cap:
                return CAPPED, dual
            dual += reach * left[source]
            u[source] += reach
            for k in range(1, num_seen):
                row = seen[k]
                u[row] += reach - dist[came[row]]
            for k in range(num_done):
                v[done[k]] -= reach - dist[done[k]]
            if dual > stop_at:
                return OPTIMAL, dual
            _push(source, sink, left, room, flow, rows_at, num_rows_at, via, came)
            for k in range(1, num_seen):
                came[seen[k]] = -1
    return OPTIMAL, dual


@njit(cache=True, nogil=True, boundscheck=False)
def _load(costs, offset, stride, n, m, cost):
    """Copy one problem into scratch; False when something in it is not finite."""
    total = 0.0
    for i in range(n):
        for j in range(m):
            x = costs[offset + i * stride + j]
            cost[i, j] = x
            total += abs(x)
    return total < FAR


@njit(cache=True, nogil=True, boundscheck=False)
def _objective(cost, n, m, flow, total):
    """Sum of cost times plan, in float64."""
    value = 0.0
    for i in range(n):
        for j in range(m):
            if flow[i, j] > 0:
                value += flow[i, j] * cost[i, j]
    return value / total


@njit(cache=True, nogil=True, boundscheck=False)
def _certified_dual(cost, n, m, u, v, row_mass, col_mass, total):
    """Make (u, v) exactly feasible by one c-transform and return its dual objective, a lower bound."""
    dual = 0.0
    for i in range(n):
        low = cost[i, 0] - v[0]
        for j in range(1, m):
            low = min(low, cost[i, j] - v[j])
        u[i] = low
        dual += row_mass[i] * low
    for j in range(m):
        dual += col_mass[j] * v[j]
    return dual / total


@njit(cache=True, nogil=True, boundscheck=False)
def solve_range(
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
        costs: (total,) flat costs; problem k starts at ``offsets[k]`` and its rows lie ``strides[k]`` apart.
        ns, ms: Rows and columns of each problem. row_mass, col_mass: flat integer masses, equal totals a problem,
            starting at ``row_start[k]`` and ``col_start[k]``.
        values, gaps, outcomes: (problems,) results. plans: flat, laid out as ``costs``, or empty for none.
        us, vs: flat potentials, laid out as the masses.
    """
    if len(ns) == 0:
        return
    n_max, m_max = max(ns.max(), 1), max(ms.max(), 1)
    cost = np.empty((n_max, m_max), np.float64)
    flow = np.empty((n_max, m_max), np.int64)
    rows_at = np.empty((m_max, n_max), np.int64)
    num_rows_at = np.empty(m_max, np.int64)
    work = np.empty(m_max, np.float64)
    places = np.empty((5, max(n_max, m_max) + 1), np.int64)
    left, room = np.empty(n_max, np.int64), np.empty(m_max, np.int64)
    for k in range(len(ns)):
        n, m, a, b = ns[k], ms[k], row_start[k], col_start[k]
        if not _load(costs, offsets[k], strides[k], n, m, cost):
            values[k], gaps[k], outcomes[k] = np.nan, np.nan, NOT_FINITE
            continue
        left[:n] = row_mass[a : a + n]
        room[:m] = col_mass[b : b + m]
        total = float(left[:n].sum())
        u, v = us[a : a + n], vs[b : b + m]
        outcome, _ = successive_paths(
            cost, n, m, left, room, u, v, flow, rows_at, num_rows_at, work, places, FAR
        )
        values[k] = _objective(cost, n, m, flow, total)
        dual = _certified_dual(cost, n, m, u, v, row_mass[a : a + n], col_mass[b : b + m], total)
        gaps[k], outcomes[k] = values[k] - dual, outcome
        if len(plans) > 0:
            for i in range(n):
                start = offsets[k] + i * strides[k]
                for j in range(m):
                    plans[start + j] = flow[i, j] / total
