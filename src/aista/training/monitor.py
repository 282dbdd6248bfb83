"""Where a run stands, read from its folder: step, speed, what remains, the best so far, its curves."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from aista.errors import TrainingError

Row = dict[str, Any]

_SPEED = ("utterances_per_second", "tokens_per_second", "padding_waste", "memory_mb")
# Logged, but no curve to look at while a run goes on.
_HIDDEN = {*_SPEED, "loss", "grad_norm", "learning_rate", "eval_seconds", "total_flos", "train_runtime",
           "train_samples_per_second", "train_steps_per_second", "train_loss"}  # fmt: skip
_RECENT = 20


@dataclass(frozen=True)
class RunState:
    """A training run at one moment.

    Attributes:
        folder: Of the run.
        stage: ``pretrain`` or ``joint``.
        finished: Whether nothing is left to do.
        step, total: Optimiser steps taken, and the most there will be.
        seconds_per_step: Median of late; None before two rows are logged.
        silent_seconds: Since the newest row; None where the rows carry no time.
        best, best_step: Highest token accuracy of a validation.
        checks_without_gain, patience: Validations since the best, and how many end the run.
        newest: Newest value of everything that is logged.
        curves: Name -> (step, value).
    """

    folder: Path
    stage: str
    finished: bool
    step: int
    total: int
    seconds_per_step: float | None = None
    silent_seconds: float | None = None
    best: float | None = None
    best_step: int | None = None
    checks_without_gain: int = 0
    patience: int | None = None
    newest: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def remaining_seconds(self) -> float | None:
        """How long the steps that are left will take, validations not counted."""
        if self.finished or self.seconds_per_step is None:
            return None
        return (self.total - self.step) * self.seconds_per_step


def read(folder: Path) -> RunState:
    """Read the state of a run.

    Raises:
        TrainingError: The folder holds no run.
    """
    try:
        settings = yaml.safe_load((folder / "settings.yaml").read_text())
        train = settings["train"]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        raise TrainingError(
            f"{folder} holds no training run.",
            expected="the output folder of `aista pretrain` or `aista joint`",
        ) from None
    rows, finished = _rows(folder), (folder / "training.json").exists()
    step = max((int(row["step"]) for row in rows), default=0)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("step", "time", "epoch"):
                curves.setdefault(name, []).append((row["step"], float(value)))
    checks = curves.get("eval_token_accuracy", [])
    best_step, best = max(checks, key=lambda check: (check[1], -check[0]), default=(None, None))
    times = [(row["step"], row["time"]) for row in rows if "time" in row]
    return RunState(
        folder=folder,
        stage="joint" if "init" in settings else "pretrain",
        finished=finished,
        step=step,
        total=int(train["max_steps"]),
        seconds_per_step=_pace(times),
        silent_seconds=max(0.0, time.time() - times[-1][1]) if times else None,
        best=best,
        best_step=None if best_step is None else int(best_step),
        checks_without_gain=sum(1 for at, _ in checks if best_step is not None and at > best_step),
        patience=train.get("patience"),
        newest={name: points[-1][1] for name, points in curves.items()},
        curves=curves,
    )


def _rows(folder: Path) -> list[Row]:
    """Return what was logged, from the history of a finished run, its journal, or its newest checkpoint."""
    if (folder / "history.json").exists() and (folder / "training.json").exists():
        return json.loads((folder / "history.json").read_text())
    if (folder / "progress.jsonl").exists():
        lines = (folder / "progress.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.endswith("}")]  # the last may be half-written
    states = sorted(
        folder.glob("checkpoints/checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime
    )
    return json.loads(states[-1].read_text())["log_history"] if states else []


def _pace(times: list[tuple[int, float]]) -> float | None:
    """Return the median seconds per step of late; a pause between two attempts is one outlier."""
    pairs = [(a, b) for a, b in itertools.pairwise(times) if b[0] > a[0]][-_RECENT:]
    paces = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
    return median(paces) if paces else None


# ---- in the terminal ----


def render(state: RunState, width: int = 100) -> RenderableType:
    """Draw a run: a line on where it stands, its newest figures, a curve for every loss and accuracy."""
    panels = [
        Panel(Text("\n".join(_chart(points, min(width, 100) // 2 - 6))), title=name, expand=False)
        for name, points in state.curves.items()
        if name not in _HIDDEN and len(points) > 1
    ]
    return Group(Text("\n".join(summary(state))), Columns(panels))


def summary(state: RunState) -> list[str]:
    """Say in words where a run stands."""
    share = state.step / max(state.total, 1)
    done = "#" * round(30 * share)
    lines = [f"{state.folder} ({state.stage}): {_condition(state)}"]
    lines.append(f"[{done:-<30}] step {state.step:,} of {state.total:,} ({share:.0%})")
    if state.seconds_per_step is not None and not state.finished:
        lines[-1] += f", {state.seconds_per_step:.2f} s a step, {_span(state.remaining_seconds or 0)} to go"
    if state.best is not None:
        lines.append(f"best token accuracy {state.best:.4f} at step {state.best_step:,}")
        if state.patience:
            lines[-1] += f"; {state.checks_without_gain} checks since, stops after {state.patience}"
    figures = [f"{n.replace('_', ' ')} {state.newest[n]:,.4g}" for n in _SPEED if n in state.newest]
    losses = [f"{n} {value:.4g}" for n, value in state.newest.items() if n not in _HIDDEN]
    return [*lines, *(", ".join(part) for part in (losses, figures) if part)]


def _condition(state: RunState) -> str:
    if state.finished:
        return "finished"
    if state.silent_seconds is None:
        return "not finished" if state.step else "nothing logged yet"
    usual = 60 + 10 * _RECENT * (state.seconds_per_step or 6)
    word = "running" if state.silent_seconds < usual else "silent, perhaps stopped"
    return f"{word}, last row {_span(state.silent_seconds)} ago"


def _chart(points: list[tuple[float, float]], width: int, height: int = 6) -> Iterator[str]:
    low, high = min(y for _, y in points), max(y for _, y in points)
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    margin = max(map(len, labels))
    for label, line in zip(labels, curve(points, max(10, width - margin - 1), height), strict=True):
        yield f"{label:>{margin}} {line}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# Bits of the dots of U+2800: column, then row from the top.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def curve(points: Sequence[tuple[float, float]], width: int, height: int) -> list[str]:
    """Draw points, joined from left to right.

    Args:
        points: (x, y), at least one; of those that share a column of dots the mean is drawn.
        width, height: In characters.

    Returns:
        ``height`` lines of ``width`` characters.
    """
    columns, rows = 2 * width, 4 * height
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, low = min(xs), min(ys)
    across, up = (max(xs) - left) or 1.0, (max(ys) - low) or 1.0
    bins: dict[int, list[float]] = defaultdict(list)
    for x, y in points:
        bins[round((x - left) / across * (columns - 1))].append(y)
    cells = [[0] * width for _ in range(height)]
    before: tuple[int, int] | None = None
    for column in sorted(bins):
        level = (sum(bins[column]) / len(bins[column]) - low) / up
        row = round((1 - level) * (rows - 1))
        for x, y in _between(before or (column, row), (column, row)):
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
        before = (column, row)
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]


def _between(start: tuple[int, int], stop: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the dots of a straight line."""
    steps = max(abs(stop[0] - start[0]), abs(stop[1] - start[1]), 1)
    return [
        (
            round(start[0] + (stop[0] - start[0]) * k / steps),
            round(start[1] + (stop[1] - start[1]) * k / steps),
        )
        for k in range(steps + 1)
    ]
