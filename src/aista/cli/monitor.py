"""``aista monitor``: where a run stands, read from its folder: step, speed, time to go, its curves."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aista.cli import examples
from aista.errors import TrainingError

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer()

_SPEED = ("utterances_per_second", "tokens_per_second", "padding_waste", "memory_mb")
# Logged, but no curve to look at while a run goes on.
_HIDDEN = {*_SPEED, "loss", "grad_norm", "learning_rate", "eval_seconds", "total_flos", "train_runtime",
           "train_samples_per_second", "train_steps_per_second", "train_loss"}  # fmt: skip
_RECENT = 20


@app.command(
    epilog=examples(
        "aista monitor runs/joint",
        "aista monitor runs/joint --follow",
    )
)
def monitor(
    folder: Annotated[Path, typer.Argument(help="Output folder of `aista align`, `pretrain` or `joint`.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay and redraw until it is finished.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks with --follow.")] = 5.0,
) -> None:
    """Show a training run: step, speed, time to go, best so far, losses, curves.

    It only reads files, so it may be called from another terminal or another machine.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(emoji=False)
    state = read(folder)
    if not follow:
        console.print(render(state, console.width))
        return
    with Live(render(state, console.width), console=console, auto_refresh=False) as live:
        while not state.finished:
            time.sleep(every)
            state = read(folder)
            live.update(render(state, console.width), refresh=True)


@dataclass(frozen=True)
class RunState:
    """A training run at one moment.

    Attributes:
        folder: Of the run.
        stage: ``align``, ``pretrain`` or ``joint``.
        finished: Whether nothing is left to do.
        step, total: Optimiser steps taken, and the most there will be.
        seconds_per_step: Median of late; None before two rows are logged.
        silent_seconds: Since the newest row; None where the rows carry no time.
        best, best_step: Highest ``measure`` of a validation.
        measure: Token accuracy; MRR where an alignment is validated by retrieval alone.
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
    measure: str = "token accuracy"
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
    import yaml

    try:
        settings = yaml.safe_load((folder / "settings.yaml").read_text())
        train = settings["train"]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        raise TrainingError(
            f"{folder} holds no training run.",
            expected="the output folder of `aista align`, `aista pretrain` or `aista joint`",
        ) from None
    rows, finished = _rows(folder), (folder / "training.json").exists()
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("step", "time", "epoch"):
                curves.setdefault(name, []).append((row["step"], float(value)))
    measure = "token accuracy" if "eval_token_accuracy" in curves else "MRR"
    checks = curves.get("eval_token_accuracy") or curves.get("eval_mrr", [])
    begins = "pretrain" if "alpha" in settings.get("alignment", {}) else "align"
    best_step, best = max(checks, key=lambda check: (check[1], -check[0]), default=(None, None))
    times = [(row["step"], row["time"]) for row in rows if "time" in row]
    # A pause between two attempts is one outlier, which a median passes over.
    pairs = [(a, b) for a, b in itertools.pairwise(times) if b[0] > a[0]][-_RECENT:]
    paces = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
    return RunState(
        folder=folder,
        stage=begins if "model" in settings else "joint",  # which begins from a model alone
        finished=finished,
        step=max((int(row["step"]) for row in rows), default=0),
        total=int(train["max_steps"]),
        seconds_per_step=median(paces) if paces else None,
        silent_seconds=max(0.0, time.time() - times[-1][1]) if times else None,
        best=best,
        measure=measure,
        best_step=None if best_step is None else int(best_step),
        checks_without_gain=sum(1 for at, _ in checks if best_step is not None and at > best_step),
        patience=train.get("patience"),
        newest={name: points[-1][1] for name, points in curves.items()},
        curves=curves,
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged, from the history of a finished run, or its journal."""
    if (folder / "history.json").exists() and (folder / "training.json").exists():
        return json.loads((folder / "history.json").read_text())
    if not (folder / "progress.jsonl").exists():
        return []
    lines = (folder / "progress.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last may be half-written


def render(state: RunState, width: int = 100) -> RenderableType:
    """Draw a run: a line on where it stands, its newest figures, a curve for every loss and accuracy."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    def chart(points: list[tuple[float, float]], across: int, height: int = 6) -> str:
        low, high = min(y for _, y in points), max(y for _, y in points)
        labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
        margin = max(map(len, labels))
        lines = curve(points, max(10, across - margin - 1), height)
        return "\n".join(f"{label:>{margin}} {line}" for label, line in zip(labels, lines, strict=True))

    panels = [
        Panel(Text(chart(points, min(width, 100) // 2 - 6)), title=name, expand=False)
        for name, points in state.curves.items()
        if name not in _HIDDEN and len(points) > 1
    ]
    return Group(Text("\n".join(summary(state))), Columns(panels))


def summary(state: RunState) -> list[str]:
    """Say in words where a run stands."""
    if state.finished:
        condition = "finished"
    elif state.silent_seconds is None:
        condition = "not finished" if state.step else "nothing logged yet"
    else:
        usual = 60 + 10 * _RECENT * (state.seconds_per_step or 6)
        word = "running" if state.silent_seconds < usual else "silent, perhaps stopped"
        condition = f"{word}, last row {_span(state.silent_seconds)} ago"
    share = state.step / max(state.total, 1)
    bar = f"{'#' * round(30 * share):-<30}"
    lines = [
        f"{state.folder} ({state.stage}): {condition}",
        f"[{bar}] step {state.step:,} of {state.total:,} ({share:.0%})",
    ]
    if state.seconds_per_step is not None and not state.finished:
        lines[-1] += f", {state.seconds_per_step:.2f} s a step, {_span(state.remaining_seconds or 0)} to go"
    if state.best is not None:
        best = f"best {state.measure} {state.best:.4f} at step {state.best_step:,}"
        lines.append(f"{best}; {state.checks_without_gain} checks since")
        if state.patience:
            lines[-1] += f", stops after {state.patience}"
    figures = [f"{n.replace('_', ' ')} {state.newest[n]:,.4g}" for n in _SPEED if n in state.newest]
    losses = [f"{n} {value:.4g}" for n, value in state.newest.items() if n not in _HIDDEN]
    return [*lines, *(", ".join(part) for part in (losses, figures) if part)]


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
    dots = [(x, round((1 - (mean(bins[x]) - low) / up) * (rows - 1))) for x in sorted(bins)]
    cells = [[0] * width for _ in range(height)]
    for (x0, y0), (x1, y1) in zip([dots[0], *dots], dots, strict=False):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for k in range(steps + 1):
            x, y = round(x0 + (x1 - x0) * k / steps), round(y0 + (y1 - y0) * k / steps)
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]
