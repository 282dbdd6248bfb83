"""Batched solvers of other packages, for ``benchmarks/transport.py``: those that are installed.

None of them is exact on a ragged batch, so the error stands beside the time. Problems are sorted by size and
padded in batches of 32 with mass zero; each solver gets float32 and its own stopping rule.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

BATCH = 32
Padded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def padded(costs: list[np.ndarray]) -> Iterator[tuple[list[int], Padded]]:
    """Batches of similar sizes: which problems, and (B, N, M) costs with their masses (B, N) and (B, M)."""
    order = sorted(range(len(costs)), key=lambda k: costs[k].shape)
    for first in range(0, len(order), BATCH):
        part = order[first : first + BATCH]
        n, m = np.array([costs[k].shape for k in part]).max(0)
        cost, a, b = torch.zeros(len(part), n, m), torch.zeros(len(part), n), torch.zeros(len(part), m)
        for row, k in enumerate(part):
            i, j = costs[k].shape
            cost[row, :i, :j] = torch.from_numpy(costs[k])
            a[row, :i], b[row, :j] = 1 / i, 1 / j
        yield part, (cost, a, b)


def pot_batch(epsilon: float | None) -> Callable[..., np.ndarray]:
    """``ot.batch.solve_batch``: None is its proximal method, its only one that aims at the exact value."""
    import ot

    def solve(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        mean = float((cost * a[:, :, None] * b[:, None, :]).sum((1, 2)).mean())
        reg = None if epsilon is None else epsilon * mean
        plan = ot.batch.solve_batch(cost, reg=reg, a=a, b=b).plan
        return (plan * cost).nansum((1, 2)).numpy()

    return solve


def ott(epsilon: float) -> Callable[..., np.ndarray]:
    """OTT-JAX: jitted and vmapped Sinkhorn, threshold 1e-3."""
    import jax
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    def one(cost: Any, a: Any, b: Any, mean: Any) -> Any:
        problem = linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=epsilon * mean), a, b)
        plan = sinkhorn.Sinkhorn(threshold=1e-3, max_iterations=5000)(problem).matrix
        return (plan * cost).sum()

    compiled = jax.jit(jax.vmap(one))

    def solve(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        mean = (cost * a[:, :, None] * b[:, None, :]).sum((1, 2))
        return np.asarray(compiled(*(x.numpy() for x in (cost, a, b, mean))))

    return solve


def geomloss(scaling: float) -> Callable[..., np.ndarray]:
    """``geomloss.sinkhorn_tensorized`` with the settings of prior work; it takes points, not costs."""
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=scaling, debias=False, backend="tensorized")

    def solve(x: torch.Tensor, a: torch.Tensor, y: torch.Tensor, b: torch.Tensor) -> np.ndarray:
        return 2.0 * loss(a, x, b, y).numpy()  # its cost is half the squared distance

    return solve


def rivals(
    costs: list[np.ndarray],
    clouds: list[tuple[torch.Tensor, torch.Tensor]],
    wanted: np.ndarray,
    seconds: Callable[[Callable[[], object]], float],
) -> list[dict]:
    """Microseconds a problem and mean relative error of the value."""
    # Its proximal method answers NaN where masses are zero: some problems, one by one.
    alone = [([k], tensors) for k in range(16) for _, tensors in padded(costs[k : k + 1])]
    rows = [_row("ot.batch.solve_batch(reg=None), no padding", pot_batch(None), alone, wanted, seconds)]
    solvers: dict[str, Callable[..., np.ndarray]] = {}
    for epsilon in (0.1, 0.01):
        solvers[f"ot.batch.solve_batch, reg {epsilon} of the mean cost"] = pot_batch(epsilon)
        if importlib.util.find_spec("ott"):
            solvers[f"OTT-JAX Sinkhorn, epsilon {epsilon} of the mean cost"] = ott(epsilon)
    batches = list(padded(costs))
    rows += [_row(name, solve, batches, wanted, seconds) for name, solve in solvers.items()]
    if importlib.util.find_spec("geomloss"):
        points = [(part, _points(clouds, part)) for part, _ in batches]
        for scaling in (0.5, 0.9):
            name = f"geomloss.SamplesLoss, blur 0.05, scaling {scaling}"
            rows.append(_row(name, geomloss(scaling), points, wanted, seconds))
    return rows


def _row(
    name: str,
    solve: Callable[..., np.ndarray],
    batches: list[tuple[list[int], tuple[torch.Tensor, ...]]],
    wanted: np.ndarray,
    seconds: Callable[[Callable[[], object]], float],
) -> dict:
    errors: list[float] = []
    for part, tensors in batches:  # also compiles, outside the clock
        errors.extend(np.abs(solve(*tensors) / wanted[part] - 1).tolist())
    taken = seconds(lambda: [solve(*tensors) for _, tensors in batches])
    return {
        "what": name, "us_per_problem": 1e6 * taken / len(errors),
        "mean_relative_error": float(np.mean(errors)),
    }  # fmt: skip


def _points(clouds: list[tuple[torch.Tensor, torch.Tensor]], part: list[int]) -> tuple[torch.Tensor, ...]:
    """Padded points and masses of both sides, in the order geomloss takes."""
    out: list[torch.Tensor] = []
    for side in (0, 1):
        points = [clouds[k][side] for k in part]
        size = max(map(len, points))
        x, a = torch.zeros(len(part), size, points[0].shape[1]), torch.zeros(len(part), size)
        for row, cloud in enumerate(points):
            x[row, : len(cloud)], a[row, : len(cloud)] = cloud, 1 / len(cloud)
        out += [x, a]
    return tuple(out)
