"""What is seen while an experiment runs: the console, bars, the time of every stage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aista.files import write_whole

console = Console()


@contextmanager
def bar(unit: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yields ``update(done, total, loss=None)``."""
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as shown:
        task = shown.add_task(unit, total=None, news="")

        def update(done: int, total: int, loss: float | None = None) -> None:
            shown.update(task, completed=done, total=total, news="" if loss is None else f"loss {loss:.3f}")

        yield update


class Clock:
    """Seconds of every stage, on disk: a resumed run still knows what its stages took."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Announce and time a stage; time spent on it before an interruption counts too."""
        console.rule(f"[bold]{title}", align="left", style="dim")
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a stage without a word."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add time to a stage."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)
        write_whole(self._path, json.dumps(self.seconds))


def duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
