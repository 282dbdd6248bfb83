"""How the cost grows with the number of pairs, the dimension and the length; for
``benchmarks/transport.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ot
import torch

from aista.ot import solve_batch
from aista.retrieval import decide_mrr, exact_ranks

Clouds = list[torch.Tensor]


def _cpu(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def growth(layer: Callable[[int, int, float], tuple[Clouds, Clouds]], quick: bool) -> dict[str, list[dict]]:
    """Seconds of exact ranks and of a decision, microseconds of a solve, at chance (the slowest case)."""
    counts, dims, lengths = [50, 100, 200, 400], [112, 224, 448, 896, 1792, 3584], [8, 16, 32, 48, 64, 88]
    if quick:
        counts, dims, lengths = counts[:3], dims[:4], lengths[::2]

    def ranks(count: int, dim: int) -> dict:
        speech, text = layer(count, dim, 0.0)
        exact_ranks(speech[:4], text[:4])
        return {
            "Q": count, "d": dim, "exact_seconds": _cpu(lambda: exact_ranks(speech, text, threads=1)),
            "decide_seconds": _cpu(lambda: decide_mrr(speech, text, threads=1)),
        }  # fmt: skip

    by_count = [ranks(count, 896) for count in counts]
    by_dim = [ranks(counts[2], dim) for dim in dims]
    return {"pairs": by_count, "dimension": by_dim, "length": [_length(n, 40) for n in lengths]}


def _length(n: int, sample: int) -> dict:
    rng = np.random.default_rng(n)
    m = round(0.75 * n)
    costs = []
    for _ in range(sample):
        x, y = (torch.from_numpy(rng.standard_normal((k, 64))).float() for k in (n, m))
        costs.append(torch.cdist(x, y).square().numpy())
    masses = [(np.full(n, 1 / n), np.full(m, 1 / m), c.astype(float)) for c in costs]
    runs: dict[str, Callable[[], object]] = {
        "ours_us": lambda: solve_batch(costs),
        "emd_c_us": lambda: [ot.lp.emd_wrap.emd_c(*each, 100000, 1) for each in masses],
        "emd2_us": lambda: [ot.emd2([], [], c) for c in costs],
    }
    best = {name: min(_cpu(run) for _ in range(3)) for name, run in runs.items()}
    return {"n": n, "m": m} | {name: 1e6 * taken / sample for name, taken in best.items()}


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of the power law through the upper half of some points."""
    half = len(x) // 2
    return float(np.polyfit(np.log(x[half - 1 :]), np.log(y[half - 1 :]), 1)[0])


def draw(results: dict[str, list[dict]], path: Path) -> None:
    """Three log-log panels with the exponents of their upper halves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    lines = {"exact_seconds": "exact ranks", "decide_seconds": "decision", "ours_us": "aista.ot.solve_batch"}
    lines |= {"emd_c_us": "POT emd_c", "emd2_us": "POT emd2"}
    axes = {
        "pairs": ("Q", "pairs Q (d = 896)"),
        "dimension": ("d", "dimension d"),
        "length": ("n", "tokens n"),
    }
    for panel, (name, (key, label)) in zip(panels, axes.items(), strict=True):
        rows = results[name]
        x = [row[key] for row in rows]
        for field in (field for field in lines if field in rows[0]):
            y = [row[field] for row in rows]
            panel.loglog(x, y, marker="o", label=f"{lines[field]}: {key}^{slope(x, y):.1f}")
        panel.set(xlabel=label, ylabel="microseconds" if name == "length" else "CPU seconds")
        panel.legend(frameon=False, fontsize=8)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
