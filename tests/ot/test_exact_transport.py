"""Laws of the exact solver; POT is the oracle."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import known_answers
import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.errors import TransportError
from aista.ot import Outcome, exact, solve, solve_batch


def assert_certified(cost, solution, a=None, b=None, *, rtol=1e-9):
    """The plan is a transport, the potentials are feasible, and the two values meet."""
    n, m = cost.shape
    cost = cost.astype(np.float64)
    a = np.full(n, 1 / n) if a is None else a
    b = np.full(m, 1 / m) if b is None else b
    size = np.abs(cost).max() * a.sum() + 1e-300
    f, g = solution.potentials
    assert (solution.plan >= 0).all()
    np.testing.assert_allclose(solution.plan.sum(1), a, atol=3e-9 * a.sum())
    np.testing.assert_allclose(solution.plan.sum(0), b, atol=3e-9 * a.sum())
    assert (f[:, None] + g <= cost + 1e-9 * np.abs(cost).max()).all()
    assert abs(f @ a + g @ b - solution.value) <= rtol * size
    assert abs(solution.status.gap) <= rtol * size
    assert solution.status.outcome is Outcome.OPTIMAL


@pytest.mark.parametrize("draw", known_answers.ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 2), (17, 12, 6), (40, 23, 30)])
def test_known_answers(draw, shape):
    x, y, value = draw(np.random.default_rng(sum(shape)), *shape)
    cost = known_answers.costs(x, y)
    solution = solve(cost)
    assert solution.value == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert_certified(cost, solution)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    exponent=st.floats(-12, 12),
    kind=st.sampled_from(["normal", "heavy", "integer", "binary", "offset"]),
    single=st.booleans(),
)
def test_equals_network_simplex(n, m, seed, exponent, kind, single):
    rng = np.random.default_rng(seed)
    cost = {
        "normal": lambda: rng.normal(size=(n, m)),
        "heavy": lambda: rng.standard_cauchy(size=(n, m)),
        "integer": lambda: rng.integers(0, 4, (n, m)).astype(float),
        "binary": lambda: rng.integers(0, 2, (n, m)).astype(float),
        "offset": lambda: 1e3 + rng.normal(size=(n, m)),
    }[kind]() * 10.0**exponent
    cost = cost.astype(np.float32 if single else np.float64)
    solution = solve(cost)
    size = float(np.abs(cost).max()) or 1.0
    wanted = size * ot.emd2([], [], cost.astype(np.float64) / size)  # POT fails on costs around 1e-11
    assert solution.value == pytest.approx(wanted, rel=1e-9, abs=1e-11 * size)
    assert_certified(cost, solution)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 25), m=st.integers(1, 25), seed=st.integers(0, 2**31), zeros=st.booleans())
def test_given_masses(n, m, seed, zeros):
    rng = np.random.default_rng(seed)
    a, b = rng.gamma(0.5, size=n) + 1e-6, rng.gamma(0.5, size=m) + 1e-6
    if zeros and n > 1 and m > 1:
        a[rng.integers(n)] = b[rng.integers(m)] = 0
    a, b = 7 * a / a.sum(), 7 * b / b.sum()
    cost = rng.normal(size=(n, m))
    solution = solve(cost, a, b)
    assert_certified(cost, solution, a, b, rtol=1e-7)
    # With one row or column the plan is forced (POT has been seen to answer 0 there).
    forced = (np.outer(a, b) / 7 * cost).sum()
    wanted = forced if min(n, m) == 1 else 7 * ot.emd2(a / a.sum(), b / b.sum(), cost)
    assert solution.value == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_batch_equals_loop_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    costs = [rng.normal(size=rng.integers(1, 30, 2)) for _ in range(50)]
    alone = [solve(cost) for cost in costs]
    for threads in (1, 3):
        for one, other in zip(alone, solve_batch(costs, threads=threads), strict=True):
            assert one.value == other.value
            assert (one.plan == other.plan).all()


def test_transpose_scale_and_shift_laws():
    rng = np.random.default_rng(1)
    cost = rng.normal(size=(23, 14))
    value = solve(cost).value
    assert solve(cost.T).value == pytest.approx(value, rel=1e-12)
    assert solve(3 * cost).value == pytest.approx(3 * value, rel=1e-12)
    for power in (-1000, -960, 980):  # as far as float64 goes
        assert solve(np.ldexp(cost, power)).value == pytest.approx(np.ldexp(value, power), rel=1e-9, abs=0)
    u, v = rng.normal(size=(23, 1)), rng.normal(size=14)
    assert solve(cost + u + v).value == pytest.approx(value + u.mean() + v.mean(), rel=1e-10)
    assert solve(cost[rng.permutation(23)]).value == pytest.approx(value, rel=1e-12)


def test_gaussians_approach_their_formula():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(600, 2)), 2 + 3 * rng.normal(size=(600, 2))
    assert solve(known_answers.costs(x, y)).value == pytest.approx(2 * (4 + 4), rel=0.1)


def test_torch_costs_and_one_constant_cost():
    assert solve(torch.eye(2, requires_grad=True)).value == 0.0
    assert solve(np.full((7, 5), -2.5)).value == -2.5
    assert list(solve_batch([])) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_named_and_never_hangs(bad):
    costs = [np.ones((3, 4)), np.ones((5, 2))]
    costs[1][2, 1] = bad
    with pytest.raises(TransportError, match=r"cost 1 .*NaN"):
        solve_batch(costs)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 2, 2)])
def test_empty_or_wrong_shape(shape):
    with pytest.raises(TransportError, match="at least one row"):
        solve(np.zeros(shape))


@pytest.mark.parametrize(
    "a",
    [[1.0], [-0.5, 1.5], [np.nan, 1.0], [0.0, 0.0], [0.5, 0.6], [0.5, 0.5001]],
    ids=["size", "sign", "nan", "zero", "total", "hardly"],
)
def test_masses_that_do_not_fit(a):
    with pytest.raises(TransportError):
        solve(np.ones((2, 2)), a=a)


def test_fallback_gives_the_same_answer(monkeypatch):
    monkeypatch.setattr(exact, "GAP_TOLERANCE", -1.0)
    monkeypatch.setattr(exact, "_tolerance", lambda *_: -1.0)
    cost = np.random.default_rng(3).random((9, 6))
    solution = solve(cost)
    assert solution.status.outcome is Outcome.FALLBACK
    assert solution.value == pytest.approx(ot.emd2([], [], cost), rel=1e-12)


@pytest.mark.parametrize("total", [1.0, 4.0])
def test_the_gap_is_what_lies_between_the_two_values(total):
    """One forbidden pair makes the kernel round so coarsely that the gap can be seen, and still certifies."""
    cost = np.random.default_rng(0).uniform(1e6, 2e6, (4, 4))
    cost[0, 0] = 1e13
    mass = np.full(4, total / 4)
    solution = solve(cost, mass, mass)
    between = solution.value - sum(side @ mass for side in solution.potentials)
    assert solution.status.gap == pytest.approx(between, rel=0.05) and between > 1e-8 * solution.value
    assert solution.status.outcome is Outcome.OPTIMAL


def test_importing_the_package_loads_no_compiler():
    code = "import aista.ot, aista.retrieval, sys; sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_batch_of_solutions_is_a_sequence():
    rng = np.random.default_rng(5)
    costs = [rng.random((3, 2)), rng.random((4, 6)), rng.random((1, 5))]
    a = [np.full(len(c), 2 / len(c)) for c in costs]
    b = [np.full(c.shape[1], 2 / c.shape[1]) for c in costs]
    for solutions in (solve_batch(costs), solve_batch(costs, a, b)):
        assert len(solutions) == 3 and [s.value for s in solutions] == solutions.values.tolist()
        assert solutions[-1].plan.shape == (1, 5) and [s.value for s in solutions[:2]] == [
            *solutions.values[:2]
        ]
        assert [s.status.gap for s in solutions] == solutions.gaps.tolist()
        with pytest.raises(IndexError):
            solutions[3]
    np.testing.assert_allclose(solve_batch(costs, a, b).values, 2 * solve_batch(costs).values)


@pytest.mark.parametrize("kind", [object, np.int64, np.float16, np.longdouble])
def test_costs_of_any_kind_of_number(kind):
    """By hand: the diagonal, half of 1/4 and half of 1/2."""
    given = [[Fraction(1, 4), Fraction(2)], [Fraction(5, 2), Fraction(1, 2)]]
    factor = 4 if kind is np.int64 else 1
    cost = np.array([[factor * each for each in row] for row in given], dtype=object)
    found = solve(cost if kind is object else cost.astype(np.float64).astype(kind))
    assert found.value == pytest.approx(factor * 0.375) and (found.plan == np.eye(2) / 2).all()
