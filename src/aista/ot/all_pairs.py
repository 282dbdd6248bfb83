"""Exact transport distances of every cloud of one set to every cloud of another, with their gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from aista.errors import TransportError
from aista.ot.cost import squared_euclidean
from aista.ot.exact import RawSolutions, solve, solve_flat, uniform_masses


def all_distances(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, *, threads: int = 0) -> Tensor:
    """Exact transport distance of every cloud of x to every cloud of y: squared cost, uniform masses.

    Args:
        x: (B, N, d) any float type, on any device. x_mask: (B, N) bool, True = real token.
        y: (C, M, d). y_mask: (C, M).
        threads: CPU threads for the solver; 0 = torch's number.

    Returns:
        (B, C) float32 (float64 if the states are).

    Raises:
        TransportError: A cloud has no real token, or real tokens are not finite.

    Equation: 1. Gradient: envelope theorem, the plans are constants, dW/dx_i = 2 (a_i x_i - sum_j Z_ij y_j);
        none into y.
    Cost: on the real tokens alone, n of x and m of y in all: two products of 2 n m d operations, B C solves,
        memory n m.
    """
    threads = threads or torch.get_num_threads()
    with torch.autocast(x.device.type, enabled=False):
        return _AllTransports.apply(x, x_mask, y.detach(), y_mask, threads)


class _AllTransports(torch.autograd.Function):
    """Distances forward, envelope gradient backward; everything lies in one (n, m) matrix of all tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, threads: int) -> Tensor:
        rows, cols = x[x_mask], y[y_mask]
        lengths = [mask.sum(1) for mask in (x_mask, y_mask)]
        cost = squared_euclidean(rows, cols)
        values, plans = _solve_blocks(cost, lengths[0].tolist(), lengths[1].tolist(), threads)
        ctx.save_for_backward(rows, cols, x_mask, *lengths, plans)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, cols, x_mask, x_lengths, y_lengths, plans = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            weight = grad.to(plans.dtype).repeat_interleave(x_lengths, 0).repeat_interleave(y_lengths, 1)
            weight = weight * plans
            y = cols.to(plans.dtype)
            # Both sides minus one point of y: the same difference, without its common offset.
            centre = y.mean(0)
            slope = weight.sum(1, keepdim=True) * (rows.to(plans.dtype) - centre) - weight @ (y - centre)
            back = slope.new_zeros(*x_mask.shape, slope.shape[-1])
            back[x_mask] = 2.0 * slope
        return back.to(rows.dtype), None, None, None, None


def _solve_blocks(
    cost: Tensor, row_lengths: list[int], col_lengths: list[int], threads: int
) -> tuple[Tensor, Tensor]:
    """Solve every block of a (n, m) cost matrix: values (B, C) and the plans, laid out as the costs."""
    if not row_lengths or not col_lengths or min(row_lengths) < 1 or min(col_lengths) < 1:
        raise TransportError(
            "a cloud has no real token",
            got=f"lengths {row_lengths} and {col_lengths}",
            advice="drop pairs without speech tokens or transcript from the alignment loss",
        )
    host = cost.cpu().numpy()
    ns, ms = np.array(row_lengths, dtype=np.int64), np.array(col_lengths, dtype=np.int64)
    tops, lefts = np.cumsum(ns) - ns, np.cumsum(ms) - ms
    offsets = (tops[:, None] * host.shape[1] + lefts[None]).ravel()
    sizes = np.stack([np.repeat(ns, len(ms)), np.tile(ms, len(ns))], 1)
    strides = np.full(len(sizes), host.shape[1], dtype=np.int64)
    masses = uniform_masses(sizes)
    raw = solve_flat(host.ravel(), offsets, strides, sizes, masses, threads=threads)
    if np.isnan(raw.values).any():
        row, col = divmod(int(np.isnan(raw.values).argmax()), len(ms))
        raise TransportError(
            f"clouds {row} and {col} have NaN or infinite distances",
            advice="lower the learning rate or look at the last gradient norm; avoid float16 hidden states",
        )
    plans = raw.plans.reshape(host.shape)
    _finish_capped(raw, host, plans, np.repeat(tops, len(ms)), np.tile(lefts, len(ns)), sizes)
    values = torch.from_numpy(raw.values.reshape(len(ns), len(ms))).to(cost.device, cost.dtype)
    return values, torch.from_numpy(plans).to(cost.device, cost.dtype)


def _finish_capped(
    raw: RawSolutions,
    host: np.ndarray,
    plans: np.ndarray,
    tops: np.ndarray,
    lefts: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Answer, by the solver that has a fallback, what the fast one left after its cap of searches."""
    from aista.ot.kernels import CAPPED

    for k in np.flatnonzero(raw.outcomes == CAPPED):
        (n, m), top, left = sizes[k], tops[k], lefts[k]
        block = np.s_[top : top + n, left : left + m]
        solution = solve(host[block])
        raw.values[k], plans[block] = solution.value, solution.plan


def max_similarities(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """Mean over the tokens of y of the largest inner product with a token of x, for all pairs of clouds.

    Args:
        x: (B, N, d), x_mask: (B, N) bool. y: (C, M, d), y_mask: (C, M) bool.

    Returns:
        (B, C). Gradient: as written. Cost: on real tokens alone, as :func:`all_distances` without the solves.

    Source: Khattab and Zaharia 2020 (MaxSim).
    """
    lengths = x_mask.sum(1), y_mask.sum(1)
    products = x[x_mask] @ y[y_mask].T
    owner = torch.arange(len(x), device=x.device).repeat_interleave(lengths[0])
    best = products.new_full((len(x), products.shape[1]), float("-inf"))
    best = best.scatter_reduce(0, owner[:, None].expand_as(products), products, "amax")
    column = torch.arange(len(y), device=x.device).repeat_interleave(lengths[1])
    totals = best.new_zeros(len(x), len(y)).index_add(1, column, best)
    return totals / lengths[1]
