"""Many processes at once: a queue that can be stopped, watched and gone on with.

A command has a log and waits for the commands it needs. Ctrl-C (or SIGTERM) asks every process to save and
stop; the same call goes on later, because a command that has ended says so itself.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from aista.experiments.progress import duration

AISTA = (sys.executable, "-m", "aista")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_BAR = re.compile(r"(\d+)/(\d+) \(")  # of tqdm; see last_line
_PATIENCE_SECONDS = 120.0
_TAIL_CHARACTERS = 3000


class Outcome(Enum):
    """How a command ended; the value is what a reader is told."""

    FINISHED = "finished"
    RESULT = "ended without a model, which is a result"
    FAILED = "failed"
    BLOCKED = "not started: something it needs did not finish"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: Unique; shown while it runs.
        kind: Commands of one kind take about the same time.
        arguments: What to run.
        log: Where its output goes.
        needs: Names of commands that must have finished.
        already: How it ended in an earlier attempt; None: it has to run.
        is_result: Given the end of the log of a failed command: whether failing is what came out.
        is_steady: Its log is one progress bar, which tells how far it is.
        all_cores: It gets every core, not its share: nothing else runs beside it.
    """

    name: str
    kind: str
    arguments: Sequence[str]
    log: Path
    needs: tuple[str, ...] = ()
    already: Callable[[], Outcome | None] = lambda: None
    is_result: Callable[[str], bool] = lambda tail: False
    is_steady: bool = False
    all_cores: bool = False

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-_TAIL_CHARACTERS:] if self.log.exists() else ""


@dataclass
class _Running:
    command: Command
    process: subprocess.Popen
    task: TaskID
    start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def projected(self) -> float | None:
        """Return the seconds it will have taken, as far as its progress bar tells."""
        if not self.command.is_steady or not (found := _BAR.search(last_line(self.command.log))):
            return None
        done, total = int(found[1]), int(found[2])
        return self.seconds * total / done if done >= total / 50 else None


