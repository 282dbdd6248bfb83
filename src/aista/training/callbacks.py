"""What watches a run: its figures, progress bar and journal, signals that stop it, losses not finite."""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ProgressCallback

from aista import processes
from aista.errors import TrainingError
from aista.files import write_whole

PROGRESS, NONFINITE = "progress.jsonl", "nonfinite_batch.json"
_IN_A_ROW = 10


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

    def read(self) -> dict[str, float]:
        """Return the figures of all processes since the last reading, and start anew.

        Returns:
            ``utterances_per_second``, ``tokens_per_second`` (real tokens of the speech branch),
            ``padding_waste`` (share of its places that are pads), ``memory_mb`` (most so far of this process:
            on its accelerator, or else resident).
        """
        shares = processes.gather(self.counts())
        rows, tokens, cells = (sum(column) for column in zip(*shares, strict=True))
        seconds = max(time.perf_counter() - self._start, 1e-9)
        unit = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        self.__init__()  # type: ignore[misc]
        return {
            "utterances_per_second": rows / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_waste": 1 - tokens / max(cells, 1),
            "memory_mb": memory / 1e6,
        }


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


class Progress(ProgressCallback):
    """A bar whose right end shows the newest losses and token accuracy instead of printing dictionaries.

    Attributes:
        shown: Names of the figures to show; the trainer adds the parts of its loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = {"eval_token_accuracy", "eval_mrr", "learning_rate"}
        self._newest: dict[str, str] = {}

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the newest value of each shown figure at the end of the bar."""
        if self.training_bar is not None and logs:
            self._newest |= {name: f"{value:.4g}" for name, value in logs.items() if name in self.shown}
            self.training_bar.set_postfix(self._newest)


class StopOnSignal(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save, stop. A second Ctrl-C stops at once.

    A validation may take longer than who sent the signal waits: it is broken off, and the run that goes on
    begins with it.

    Of several processes all stop after the same step, whichever of them the signal reached. Their launcher
    repeats it to each of them, so there a second one is not heard; the launcher ends who takes too long.

    Attributes:
        stopped: Whether the run was stopped by a signal.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Take both signals from now on."""
        for name in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[name] = signal.signal(name, self._note)
            except ValueError:  # not in the main thread: whoever runs us listens
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if processes.count() == 1:
            self.on_train_end()

    def heard(self) -> bool:
        """Say whether a signal came to any process; all have to ask at the same place."""
        self.stopped = processes.any_of(self.stopped)
        return self.stopped

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop after the step in which a signal came."""
        if self.heard():
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Give the signals back."""
        for name, handler in self._previous.items():
            signal.signal(name, handler)
        self._previous.clear()


class Clock:
    """Time spent training over all resumptions: kept beside every checkpoint, and however training ends."""

    def __init__(self, output: Path) -> None:
        self._path, self._start = output / "seconds", time.perf_counter()
        self._before = float(self._path.read_text()) if self._path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """Up to now."""
        return self._before + time.perf_counter() - self._start

    def keep(self) -> None:
        """Remember them for the next attempt; a disk that is full has been told of already."""
        if processes.is_main():
            with suppress(OSError):
                write_whole(self._path, f"{self.seconds:.3f}")


class FiniteLosses:
    """Watches the losses of a run.

    Args:
        output: The run's folder; batches are noted in ``nonfinite_batch.json`` there.
        action: ``stop``: raise. ``skip``: the batch gives no gradient; ten in a row still stop the run.

    With ``stop`` an accelerator is not asked in every step, but before anything is logged, validated or saved
    (:meth:`check`), so no bad weights are kept. With ``skip`` it has to be.
    """

    def __init__(self, output: Path, action: Literal["stop", "skip"]) -> None:
        self.output, self.action = output, action
        self._unread: list[tuple[int, Tensor, list[str]]] = []
        self._skipped = 0

    def allow(self, step: int, loss: Tensor, ids: Sequence[str] | None) -> bool:
        """Take note of a micro-batch; say whether its loss may be descended.

        Raises:
            TrainingError: It is not finite, and that ends the run.
        """
        self._unread.append((step, loss.detach(), list(ids or ())))
        if self.action == "stop":
            if loss.device.type == "cpu":
                self.check()
            return True
        bad = self._read()
        self._skipped = self._skipped + 1 if processes.any_of(bool(bad)) else 0
        if self._skipped >= _IN_A_ROW:
            raise self._error(bad, f"{_IN_A_ROW} batches in a row had no finite loss.")
        return not self._skipped

    def check(self) -> None:
        """Look at the losses that were not looked at yet.

        Raises:
            TrainingError: One of them is not finite.
        """
        found = [row for rows in processes.gather(self._read()) for row in rows]
        if found:  # a bad gradient spoils everybody's next step: the first one tells
            first = min(row["step"] for row in found)
            bad = [row for row in found if row["step"] == first]
            raise self._error(bad, f"The loss is not finite at step {first}.")

    def _read(self) -> list[dict]:
        """Return the bad ones among the unread, and write them down."""
        unread, self._unread = self._unread, []
        if not unread:
            return []
        losses = torch.stack([loss for _, loss, _ in unread]).tolist()
        bad = [
            {"step": step, "loss": str(loss), "utterances": ids}
            for (step, _, ids), loss in zip(unread, losses, strict=True)
            if loss != loss or abs(loss) == float("inf")
        ]
        if bad:
            path = self.output / (NONFINITE if processes.is_main() else f"{processes.rank()}_{NONFINITE}")
            before = json.loads(path.read_text()) if path.exists() else []
            write_whole(path, json.dumps(before + bad, indent=1, ensure_ascii=False))
        return bad

    def _error(self, bad: list[dict], what: str) -> TrainingError:
        return TrainingError(
            what,
            got="; ".join(f"{row['loss']} for {', '.join(row['utterances'])}" for row in bad) or None,
            advice=f"Look at these utterances (*{NONFINITE} in {self.output}), lower the learning "
            "rate, raise alignment.alpha, or set train.nonfinite=skip.",
        )
