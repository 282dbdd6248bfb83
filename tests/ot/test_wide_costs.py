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

from aista.alignment.retrieval import all_distances
from aista.ot import Outcome, solve
from aista.ot import exact as exact_module
from aista.ot.exact import GAP_TOLERANCE
from aista.ot.loss import WassersteinLoss, squared_euclidean, unit_length
from aista.retrieval import pair_distances


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
    least = sum(Fraction(float(x)) for x in (*f, *g)) / len(cost)  # what the potentials give
    assert abs(Fraction(found.value) - least - Fraction(found.status.gap)) <= rounding
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


def sinks(n: int, m: int, ratio: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds whose first tokens are attention sinks: far out in one dimension, on both sides alike."""
    generator = torch.Generator().manual_seed(seed)
    speech, text = (torch.randn(k, 64, generator=generator) for k in (n, m))
    for cloud in (speech, text):
        cloud[0, 3] += ratio * 8.0  # other tokens have length 8
    return speech, text


@pytest.mark.parametrize(
    ("n", "m", "ratio"), [(20, 20, 1e4), (200, 200, 1e4), (200, 120, 1e4), (200, 200, 100.0)]
)
def test_the_loss_and_retrieval_are_exact_beside_massive_tokens(n, m, ratio):
    """Sinks go to sinks and cost nothing; the kernel rounds to a share of what else they would cost."""
    speech, text = sinks(n, m, ratio)
    cost = squared_euclidean(speech, text)
    wanted = ot.emd2([], [], cost.double().numpy(), numItermax=10**7)
    real = torch.ones(2, max(n, m), dtype=torch.bool)
    speech = speech.requires_grad_()
    found = WassersteinLoss()(speech[None], real[:1, :n], text[None], real[:1, :m])
    assert found.item() == pytest.approx(wanted, rel=1e-6)
    every = all_distances(
        torch.stack([speech, -speech]), real[:, :n], torch.stack([-text, text]), real[:, :m]
    )
    assert every[[0, 1], [1, 0]].tolist() == pytest.approx([wanted, wanted], rel=1e-6)
    close = pair_distances([speech], [text])
    exact = (speech.detach().double()[:, None] - text.double()[None]).square().sum(-1)
    assert close == pytest.approx(ot.emd2([], [], exact.numpy(), numItermax=10**7), rel=1e-6)


@pytest.mark.parametrize("n", [30, 400])
def test_a_bounded_cost_is_certified_by_the_kernel_alone(n, monkeypatch):
    """Cosine costs lie in [0, 2]: nothing has to be solved twice."""
    monkeypatch.setattr(exact_module, "_improved", lambda *_: pytest.fail("solved again"))
    speech, text = (unit_length(side) for side in sinks(n, n // 2, 1e4))
    found = solve(squared_euclidean(speech, text))
    assert found.status.outcome is Outcome.OPTIMAL and found.status.gap < 1e-9
