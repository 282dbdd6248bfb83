"""One command, JSON of it all: the transport engine against the public ways to do the same.

    python benchmarks/transport.py --quick        a minute or two, small sizes
    python benchmarks/transport.py                the sizes of docs/benchmarks/transport.md (Q = 1000)

Both sides of every ratio run in this process, interleaved where they are short, on the same number of
threads (default 1), and are timed in CPU seconds, so that other load on the machine disturbs them little.
The baseline is what one would write with POT: ``ot.emd2([], [], ot.dist(speech, text))`` in a loop, float32;
over a million pairs it is extrapolated from a sample of them. Data are synthetic: see :func:`layer`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import ot  # noqa: E402
import torch  # noqa: E402
from transport_growth import draw, growth  # noqa: E402
from transport_rivals import rivals  # noqa: E402

from aista.ot import WassersteinLoss, solve_batch  # noqa: E402
from aista.retrieval import decide_mrr, exact_ranks  # noqa: E402

Clouds = list[torch.Tensor]
#: How much of the text is in the speech, for MRRs near 1, in between and at chance, by dimension.
DIFFICULTIES = {"aligned": (0.35, 0.35), "middle": (0.14, 0.11), "chance": (0.0, 0.0)}
#: From this dimension on the second number counts: more dimensions tell texts apart more easily.
WIDE = 2000


def layer(count: int, dim: int, alignment: float, seed: int = 0) -> tuple[Clouds, Clouds]:
    """Synthetic hidden states of one layer: ``count`` pairs of (n, d) speech and (m, d) text, float32.

    Spectrum like k^-0.7, a Zipf vocabulary of 6000 words, context noise 0.3, a modality gap, a shift for each
    item; lognormal lengths, n in 10-88, m in 5-60, means near 31 and 23. The gold distance is only some
    percent below the others': the hard case for bounds.
    """
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** -0.35
    scale = (scale / np.sqrt((scale**2).sum())).astype(np.float32)

    def noise(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, dim), dtype=np.float32) * scale

    words, odds = noise(6000), 1 / np.arange(1, 6001)
    gap = noise(1)
    speech, text = [], []
    for _ in range(count):
        m = int(np.clip(rng.lognormal(np.log(21), 0.45), 5, 60))
        n = int(np.clip(round(m * rng.lognormal(np.log(1.33), 0.15)), 10, 88))
        said = rng.choice(6000, m, p=odds / odds.sum())
        text.append(words[said] + 0.3 * noise(m))
        heard = alignment * words[said[np.arange(n) * m // n]] + np.sqrt(1 - alignment**2) * noise(n)
        speech.append(heard + gap + 0.3 * noise(1))
    return [torch.from_numpy(x) for x in speech], [torch.from_numpy(x) for x in text]


def alignment_of(name: str, dim: int) -> float:
    """The share of text that makes a layer of this difficulty."""
    return DIFFICULTIES[name][dim >= WIDE]


def seconds(run: Callable[[], object], repeat: int = 1) -> float:
    """Least CPU seconds of this process over some runs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def naive_pair(speech: Clouds, text: Clouds, sample: int) -> float:
    """CPU seconds a pair of the POT loop, from a random sample of pairs."""
    rng = np.random.default_rng(1)
    pairs = [(speech[i].numpy(), text[j].numpy()) for i, j in rng.integers(0, len(text), (sample, 2))]
    return seconds(lambda: [ot.emd2([], [], ot.dist(x, y)) for x, y in pairs], 2) / sample


