"""Costs over twenty orders of magnitude, tiny masses, half precision: certified against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.ot import Outcome, solve
from aista.ot.exact import GAP_TOLERANCE


def exact_value(cost: np.ndarray) -> Fraction:
    """The optimum of a square problem of uniform masses, in exact arithmetic: some permutation has it."""
    rows = [[Fraction(float(x)) for x in row] for row in cost]
    return min(
        sum(rows[i][j] for i, j in enumerate(order)) for order in permutations(range(len(rows)))
    ) / len(rows)


@st.composite
def wide(draw: st.DrawFn, most: int = 6) -> np.ndarray:
    n, seed = draw(st.integers(1, most)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    low = draw(st.integers(-10, 5))
    kind = draw(st.sampled_from(["log-uniform", "forbidden", "negative", "blocks"]))
    if kind == "log-uniform":
        return 10.0 ** rng.uniform(low, low + 20, (n, n))
    cost = rng.random((n, n)) * 10.0**low
    if kind == "negative":
        return cost - 10.0 ** rng.uniform(low, low + 20, (n, 1))
    large = 10.0 ** (low + draw(st.integers(3, 20)))
    if kind == "blocks":
        return cost + large * (np.arange(n)[:, None] % 2 != np.arange(n) % 2)
    forbidden = rng.random((n, n)) < 0.6
    forbidden[np.arange(n), rng.permutation(n)] = draw(st.booleans())
    return np.where(forbidden, large, cost)


@given(wide())
@settings(max_examples=80, deadline=None)
def test_optimal_is_said_only_where_it_is_so(cost):
    found, wanted = solve(cost), exact_value(cost)
    f, g = found.potentials
    wrong = abs(Fraction(found.value) - wanted)
    size = max(abs(float(wanted)), 1e-12 * np.abs(cost).min(1).max())
    rounding = 1e-15 * len(cost) * max(np.abs(f).max(), np.abs(g).max(), abs(found.value))
    assert wrong <= abs(found.status.gap) + rounding
    if found.status.outcome is Outcome.OPTIMAL:
        assert wrong <= 2 * GAP_TOLERANCE * size + rounding
    assert ((f[:, None] + g) - cost <= 1e-15 * (np.abs(f)[:, None] + np.abs(g) + np.abs(cost))).all()
    np.testing.assert_allclose(found.plan.sum(0), 1 / len(cost), rtol=1e-8)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**31), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_forbidden_pairs_cost_nothing_of_the_others(n, m, seed, power):
    """Pairs are forbidden so that a plan without them is there: POT on the others alone is the oracle."""
    rng = np.random.default_rng(seed)
    cost = 0.01 * rng.random((n, m))
    plan = ot.emd([], [], rng.random((n, m)))  # what is used here stays allowed
    allowed = (plan > 0) | (rng.random((n, m)) < 0.3)
    wanted = ot.emd2([], [], np.where(allowed, cost, 10.0))
    found = solve(np.where(allowed, cost, 10.0**power * 1e3))
    assert found.value == pytest.approx(wanted, rel=1e-6) and found.status.outcome is Outcome.OPTIMAL


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**31), st.floats(6, 11), st.floats(0, 12))
@settings(max_examples=30, deadline=None)
def test_tiny_masses_are_kept(n, m, seed, small, large):
    rng = np.random.default_rng(seed)
    a = rng.random(n) + 0.1
    a[1:] *= 10.0 ** -rng.uniform(small - 2, small, n - 1)
    a /= a.sum()
    b = rng.random(m) + 0.1
    b /= b.sum()
    cost = rng.random((n, m)) * 10.0 ** rng.uniform(0, large, (n, 1))
    found = solve(cost, a, b)
    np.testing.assert_allclose(found.plan.sum(1), a, rtol=1e-3, atol=0)
    np.testing.assert_allclose(found.plan.sum(0), b, rtol=1e-3, atol=0)
    f, g = ([Fraction(float(x)) for x in side] for side in found.potentials)
    exact = [[Fraction(float(x)) for x in row] for row in cost]
    room = Fraction(10) ** -15  # of rounding, beside the numbers that meet
    assert all(
        f[i] + g[j] <= exact[i][j] + room * (abs(f[i]) + abs(g[j]) + exact[i][j])
        for i in range(n)
        for j in range(m)
    )
    # Weak duality in exact arithmetic: no plan costs less than what the potentials give.
    least = sum(map(lambda x, y: x * Fraction(float(y)), f, a)) + sum(
        map(lambda x, y: x * Fraction(float(y)), g, b)
    )
    large_terms = sum(abs(float(x)) * y for x, y in zip([*f, *g], [*a, *b], strict=True))
    if found.status.outcome is Outcome.OPTIMAL:
        assert abs(found.value - float(least)) <= 1e-5 * abs(found.value) + 1e-9 * large_terms


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken(kind):
    rng = np.random.default_rng(0)
    cost = torch.tensor(rng.random((3, 4))).to(kind)
    a, b = (torch.full((n,), 1 / n).to(kind) for n in (3, 4))
    assert solve(cost).value == pytest.approx(ot.emd2([], [], cost.double().numpy()), rel=1e-9)
    assert solve(cost, a, b).value == pytest.approx(solve(cost).value, rel=1e-2)
