"""Exact transport for one problem or a ragged batch (Eq. 1): value, plan, potentials, certificate.

    value = min <Z, C>  over  Z >= 0,  Z 1 = a,  Z' 1 = b
          = max <f, a> + <g, b>  over  f_i + g_j <= C_ij

The gap between the two sides, evaluated in float64 on the costs as given, certifies every answer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aista.errors import TransportError
from aista.ot.kernels import CAPPED, LANES, NOT_FINITE, OPTIMAL, WORK_ROWS, solve_range

T = TypeVar("T")

#: Given masses are rounded to multiples of 1 / MASS_UNITS of their total.
MASS_UNITS = 2**30
#: A relative duality gap above this sends a problem to the fallback solver.
GAP_TOLERANCE = 1e-6


class Outcome(Enum):
    """How a solve ended; the value is the advice."""

    OPTIMAL = "the plan is optimal; its duality gap certifies it"
    FALLBACK = "no solver could certify its answer to 1e-6: the gap bounds its error; please report it"


class Status(NamedTuple):
    """The end of a solve: the outcome and ``gap`` = value - dual value >= 0 (up to rounding)."""

    outcome: Outcome
    gap: float


class Solution(NamedTuple):
    """An exact transport.

    Attributes:
        value: Transport cost <plan, cost>, float64.
        plan: (n, m) mass moved from row i to column j, float64; rows sum to a, columns to b.
        potentials: Dual feasible (f (n,), g (m,)): f_i + g_j <= cost_ij.
        status: Outcome and duality gap.
    """

    value: float
    plan: NDArray[np.float64]
    potentials: tuple[NDArray[np.float64], NDArray[np.float64]]
    status: Status


def solve(cost: ArrayLike, a: ArrayLike | None = None, b: ArrayLike | None = None) -> Solution:
    """Solve one transport problem exactly.

    Args:
        cost: (n, m) finite costs, any sign; numpy or torch, float32 or float64.
        a: (n,) row masses >= 0, or None for 1/n each.
        b: (m,) column masses >= 0 of the same total, or None for 1/m each.

    Returns:
        The solution.

    Raises:
        TransportError: The cost is empty, not a matrix or not finite, or the masses do not fit.

    Equation: 1. Cost: about (n + m) n m operations in the worst case; 10-30 us at 30 x 20.
    """
    return solve_batch([cost], None if a is None else [a], None if b is None else [b])[0]


class Solutions(Sequence[Solution]):
    """The solutions of a batch, in order; each is cut out of the flat results when it is asked for.

    Attributes:
        values: (problems,) float64 transport costs.
        gaps: (problems,) duality gaps.
    """

    def __init__(self, raw: RawSolutions, sizes: NDArray[np.int64], totals: NDArray[np.float64]) -> None:
        self._raw, self._sizes, self._totals = raw, sizes, totals
        self.values, self.gaps = raw.values * totals, raw.gaps * totals

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, k: int) -> Solution: ...
    @overload
    def __getitem__(self, k: slice) -> list[Solution]: ...
    def __getitem__(self, k: int | slice) -> Solution | list[Solution]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        k = range(len(self))[k]
        raw, (n, m, start, i, j, total, value, gap, end) = self._raw, self._places[k]
        plan = raw.plans[start : start + n * m].reshape(n, m)
        return Solution(
            value,
            plan if total == 1.0 else plan * total,
            (raw.row_potentials[i : i + n], raw.col_potentials[j : j + m]),
            Status(Outcome.OPTIMAL if end == OPTIMAL else Outcome.FALLBACK, gap),
        )

    @cached_property
    def _places(self) -> list[tuple[Any, ...]]:
        """Numbers of every solution, as Python's own: taking them one by one from arrays is slow."""
        raw = self._raw
        columns = (*self._sizes.T, raw.offsets, raw.row_starts, raw.col_starts, self._totals)
        columns = (*columns, self.values, self.gaps, raw.outcomes)
        return list(zip(*(x.tolist() for x in columns), strict=True))


