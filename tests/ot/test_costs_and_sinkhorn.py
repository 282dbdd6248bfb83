"""Costs under hard arithmetic; the regularised solvers against the exact one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aista.errors import TransportError
from aista.ot import sinkhorn_batch, solve, squared_euclidean


def direct(x, y):
    return (x.double()[:, None] - y.double()[None]).square().sum(-1)


@pytest.mark.parametrize("kind", ["plain", "offset", "massive", "outlier", "sinks", "padded"])
def test_cost_keeps_what_moves_a_plan(kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(31, 256, generator=generator)
    y = torch.randn(23, 256, generator=generator)
    if kind == "offset":
        x, y = x + 1000, y + 1000
    if kind == "massive":
        for cloud in (x, y):
            cloud[:, [7, 90]] = torch.tensor([3000.0, -3000.0]) * (
                1 + 0.02 * torch.randn(len(cloud), 2, generator=generator)
            )
    if kind == "outlier":
        x[0, 3] = 1e4
    if kind == "sinks":  # on both sides, so that the text's mean lies far from the other tokens
        for cloud in (x, y):
            cloud[0, :16], cloud[0, 100] = 1e3, 8e4
    exact, ours = direct(x, y), squared_euclidean(x, y)
    assert (ours >= 0).all() and (squared_euclidean(x, x) >= 0).all()
    if kind == "padded":  # what stands behind the tokens is no reason to take an offset for massive
        for cloud in (x, y):
            cloud[:, 60:100] += 1e5
            cloud[0, 200] = 8e4
        masks = [torch.arange(40)[None] < len(cloud) for cloud in (x, y)]
        held = [torch.cat([cloud, cloud.new_zeros(40 - len(cloud), 256)])[None] for cloud in (x, y)]
        exact, ours = direct(x, y), squared_euclidean(*held, *masks)[0, : len(x), : len(y)]
    first = {"outlier": (1, 0), "sinks": (1, 1), "padded": (1, 1)}.get(kind, (0, 0))
    exact_part, part = exact[first[0] :, first[1] :], ours[first[0] :, first[1] :]
    centred = exact_part - exact_part.mean(0) - exact_part.mean(1, keepdim=True) + exact_part.mean()
    assert (part - exact_part).abs().max() < 2e-3 * centred.std()
    assert solve(ours).value == pytest.approx(solve(exact).value, rel=2e-6)


def test_cost_ignores_autocast_and_masked_garbage():
    x, y = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    x_mask, y_mask = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    x_mask[0, 3:] = y_mask[1, 2:] = False
    clean = squared_euclidean(x, y, x_mask, y_mask)
    x[0, 3:], y[1, 2:] = torch.nan, torch.inf
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dirty = squared_euclidean(x, y, x_mask, y_mask)
    real = x_mask[:, :, None] & y_mask[:, None, :]
    assert dirty.dtype == torch.float32
    assert torch.equal(clean[real], dirty[real])


def padded_batch():
    generator = torch.Generator().manual_seed(4)
    cost = torch.rand(6, 12, 9, generator=generator) * 5
    rows = torch.arange(12)[None] < torch.tensor([12, 3, 7, 1, 9, 12])[:, None]
    cols = torch.arange(9)[None] < torch.tensor([9, 9, 2, 4, 1, 5])[:, None]
    return cost, rows, cols


def test_sinkhorn_approaches_exact_and_batch_equals_loop():
    cost, rows, cols = padded_batch()
    result = sinkhorn_batch(cost, rows, cols, epsilon=0.02, max_iterations=5000)
    assert bool(result.converged.all())
    for k in range(len(cost)):
        alone = cost[k][rows[k]][:, cols[k]]
        wanted = solve(alone).value
        assert wanted * (1 - 1e-3) <= float(result.values[k]) <= wanted * 1.02 + 0.02
        single = sinkhorn_batch(
            alone[None],
            torch.ones(1, alone.shape[0], dtype=torch.bool),
            torch.ones(1, alone.shape[1], dtype=torch.bool),
            epsilon=0.02,
            max_iterations=5000,
        )
        assert float(single.values[0]) == pytest.approx(float(result.values[k]), rel=1e-4)
        assert not result.plan[k][~rows[k]].any() and not result.plan[k][:, ~cols[k]].any()
    spoiled = cost.masked_fill(~(rows[:, :, None] & cols[:, None]), torch.nan)
    again = sinkhorn_batch(spoiled, rows, cols, epsilon=0.02, max_iterations=5000)
    assert torch.equal(again.values, result.values)


def test_sinkhorn_reports_what_did_not_converge():
    cost, rows, cols = padded_batch()
    result = sinkhorn_batch(cost, rows, cols, epsilon=0.001, max_iterations=3)
    assert not bool(result.converged.all())
    assert torch.isfinite(result.values).all()
    early = sinkhorn_batch(cost, rows, cols, epsilon=0.02, max_iterations=10)  # epsilon has not fallen yet
    assert early.converged.tolist() == [k == 3 for k in range(6)] and early.error[2] < 1e-3  # 3: one row
    late = sinkhorn_batch(cost, rows, cols, epsilon=0.02, max_iterations=60)
    assert late.iterations[3] < 60 == late.iterations[0]
    with pytest.raises(TransportError, match="epsilon"):
        sinkhorn_batch(cost, rows, cols, epsilon=0.0)


@pytest.mark.parametrize("most", [34, 35, 36])
def test_what_converged_has_the_marginals_that_it_says(most):
    """Epsilon reaches what was asked for with the 36th update: until then no plan is one at this epsilon."""
    cost, rows, cols = padded_batch()
    result = sinkhorn_batch(cost, rows, cols, epsilon=0.1, tolerance=2e-2, max_iterations=most)
    wrong = (result.plan.sum(2) - rows / rows.sum(1, keepdim=True)).abs().sum(1)
    assert (wrong < 5e-2).all() and (wrong[result.converged] < 2e-2).all()


def test_sinkhorn_is_insensitive_to_constant_terms():
    cost, rows, cols = padded_batch()
    shift = torch.arange(12.0)[None, :, None] * 10
    first = sinkhorn_batch(cost, rows, cols, epsilon=0.1)
    second = sinkhorn_batch(cost + shift, rows, cols, epsilon=0.1)
    np.testing.assert_allclose(first.plan.numpy(), second.plan.numpy(), atol=1e-4)
