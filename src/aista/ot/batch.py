"""The compiled loop over a batch of problems: read the costs, start, solve, certify."""

from __future__ import annotations

import numpy as np

from aista.ot.kernels import (
    COL_DUAL,
    LEFT,
    NOT_FINITE,
    NUM_GIVERS,
    ROOM,
    ROW_DUAL,
    index_bits,
    inner,
    inner_sum,
    outer,
    padded,
    serve_all,
)
from aista.ot.start import complete_rows, fill_nearest, smooth

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


@inner
def _write(plans, offset, stride, m, turned, flow, givers, work, total):
    for j in range(m):
        for k in range(work[NUM_GIVERS, j]):
            i = givers[j, k]
            place = j * stride + i if turned else i * stride + j
            plans[offset + place] = flow[i, j] / total


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
        cost, flow, givers, work, weights: From :func:`kernels.scratch`. real: (rows, columns), means:
            (rows,), edges: (3, columns): float64 scratch.
        costs: (total,) float64 costs; problem k starts at ``offsets[k]``, its rows ``strides[k]`` apart.
        ns, ms: Rows and columns of each problem. row_mass, col_mass: flat integer masses, equal totals a
            problem, starting at ``row_start[k]`` and ``col_start[k]``.
        values, gaps, outcomes: (problems,) results. plans: flat, laid out as ``costs``, zeros; or empty for
        none. us, vs: flat potentials, laid out as the masses.
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
        if len(plans) > 0:
            _write(plans, offsets[k], strides[k], m, turned, flow, givers, work, total)