def solve_batch(
    costs: Sequence[ArrayLike],
    a: Sequence[ArrayLike] | None = None,
    b: Sequence[ArrayLike] | None = None,
    *,
    threads: int = 1,
) -> Solutions:
    """Solve many problems of different sizes; the same answers as :func:`solve` on each.

    Args:
        costs: Matrices (n_k, m_k).
        a: Row masses (n_k,) of each problem, or None for uniform.
        b: Column masses (m_k,) of each problem, or None for uniform.
        threads: How many threads share the batch (the solver releases the interpreter lock).

    Returns:
        One solution a problem, in order; ``.values`` are all values at once.

    Raises:
        TransportError: As :func:`solve`; the message names the problem.
    """
    matrices = [_matrix(cost, k) for k, cost in enumerate(costs)]
    for name, masses in (("a", a), ("b", b)):
        if masses is not None and len(masses) != len(matrices):
            raise TransportError(
                f"{name} must hold one entry a problem", got=len(masses), expected=len(matrices)
            )
    sizes = np.array([c.shape for c in matrices], dtype=np.int64).reshape(-1, 2)
    totals, rows, cols, tiny = _masses(sizes, a, b)
    offsets = starts(sizes.prod(1))
    flat = np.concatenate([c.ravel() for c in matrices] or [np.empty(0)], dtype=np.float64)
    raw = solve_flat(flat, offsets, sizes[:, 1], sizes, (rows, cols), threads=threads, tiny=tiny)
    if len(spoiled := np.flatnonzero(raw.outcomes == NOT_FINITE)):
        raise TransportError(
            f"cost {spoiled[0]} holds NaN, infinite or overflowing entries",
            advice="look for NaN in the hidden states; compute costs in float32, never in float16",
        )
    return Solutions(raw, sizes, totals)


@dataclass(frozen=True)
class RawSolutions:
    """Results of :func:`solve_flat`, per unit of mass: flat buffers and where each problem starts in them.

    Attributes:
        values, gaps: (problems,), see :class:`Solution`; NaN where costs are not finite.
        outcomes: (problems,) ``OPTIMAL``, ``NOT_FINITE`` or ``CAPPED`` (not certified) of ``ot.kernels``.
        plans: Laid out as the costs. row_potentials, col_potentials: Laid out as the masses.
        offsets, row_starts, col_starts: (problems,) where each problem begins in these.
    """

    values: NDArray[np.float64]
    gaps: NDArray[np.float64]
    outcomes: NDArray[np.int64]
    plans: NDArray[np.float64]
    row_potentials: NDArray[np.float64]
    col_potentials: NDArray[np.float64]
    offsets: NDArray[np.int64]
    row_starts: NDArray[np.int64]
    col_starts: NDArray[np.int64]


def solve_flat(
    costs: NDArray[Any],
    offsets: NDArray[np.int64],
    strides: NDArray[np.int64],
    sizes: NDArray[np.int64],
    masses: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    *,
    threads: int = 1,
    tiny: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = MappingProxyType({}),
) -> RawSolutions:
    """Solve problems that lie in one flat buffer (padded or ragged); what the kernel cannot certify, better.

    Args:
        costs: (total,) any float type, made float64; problem k starts at ``offsets[k]``, its rows
            ``strides[k]`` apart.
        sizes: (problems, 2) rows and columns.
        masses: (sum of rows,) and (sum of columns,) integers, equal totals a problem. None: uniform.
        threads: Threads that share the problems.
        tiny: Problem -> its masses as given (each side sums to 1), where some are too small for integers.
    """
    costs = np.ascontiguousarray(costs, dtype=np.float64)
    masses = uniform_masses(sizes) if masses is None else masses
    raw = _by_kernel(costs, offsets, strides, sizes, masses, threads)
    solved = raw.outcomes != NOT_FINITE
    certified = (raw.outcomes == OPTIMAL) & (raw.gaps <= GAP_TOLERANCE * np.abs(raw.values))
    for k in sorted({*np.flatnonzero(solved & ~certified).tolist(), *(k for k in tiny if solved[k])}):
        (n, m), i, j = sizes[k], raw.row_starts[k], raw.col_starts[k]
        place = offsets[k] + strides[k] * np.arange(n)[:, None] + np.arange(m)
        gap = raw.gaps[k] if raw.outcomes[k] == OPTIMAL else np.inf
        if k in tiny or gap > _tolerance(costs[place], raw.values[k]):
            units = masses[0][i : i + n], masses[1][j : j + m]
            better = _improved(costs[place], units, tiny.get(k))
            raw.values[k], raw.plans[place] = better.value, better.plan
            raw.row_potentials[i : i + n], raw.col_potentials[j : j + m] = better.potentials
            raw.gaps[k] = better.status.gap
            raw.outcomes[k] = OPTIMAL if better.status.outcome is Outcome.OPTIMAL else CAPPED
    return raw