class Queue:
    """Runs commands, as many at once as there are workers.

    Args:
        commands: In the order in which they should start.
        workers: Processes at once; the cores are shared out among them.
        seconds: Name -> seconds of earlier attempts, for the remaining time.
        guesses: Kind -> seconds, until one of the kind has finished.
        on_time: Told (name, seconds) whenever a process ends.
        console: Where to show it.
    """

    def __init__(
        self, commands: Sequence[Command], workers: int, *, seconds: Mapping[str, float] | None = None,
        guesses: Mapping[str, float] | None = None, on_time: Callable[[str, float], None] | None = None,
        console: Console | None = None,
    ) -> None:  # fmt: skip
        self.workers = workers
        self.seconds, self.guesses = dict(seconds or {}), dict(guesses or {})
        self.on_time = on_time or (lambda name, spent: None)
        self.console = console or Console()
        self.commands = {command.name: command for command in commands}
        self.outcomes: dict[str, Outcome] = {}
        self._running: list[_Running] = []
        self._finished_here: dict[str, list[float]] = defaultdict(list)

    def run(self) -> dict[str, Outcome]:
        """Run everything and return how each command ended; a command that fails does not stop the others.

        Raises:
            KeyboardInterrupt: A signal came; the processes have saved and stopped.
        """
        with self._bars() as (bars, overall), _signals():
            try:
                while True:
                    self._reap(bars)
                    self._start(bars)
                    if not self._running:
                        break
                    self._show(bars, overall)
                    time.sleep(0.3)
                self._show(bars, overall)
            except KeyboardInterrupt:
                self._stop()
                raise
        return self.outcomes

    def remaining_seconds(self) -> float:
        """Estimate the time left from commands that have finished."""
        running = {row.command.name: row for row in self._running}
        waiting = [
            command
            for name, command in self.commands.items()
            if name not in self.outcomes and name not in running
        ]
        left = sum(self._expected(command) for command in waiting)
        for row in running.values():
            left += max(0.0, (row.projected() or self._expected(row.command)) - row.seconds)
        return left / self.workers

    # ---- steps of the loop ----

    def _start(self, bars: Progress) -> None:
        busy = {row.command.name for row in self._running}
        for name, command in self.commands.items():
            if name in busy or name in self.outcomes:
                continue
            ends = [
                self.outcomes.get(other, Outcome.FINISHED if other not in self.commands else None)
                for other in command.needs
            ]
            if any(end not in (None, Outcome.FINISHED) for end in ends):
                blocked = any(end in (Outcome.FAILED, Outcome.BLOCKED) for end in ends)
                self.outcomes[name] = Outcome.BLOCKED if blocked else Outcome.RESULT
            elif None not in ends:
                if (before := command.already()) is not None:
                    self.outcomes[name] = before
                elif len(self._running) < self.workers:
                    self._running.append(self._launched(command, bars))

    def _launched(self, command: Command, bars: Progress) -> _Running:
        command.log.parent.mkdir(parents=True, exist_ok=True)
        share = 1 if command.all_cores else self.workers
        threads = str(max(1, (os.cpu_count() or 1) // share))
        with open(command.log, "wb") as log:
            process = subprocess.Popen(
                list(command.arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(_THREADS, threads)},
                start_new_session=True,  # Ctrl-C in a terminal must reach it once, through us
                preexec_fn=_before_start,
            )
        return _Running(command, process, bars.add_task(command.name, total=None, news=""))

    def _reap(self, bars: Progress) -> None:
        for row in [row for row in self._running if row.process.poll() is not None]:
            self._running.remove(row)
            bars.remove_task(row.task)
            self.on_time(row.command.name, row.seconds)
            command, spent = row.command, self.seconds.get(row.command.name, 0.0) + row.seconds
            self.seconds[command.name] = spent
            if row.process.returncode == 0:
                self.outcomes[command.name] = Outcome.FINISHED
                self._finished_here[command.kind].append(spent)
            else:
                failed = not command.is_result(command.tail())
                self.outcomes[command.name] = Outcome.FAILED if failed else Outcome.RESULT
            self._report(command, spent)

    def _report(self, command: Command, spent: float) -> None:
        """Leave one line behind, also where there is no terminal to draw bars on."""
        outcome = self.outcomes[command.name]
        done, left = len(self.outcomes), duration(self.remaining_seconds())
        text = f"{time.strftime('%H:%M')} {command.name}: {outcome.value}, {duration(spent)}"
        self.console.print(
            f"{text} ({done} of {len(self.commands)}, about {left} left)", markup=False, soft_wrap=True
        )
        if outcome is Outcome.FAILED:
            self.console.print(command.tail()[-800:], markup=False, style="red")

    def _expected(self, command: Command) -> float:
        known = self._finished_here[command.kind] or [
            seconds for name, seconds in self.seconds.items()
            if name in self.commands and self.commands[name].kind == command.kind and name in self.outcomes
        ]  # fmt: skip
        known = known or [
            s for row in self._running if row.command.kind == command.kind and (s := row.projected())
        ]
        return sum(known) / len(known) if known else self.guesses.get(command.kind, 60.0)

    def _stop(self) -> None:
        """Ask every process to save and stop; a second signal, or two minutes, end them at once."""
        self.console.print("Stopping: the runs save what they have. The same command goes on.", markup=False)
        for row in self._running:
            row.process.send_signal(signal.SIGINT)
        deadline = time.perf_counter() + _PATIENCE_SECONDS
        try:
            for row in self._running:
                row.process.wait(max(0.1, deadline - time.perf_counter()))
                self.on_time(row.command.name, row.seconds)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            for row in self._running:
                if row.process.poll() is None:
                    os.killpg(row.process.pid, signal.SIGKILL)
                    row.process.wait()

    # ---- what is seen ----

    @contextmanager
    def _bars(self) -> Iterator[tuple[Progress, TaskID]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
        )
        with Progress(*columns, console=self.console, refresh_per_second=2) as bars:
            yield bars, bars.add_task("all", total=len(self.commands), news="")

    def _show(self, bars: Progress, overall: TaskID) -> None:
        news = f"about {duration(self.remaining_seconds())} left"
        bars.update(overall, completed=len(self.outcomes), news=news)
        for row in self._running:
            bars.update(row.task, news=last_line(row.command.log))


def last_line(path: Path, width: int = 90) -> str:
    """Return the newest line of a log; a progress bar rewrites its line after a carriage return."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    newest = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return newest.replace("[", "(").replace("]", ")")[:width]


def _before_start() -> None:
    """In the new process: obey Ctrl-C even if a background shell told us not to, and do not outlive us."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGINT are KeyboardInterrupt while the queue runs, whatever the shell had set."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
