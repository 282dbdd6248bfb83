"""A step of the retrieval objective against the same loss by a loop over POT, and a cross-entropy step.

    python benchmarks/retrieval_loss.py
    python benchmarks/retrieval_loss.py --batches 16 48 --dims 896 3584

Forward and backward of InfoNCE over all pairs of a batch at one layer, on random states with the lengths of
speech corpora. Medians of CPU seconds of one process on one thread; the variants take turns. ``pot`` is
``ot.emd2([], [], ot.dist(x, y))`` for every pair, with POT's own gradient; its loss and gradient are compared
with ours in passing. The last line is a step of stage 1 at the size of benchmarks/step.py (12 layers x 512,
batch 16), without alignment.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import ot
import torch
from torch import Tensor
from torch.nn import functional as F

from aista.alignment import PairedStates, alignment

SIMILARITIES = ("wasserstein", "maxsim", "mean")


def states_of(batch: int, dim: int, seed: int = 0) -> PairedStates:
    """Speech near its own text, of 0.34 s a token; 2.7 text tokens a second."""
    rng = np.random.default_rng(seed)
    seconds = np.clip(rng.lognormal(math.log(3.5), 0.4, batch), 1.0, 10.0)
    heard = np.ceil(seconds / 0.34).astype(int)
    written = np.maximum(2, np.round(2.7 * seconds)).astype(int)
    text = torch.from_numpy(rng.standard_normal((batch, written.max(), dim)).astype(np.float32))
    places = (
        (np.arange(heard.max())[None] * (written / heard)[:, None]).astype(int).clip(max=written.max() - 1)
    )
    speech = text.gather(1, torch.from_numpy(places)[..., None].expand(-1, -1, dim))
    speech = speech + torch.from_numpy(rng.standard_normal(speech.shape).astype(np.float32))
    return PairedStates(
        speech={0: speech.requires_grad_()},
        speech_mask=torch.arange(heard.max())[None] < torch.from_numpy(heard)[:, None],
        text={0: text},
        text_mask=torch.arange(written.max())[None] < torch.from_numpy(written)[:, None],
        transcript_ids=torch.arange(batch)[:, None].repeat(1, written.max()),
    )


def ours(similarity: str, states: PairedStates) -> Tensor:
    """The objective of this library."""
    method = alignment("retrieval", (0,), similarity=similarity, threads=1)
    return method(states)["retrieval_0"]


def by_pot(states: PairedStates) -> Tensor:
    """The same loss, one problem at a time."""
    speech, text = (F.normalize(side[0], dim=-1) for side in (states.speech, states.text))
    rows = []
    for x, x_mask in zip(speech, states.speech_mask, strict=True):
        one = x[x_mask]
        row = [ot.emd2([], [], ot.dist(one, y[m])) for y, m in zip(text, states.text_mask, strict=True)]
        rows.append(torch.stack(row))
    logits = -torch.stack(rows) / 0.1
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def timed(loss: Callable[[PairedStates], Tensor], states: PairedStates) -> tuple[float, float, Tensor]:
    """CPU seconds of a forward and a backward, the loss, and its gradient."""
    states.speech[0].grad = None
    start = time.process_time()
    value = loss(states)
    value.backward()
    return time.process_time() - start, float(value), states.speech[0].grad


def measure(batch: int, dim: int, repeats: int) -> dict[str, float]:
    """Medians of all variants at one size, and how far POT's loss and gradient are from ours."""
    found: dict[str, list[float]] = {name: [] for name in (*SIMILARITIES, "pot")}
    apart = [0.0, 0.0]
    for repeat in range(-1, repeats):
        states = states_of(batch, dim, seed=repeat + 1)
        kept = {}
        for name in SIMILARITIES:
            seconds, *kept[name] = timed(lambda given, name=name: ours(name, given), states)
            found[name] += [seconds] * (repeat >= 0)
        if repeat < max(2, repeats // 4):
            seconds, loss, slope = timed(by_pot, states)
            found["pot"] += [seconds] * (repeat >= 0)
            mine = kept["wasserstein"]
            apart[0] = max(apart[0], abs(loss - mine[0]) / abs(loss))
            apart[1] = max(apart[1], float((slope - mine[1]).norm() / slope.norm()))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        "batch": batch,
        "dim": dim,
        **medians,
        "ratio": medians["pot"] / medians["wasserstein"],
        "loss_apart": apart[0],
        "gradient_apart": apart[1],
    }


def cross_entropy_step(repeats: int) -> float:
    """CPU seconds of a step of stage 1 without alignment, at the size of benchmarks/step.py."""
    from step import Size, turns

    return turns(Size(), ["base"], repeats)["base"]["cpu_seconds"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 48])
    parser.add_argument("--dims", type=int, nargs="+", default=[896])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", type=Path, help="Also write the figures here.")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, POT {ot.__version__}")
    print("batch  dim   wasserstein   maxsim     mean      pot      ratio   loss, gradient apart (relative)")
    rows = []
    for dim in chosen.dims:
        for batch in chosen.batches:
            row = measure(batch, dim, chosen.repeats)
            rows.append(row)
            times = "  ".join(f"{1000 * row[name]:8.1f} ms" for name in (*SIMILARITIES, "pot"))
            print(
                f"{batch:5d} {dim:5d}  {times}  {row['ratio']:5.1f}x  "
                f"{row['loss_apart']:.1e}, {row['gradient_apart']:.1e}",
                flush=True,
            )
    step = cross_entropy_step(3)
    print(f"a cross-entropy step (12 layers x 512, batch 16): {1000 * step:.0f} ms")
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows, "cross_entropy_step": step}, indent=1))


if __name__ == "__main__":
    main()