def _by_kernel(
    costs: NDArray[np.float64],
    offsets: NDArray[np.int64],
    strides: NDArray[np.int64],
    sizes: NDArray[np.int64],
    masses: tuple[NDArray[np.int64], NDArray[np.int64]],
    threads: int = 1,
) -> RawSolutions:
    """Run the compiled kernel; the arguments are those of :func:`solve_flat`."""
    count, (row_mass, col_mass) = len(sizes), masses
    ns, ms = np.ascontiguousarray(sizes[:, 0]), np.ascontiguousarray(sizes[:, 1])
    raw = RawSolutions(
        values=np.empty(count),
        gaps=np.empty(count),
        outcomes=np.empty(count, np.int64),
        plans=np.zeros(costs.size),
        row_potentials=np.empty(len(row_mass)),
        col_potentials=np.empty(len(col_mass)),
        offsets=offsets,
        row_starts=starts(ns),
        col_starts=starts(ms),
    )

    def run(part: slice) -> None:
        less, more = int(sizes[part].min(1).max()), int(sizes[part].max())
        solve_range(
            *scratch(less, more), np.empty((less, more)), np.empty(less), np.empty((3, more)),
            costs, offsets[part], strides[part], ns[part], ms[part],
            row_mass, raw.row_starts[part], col_mass, raw.col_starts[part],
            raw.values[part], raw.gaps[part], raw.outcomes[part], raw.plans,
            raw.row_potentials, raw.col_potentials,
        )  # fmt: skip

    for_ranges(run, count, threads)
    return raw


def scratch(n_max: int, m_max: int) -> tuple[NDArray[Any], ...]:
    """Work space of one thread for problems up to (n_max, m_max): cost, flow, givers, work, weights."""
    width = -(-m_max // LANES) * LANES
    shapes = ((n_max, width), (n_max, width), (width, n_max), (WORK_ROWS, max(n_max, width)))
    whole = (np.empty(shape, np.int64) for shape in shapes)
    return *whole, np.empty((n_max + 2, width), np.float32)


def for_ranges(run: Callable[[slice], T], count: int, threads: int, *, pieces: int = 4) -> list[T]:
    """Call ``run`` on ranges that cover ``count``, on up to ``threads`` threads; results in order."""
    threads = max(1, min(threads, count))
    if count == 0:
        return []
    if threads == 1:
        return [run(slice(0, count))]
    edges = np.linspace(0, count, min(count, threads * pieces) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, (slice(i, j) for i, j in pairwise(edges))))


