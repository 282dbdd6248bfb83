"""What a run logs, row by row while it goes on: means of its losses, its speed, padding and memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from aista import processes
from aista.files import write_whole


class Sums:
    """Losses and figures since the last row of the log, over steps; and the loss since the run began.

    A loss is a part of its step's loss: its mean is over steps, and over the processes, which all have their
    parts. A figure (token accuracy) has a weight, and its mean is a ratio of sums.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._weights: dict[str, Tensor | float] = {}
        self._total: Tensor | float = 0.0  # of the loss, up to the last reading
        self._read_at = 0

    def add(self, parts: dict[str, Tensor], weights: dict[str, Any]) -> None:
        """Add what a micro-batch contributes; a device is not asked."""
        for name, value in parts.items():
            weight = weights.get(name)
            self._sums[name] = self._sums.get(name, 0.0) + (value if weight is None else value * weight)
            if weight is not None:
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def read(self, step: int) -> dict[str, float]:
        """Return the means over all processes, and start anew.

        Args:
            step: Steps done.
        """
        shares = processes.gather(self.state())
        steps = max(step - self._read_at, 1) * len(shares)
        means = {}
        for name in dict.fromkeys(name for share in shares for name in share["sums"]):
            total = sum(share["sums"].get(name, 0.0) for share in shares)
            weight = sum(share["weights"].get(name, 0.0) for share in shares)
            weighted = any(name in share["weights"] for share in shares)
            means[name] = total / (max(weight, 1.0) if weighted else steps)
        self._total = self._total + float(self._sums.get("loss", 0.0))
        self._sums, self._weights, self._read_at = {}, {}, step
        return means

    def total_loss(self) -> float:
        """Return the sum of the loss over all steps of the run, a mean over processes."""
        totals = processes.gather(float(self._total) + float(self._sums.get("loss", 0.0)))
        return sum(totals) / len(totals)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain numbers."""
        sums, weights = ({k: float(v) for k, v in side.items()} for side in (self._sums, self._weights))
        return {"sums": sums, "weights": weights, "total": float(self._total), "read_at": self._read_at}

    def load(self, shares: list[dict[str, Any]], rank: int, count: int) -> None:
        """Go on from the shares of all processes; the first takes them all where their number has changed."""
        mine = [shares[rank]] if len(shares) == count else shares if rank == 0 else []
        scale = 1.0 if len(shares) == count else count / len(shares)
        for share in mine:
            for name, value in share["sums"].items():
                weighted = name in share["weights"]
                self._sums[name] = self._sums.get(name, 0.0) + value * (1.0 if weighted else scale)
            for name, value in share["weights"].items():
                self._weights[name] = self._weights.get(name, 0.0) + value
            self._total = self._total + share["total"] * scale
        self._read_at = shares[0]["read_at"]


class Meter:
    """Counts what goes through a model between two readings; reading is the only time a device is asked."""

    def __init__(self) -> None:
        self._counts: list[Tensor] = []
        self._cells = self._rows = 0
        self._start = time.perf_counter()

    def note(self, mask: Tensor) -> None:
        """Count a micro-batch by its attention mask (B, T)."""
        self._counts.append(mask.sum())
        self._rows, self._cells = self._rows + mask.shape[0], self._cells + mask.numel()

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        self._start += seconds

    def counts(self) -> list[float]:
        """Return utterances, tokens and places since the last reading: what processes may add up."""
        tokens = float(torch.stack(self._counts).sum()) if self._counts else 0.0
        return [float(self._rows), tokens, float(self._cells)]

    def read_all(self) -> dict[str, float]:
        """Return the figures of all processes, and start anew."""
        return self.read([sum(column) for column in zip(*processes.gather(self.counts()), strict=True)])

    def read(self, counts: list[float]) -> dict[str, float]:
        """Return the figures for these counts, and start anew.

        Returns:
            ``utterances_per_second``, ``tokens_per_second`` (real tokens of the speech branch),
            ``padding_waste`` (share of its places that are pads), ``memory_mb`` (most so far: of the
            accelerator, or else resident memory).
        """
        rows, tokens, cells = counts
        seconds = max(time.perf_counter() - self._start, 1e-9)
        self.__init__()  # type: ignore[misc]
        return {
            "utterances_per_second": rows / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_waste": 1 - tokens / max(cells, 1),
            "memory_mb": peak_memory_bytes() / 1e6,
        }


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on its accelerator, or else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


PROGRESS = "progress.jsonl"


class Journal(TrainerCallback):
    """Appends every logged row, with its step and the time, to ``progress.jsonl`` in the run's folder.

    A run that goes on from a checkpoint first drops the rows after it: every step stands there once.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / PROGRESS

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Keep the rows up to the step that the run starts from."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        rows = (row for row in self.path.read_text(encoding="utf-8").split("\n") if row.endswith("}"))
        kept = [row for row in rows if json.loads(row)["step"] <= state.global_step]
        write_whole(self.path, "".join(f"{row}\n" for row in kept))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        """Append a row."""
        if not state.is_world_process_zero or not logs:
            return
        row = {"step": state.global_step, "time": round(time.time(), 3), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