def solvers(sample: int) -> list[dict]:
    """Microseconds a problem at the length mix of :func:`layer`."""
    speech, text = layer(sample, 896, alignment_of("middle", 896))
    others = text[1:] + text[:1]
    costs = [ot.dist(x.numpy(), y.numpy()).astype(np.float32) for x, y in zip(speech, others, strict=True)]
    masses = [(*(np.full(k, 1 / k) for k in c.shape), c.astype(float)) for c in costs]
    runs: dict[str, Callable[[], object]] = {
        "aista.ot.solve_batch": lambda: solve_batch(costs),
        "aista.ot.solve_batch, every Solution taken": lambda: list(solve_batch(costs)),
        "ot.emd2": lambda: [ot.emd2([], [], c) for c in costs],
        "ot.emd2 (checks off)": lambda: [ot.emd2(a, b, c, check_marginals=False) for a, b, c in masses],
        "ot.lp.emd_wrap.emd_c": lambda: [ot.lp.emd_wrap.emd_c(a, b, c, 100000, 1) for a, b, c in masses],
        "ot.solve": lambda: [ot.solve(c) for c in costs],
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(4):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    ours = best["aista.ot.solve_batch"]
    wanted = np.array([float(ot.emd2([], [], c.astype(float))) for c in costs])
    error = np.abs(solve_batch(costs).values / wanted - 1).max()
    rows = [
        {"what": k, "us_per_problem": 1e6 * t / sample, "ratio_to_ours": t / ours} for k, t in best.items()
    ]
    rows += rivals(costs, list(zip(speech, others, strict=True)), wanted, seconds)
    return [*rows, {"what": "largest relative value difference to POT float64", "value": float(error)}]


def retrieval(
    count: int, dim: int, sample: int, threads: int, *, every: int = 1, names: list[str] | None = None
) -> list[dict]:
    """Exact ranks and decisions; ``every``: rank only each so-manyth item, among all texts."""
    rows = []
    queries = range(0, count, every)
    for name in names or DIFFICULTIES:
        speech, text = layer(count, dim, alignment_of(name, dim))
        pair = naive_pair(speech, text, sample)
        ranking = exact_ranks(speech[:8], text[:8])  # compile outside the clock
        start = time.process_time()
        ranking = exact_ranks(speech, text, queries=queries, threads=threads)
        exact = time.process_time() - start
        start = time.process_time()
        decision = decide_mrr(speech, text, 0.05, threads=threads)
        decided = time.process_time() - start
        pair = min(pair, naive_pair(speech, text, sample))
        naive = pair * count * count
        assert every > 1 or decision.selected == (ranking.mrr > 0.05)
        rows.append(
            {
                "layer": name, "alignment": alignment_of(name, dim), "Q": count, "d": dim,
                "mrr": ranking.mrr, "naive_us_per_pair": 1e6 * pair,
                "ranked": len(queries),
                "exact_seconds": exact, "exact_ratio": naive * len(queries) / count / exact,
                "decide_seconds": decided,
                "decide_ratio": naive / decided, "decide_pairs": decision.pairs_touched / decision.num_pairs,
                "decide_interval": [decision.low, decision.high], "stages": ranking.stages,
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def selection(rows: list[dict], aligned: int = 2, chance: int = 27) -> dict:
    """29 layers, by the decisions just measured: the first layers aligned, the others at chance."""
    by_name = {row["layer"]: row for row in rows}
    naive = sum(
        k * by_name[name]["naive_us_per_pair"] * 1e-6 * by_name[name]["Q"] ** 2
        for name, k in (("aligned", aligned), ("chance", chance))
    )
    ours = aligned * by_name["aligned"]["decide_seconds"] + chance * by_name["chance"]["decide_seconds"]
    return {"layers": aligned + chance, "d": rows[0]["d"], "seconds": ours, "ratio": naive / ours}


def loss(dim: int, repeat: int) -> list[dict]:
    """Forward and backward of 32 pairs of 88 x 60 tokens."""
    generator = torch.Generator().manual_seed(0)
    speech = torch.randn(32, 88, dim, generator=generator, requires_grad=True)
    text = torch.randn(32, 60, dim, generator=generator)
    masks = torch.ones(32, 88, dtype=torch.bool), torch.ones(32, 60, dtype=torch.bool)

    def step(module: Callable[..., torch.Tensor]) -> None:
        speech.grad = None
        module(speech, masks[0], text, masks[1]).sum().backward()

    runs: dict[str, Callable[[], object]] = {
        "WassersteinLoss('exact')": lambda: step(WassersteinLoss()),
        "WassersteinLoss('sinkhorn')": lambda: step(WassersteinLoss("sinkhorn")),
        "WassersteinLoss('geomloss_compat')": lambda: step(WassersteinLoss("geomloss_compat")),
    }
    if importlib.util.find_spec("geomloss"):
        import geomloss

        rival = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5)
        runs["geomloss.SamplesLoss (defaults of prior work)"] = lambda: step(lambda x, _, y, __: rival(x, y))
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    from aista.ot import squared_euclidean

    costs = list(squared_euclidean(speech.detach(), text, *masks).numpy())
    solve_batch(costs)
    transport = seconds(lambda: solve_batch(costs), repeat)
    ours = best["WassersteinLoss('exact')"]
    rows = [
        {"what": k, "d": dim, "milliseconds": 1e3 * t, "ratio_to_exact": t / ours} for k, t in best.items()
    ]
    alone = {"what": "transport alone", "milliseconds": 1e3 * transport, "share": transport / ours}
    return [*rows, alone]


def machine() -> dict:
    """What the numbers were measured on."""
    import numba

    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    cpu = [line.partition(":")[2].strip() for line in lines if line.startswith("Model name")]
    return {
        "date": date.today().isoformat(), "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(),
        "torch": torch.__version__, "POT": ot.__version__, "numba": numba.__version__,
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--quick", action="store_true", help="small sizes: a minute or two")
    parser.add_argument("--pairs", type=int, help="Q: speech-text pairs (default 1000, quick 150)")
    parser.add_argument("--every", type=int, default=1, help="rank only every so-manyth item among all texts")
    parser.add_argument("--layers", nargs="+", choices=[*DIFFICULTIES], help="difficulties (default all)")
    parser.add_argument("--dims", type=int, nargs="+", help="dimensions (default 896 3584, quick 896)")
    parser.add_argument("--only", choices=["solvers", "retrieval", "loss", "growth"], help="one part alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write everything as JSON here")
    parser.add_argument("--plot", type=Path, help="draw the growth of the cost into this PNG")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count = options.pairs or (150 if options.quick else 1000)
    dims = options.dims or ([896] if options.quick else [896, 3584])
    result: dict = {"machine": machine()}
    solve_batch([np.eye(2)])
    if options.only in (None, "solvers"):
        result["solvers"] = solvers(200 if options.quick else 400)
    if options.only in (None, "loss"):
        result["loss"] = loss(dims[-1], 2 if options.quick else 4)
    if options.only in (None, "growth"):
        result["growth"] = growth(layer, options.quick)
        if options.plot:
            draw(result["growth"], options.plot)
    for dim in dims if options.only in (None, "retrieval") else []:
        sample = 60 if options.quick else 150
        rows = retrieval(count, dim, sample, options.threads, every=options.every, names=options.layers)
        result.setdefault("retrieval", []).extend(rows)
        if options.layers is None:
            result.setdefault("selection", []).append(selection(rows))
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