def uniform_masses(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Smallest integer masses that are uniform on both sides: m/g a row and n/g a column, g = gcd(n, m)."""
    ns, ms = sizes[:, 0], sizes[:, 1]
    g = np.gcd(ns, ms)
    return np.repeat(ms // g, ns), np.repeat(ns // g, ms)


def starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each run begins when runs of these lengths lie one after another."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _matrix(cost: Any, k: int) -> NDArray[Any]:
    matrix = cost if type(cost) is np.ndarray else np.asarray(_numbers(cost))
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise TransportError(
            f"cost {k} must be a matrix with at least one row and one column",
            got=f"shape {matrix.shape}",
            expected="(n, m) with n, m >= 1",
            advice="drop empty clouds before solving",
        )
    if matrix.dtype.char not in "fd":
        matrix = matrix.astype(np.float64)
    return matrix


def _numbers(values: Any) -> Any:
    """Return a tensor as an array; numpy has no bfloat16."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype.itemsize < 4 else values).numpy()


def _masses(
    sizes: NDArray[np.int64], a: Sequence[Any] | None, b: Sequence[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], dict[int, Any]]:
    """Totals and integer masses of every problem; and, with masses below 1000 units, the masses as given."""
    if a is None and b is None:
        return np.ones(len(sizes)), *uniform_masses(sizes), {}
    totals, rows, cols = np.empty(len(sizes)), [], []
    tiny: dict[int, Any] = {}
    for k, (n, m) in enumerate(sizes):
        row = _mass(None if a is None else a[k], n, "a", k)
        col = _mass(None if b is None else b[k], m, "b", k)
        totals[k] = row.sum()
        # What the totals may differ by, as a share: half precision rounds each mass.
        types = {str(getattr(side[k], "dtype", "")) for side in (a, b) if side is not None}
        coarse = 1e-2 if "torch.bfloat16" in types else 2e-3 if any("float16" in x for x in types) else 1e-5
        if not np.isclose(totals[k], col.sum(), rtol=coarse, atol=0.0):
            raise TransportError(
                f"problem {k}: the two sides must carry the same mass", got=(totals[k], col.sum()),
                advice="divide each side by its sum",
            )  # fmt: skip
        rows.append(_to_units(row))
        cols.append(_to_units(col))
        sides = row / row.sum(), col / col.sum()
        if any((side[side > 0] * MASS_UNITS < 1000).any() for side in sides):
            tiny[k] = sides
    return totals, np.concatenate(rows), np.concatenate(cols), tiny


def _mass(mass: Any, size: int, name: str, k: int) -> NDArray[np.float64]:
    if mass is None:
        return np.full(size, 1.0 / size)
    values = np.asarray(_numbers(mass), dtype=np.float64)
    if values.shape != (size,) or not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise TransportError(
            f"problem {k}: {name} must be finite masses >= 0, not all zero",
            got=f"shape {values.shape}", expected=f"shape ({size},)",
        )  # fmt: skip
    return values


def _to_units(mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to integers that sum to MASS_UNITS; no mass turns negative and zeros stay zero."""
    edges = np.rint(np.cumsum(mass) * (MASS_UNITS / mass.sum())).astype(np.int64)
    edges[np.flatnonzero(mass)[-1] :] = MASS_UNITS
    return np.diff(edges, prepend=0)


def _tolerance(cost: NDArray[np.float64], value: float) -> float:
    """Return how large an absolute gap may be: in proportion to the value, or to the cheapest ways.

    The largest cost says nothing: it may stand for a forbidden pair.
    """
    size = np.abs(cost)
    cheapest = max(size.min(0).max(), size.min(1).max()) or size[size > 0].min(initial=np.inf)
    return max(GAP_TOLERANCE * abs(value), 1e-12 * (cheapest if np.isfinite(cheapest) else 0.0))


def _improved(
    cost: NDArray[np.float64],
    units: tuple[NDArray[np.int64], NDArray[np.int64]],
    masses: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> Solution:
    """Return the answer of least gap: of the kernel under costs cut off at some level, else of POT.

    What is feasible under costs that are cut off is feasible under the costs, and a plan that keeps below the
    level costs the same. The kernel rounds to a share of the largest cost: below a level it sees more.
    """
    a, b = (units[0] / units[0].sum(), units[1] / units[1].sum()) if masses is None else masses
    low, high = float(cost.min()), float(cost.max())
    cheapest = max(cost.min(0).max(), cost.min(1).max()) - low
    level = cheapest or float((cost - low)[cost > low].min(initial=high - low))
    best: Solution | None = None
    levels = [level * 32.0**power for power in range(1, 60) if level * 32.0**power < high - low]
    sizes, first = np.array([cost.shape]), np.zeros(1, np.int64)
    for bound in [*levels, high - low]:
        cut = np.minimum(cost, low + bound) - low if bound < high - low else cost - low
        answers = []
        if masses is None:
            raw = _by_kernel(cut.ravel(), first, sizes[:, 1], sizes, units)
            answers.append((raw.plans.reshape(cost.shape), raw.col_potentials))
        if bound == high - low or masses is not None:
            answers.append(_by_pot(cut, a, b))
        for plan, columns in answers:
            value = math.fsum((plan * cost).ravel().tolist())
            rows = (cost - columns).min(1)
            gap = value - math.fsum([*(rows * a).tolist(), *(columns * b).tolist()])
            if best is None or gap < best.status.gap:
                best = Solution(value, plan, (rows, columns), Status(Outcome.FALLBACK, gap))
        assert best is not None
        if best.status.gap <= _tolerance(cost, best.value):
            return best._replace(status=Status(Outcome.OPTIMAL, best.status.gap))
    assert best is not None
    return best


def _by_pot(
    cost: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return plan and column potentials of POT's network simplex: the only door to that package."""
    import ot

    size = float(np.abs(cost).max()) or 1.0  # POT fails on costs around 1e-11
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gap says what is wrong
        plan, log = ot.emd(a, b, cost / size, numItermax=10_000_000, log=True)
    return plan, log["v"] * size
