"""The one runner of plans: prepares the data, runs what is not finished, several processes at once.

Ctrl-C (or SIGTERM) asks every process to save and stop; the same call goes on later, because a job that has
ended says so itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aista import processes
from aista.errors import ConfigError
from aista.files import sha256_of, write_whole

if TYPE_CHECKING:
    from aista.experiments.plan import Job, Plan

AISTA = (sys.executable, "-m", "aista")
TRAINING = ("align", "pretrain", "joint")
RECORD = "run.json"
console = Console(emoji=False)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_BAR = re.compile(r"(\d+)/(\d+) \(")  # of tqdm; see last_line
_PATIENCE_SECONDS = 120
_TORCHRUNS = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "100"}  # a little less; by itself it kills after 30 s
_TAIL_CHARACTERS = 3000


class Outcome(Enum):
    """How a job ended; the value is what a reader is told."""

    FINISHED = "finished"
    RESULT = "ended without a model, which is a result"
    FAILED = "failed"
    BLOCKED = "not started: something it needs did not finish"


_BAD = (Outcome.FAILED, Outcome.BLOCKED)


class Runner:
    """Runs a plan.

    Args:
        plan: What to do.
        workers: Processes at once, the cores shared out among them; 0: one after the other in this process.
            None: one per core.
        launch: Command that starts a training verb, e.g. ``torchrun --nproc_per_node 8 -m aista``.

    Raises:
        ConfigError: A command to launch, and no process to launch it in.
    """

    def __init__(self, plan: Plan, *, workers: int | None = None, launch: Sequence[str] = AISTA) -> None:
        self.plan, self.launch = plan, tuple(launch)
        self.workers = processes.cores() if workers is None else workers
        if self.workers == 0 and self.launch != AISTA:
            raise ConfigError(
                "Without workers everything runs in this process: nothing is launched.",
                got=f"--workers 0 --launch {shlex.join(launch)!r}",
                advice="Use --workers 1, or leave --launch out.",
            )
        self.clock = Clock(plan.folder / "seconds.json")

    def commands(self) -> list[str]:
        """Return what would be run, as a shell understands it; nothing is written."""
        lines = (shlex.join(job.arguments(self.plan.folder, self.launch)) for job in self.plan.jobs())
        return [line.replace(shlex.join(AISTA), "aista") for line in lines]

    def run(self) -> list[str]:
        """Run what is not finished and return the names of what failed.

        Raises:
            KeyboardInterrupt: A signal came; what was running has been saved.
            ConfigError: Another process is at work in this folder, or data is missing.
        """
        from aista.run_folder import held

        with held(self.plan.folder), self._recorded():
            self.plan.prepare(self.clock)
            jobs = self.plan.jobs()
            self._note(jobs)
            for job in jobs:
                job.settings.save(job.config(self.plan.folder))
            outcomes = self._one_by_one(jobs) if self.workers == 0 else self._side_by_side(jobs)
            failed = [job.name for job in jobs if outcomes[job.name] in _BAD]
            self._record(accepted=not failed)
        for name in failed:
            console.print(f"{name}: {outcomes[name].value}", markup=False, style="red")
        return failed

    def results(self) -> Any:
        """Make tables, figures and the page of the plan from what is there."""
        return self.plan.results(self.clock)

    def log(self, job: Job) -> Path:
        """Return where the output of a job goes."""
        return self.plan.folder / "logs" / f"{job.file_name}.log"

    def _side_by_side(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        commands = [
            Command(
                job.name, job.kind, job.arguments(self.plan.folder, self.launch), self.log(job), job.needs,
                already=job.already, is_result=job.has_diverged, is_steady=job.verb in TRAINING,
                all_cores=job.all_cores,
            )
            for job in jobs
        ]  # fmt: skip
        return Queue(
            commands, self.workers, seconds=self.clock.seconds, guesses=self.plan.guesses,
            on_time=self.clock.add, console=console,
        ).run()  # fmt: skip

    def _one_by_one(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for job in jobs:
            needs = {outcomes[name] for name in job.needs}
            if needs <= {Outcome.FINISHED}:
                with self.clock.timed(job.name):
                    outcomes[job.name] = job.here()
            else:
                outcomes[job.name] = Outcome.BLOCKED if needs & set(_BAD) else Outcome.RESULT
            console.print(f"{job.name}: {outcomes[job.name].value}", markup=False)
        return outcomes

    # ---- what is written down ----

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Write down command, machine and times, before and after."""
        begin = time.perf_counter()
        self._record()
        try:
            yield
        finally:
            self.clock.add("wall", time.perf_counter() - begin)
            self._record()

    def _record(self, accepted: bool = False) -> None:
        """Write it down; what was asked for stays as it was until a run that was asked so has ended well."""
        from aista.evaluation.evaluate import versions

        folder, now = self.plan.folder, time.strftime("%Y-%m-%d %H:%M:%S")
        before, asked = recorded(folder), dict(self.plan.asked)
        if not accepted:
            asked |= {name: before[name] for name in asked if name in before}
        if "methods" in asked:  # runs of earlier ones lie there still
            asked["methods"] = sorted({*asked["methods"], *before.get("methods", ())})
        values = {
            "command": shlex.join(["aista", *sys.argv[1:]]), "machine": machine() | {"workers": self.workers},
            "versions": versions(), "started": before.get("started", now), "finished": now, **asked,
        }  # fmt: skip
        write_whole(folder / RECORD, json.dumps(values, ensure_ascii=False, indent=1))

    def _note(self, jobs: Sequence[Job]) -> None:
        """Write down what each training is about to be made from: settings, data, versions.

        A folder that holds work keeps what it has: a run with other settings or data may be refused there.
        """
        from aista.run_folder import PROVENANCE, holds_work

        record = recorded(self.plan.folder)
        for job in jobs:
            if job.verb not in TRAINING or holds_work(job.output):
                continue
            data = job.settings.data
            values = {
                "name": job.name, "seed": job.settings.seed, "settings_sha256": job.settings.sha256(),
                "data_sha256": {path: sha256_of(Path(path)) for path in (*data.train, *data.validation)},
                "versions": record["versions"], "started": time.strftime("%Y-%m-%d %H:%M:%S"),
                "command": record["command"],
            }  # fmt: skip
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            write_whole(job.output / PROVENANCE, text)


def recorded(folder: Path) -> dict[str, Any]:
    """Return what a runner has written down in a folder; nothing where none has been."""
    return json.loads((folder / RECORD).read_text()) if (folder / RECORD).exists() else {}


def machine() -> dict[str, Any]:
    """Return the processor, the cores, the memory in GB, the system, and GPUs where there are any."""
    import torch

    info, memory = Path("/proc/cpuinfo"), None
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": found[1].strip() if found else platform.processor() or "unknown",
        "cores": processes.cores(),
        "ram_gb": memory,
        "system": f"{platform.system()} {platform.machine()}",
        **({"gpus": gpus} if gpus else {}),
    }


# ---- many processes at once ----


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
        all_cores: It has a thread per core, not its share of them; others may run beside it.
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
        self.console = console or Console(emoji=False)
        self.commands = {command.name: command for command in commands}
        self.outcomes: dict[str, Outcome] = {}
        self._running: list[_Running] = []
        self._finished_here: dict[str, list[float]] = defaultdict(list)

    def run(self) -> dict[str, Outcome]:
        """Run everything and return how each command ended; a command that fails does not stop the others.

        Raises:
            KeyboardInterrupt: A signal came; the processes have saved and stopped.
        """
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[news]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console, refresh_per_second=2) as bars, _signals():
            overall = bars.add_task("all", total=len(self.commands), news="")
            try:
                while True:
                    self._reap(bars)
                    self._start(bars)
                    self._show(bars, overall)
                    if not self._running:
                        return self.outcomes
                    time.sleep(0.3)
            except KeyboardInterrupt:
                self._stop()
                raise

    def remaining_seconds(self) -> float:
        """Estimate the time left from commands that have finished."""
        running = {row.command.name: row for row in self._running}
        left = 0.0
        for name, command in self.commands.items():
            if row := running.get(name):
                left += max(0.0, (row.projected() or self._expected(command)) - row.seconds)
            elif name not in self.outcomes:
                left += self._expected(command)
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
                blocked = any(end in _BAD for end in ends)
                self.outcomes[name] = Outcome.BLOCKED if blocked else Outcome.RESULT
            elif None not in ends:
                if (before := command.already()) is not None:
                    self.outcomes[name] = before
                elif len(self._running) < self.workers:
                    self._running.append(self._launched(command, bars))

    def _launched(self, command: Command, bars: Progress) -> _Running:
        command.log.parent.mkdir(parents=True, exist_ok=True)
        threads = str(_threads(1 if command.all_cores else self.workers))
        with open(command.log, "wb") as log:
            process = subprocess.Popen(
                list(command.arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**_TORCHRUNS, **os.environ, **dict.fromkeys(_THREADS, threads)},
                start_new_session=True,  # Ctrl-C in a terminal must reach it once, through us
                preexec_fn=_before_start,
            )
        return _Running(command, process, bars.add_task(command.name, total=None, news=""))

    def _reap(self, bars: Progress) -> None:
        """Take note of what has ended: one line, also where there is no terminal to draw bars on."""
        for row in [row for row in self._running if row.process.poll() is not None]:
            self._running.remove(row)
            bars.remove_task(row.task)
            command = row.command
            self.on_time(command.name, row.seconds)
            spent = self.seconds[command.name] = self.seconds.get(command.name, 0.0) + row.seconds
            outcome = Outcome.FINISHED
            if row.process.returncode == 0:
                self._finished_here[command.kind].append(spent)
            else:
                outcome = Outcome.RESULT if command.is_result(tail(command.log)) else Outcome.FAILED
            self.outcomes[command.name] = outcome
            text = f"{time.strftime('%H:%M')} {command.name}: {outcome.value}, {duration(spent)} "
            text += f"({len(self.outcomes)} of {len(self.commands)}, "
            text += f"about {duration(self.remaining_seconds())} left)"
            self.console.print(text, markup=False, soft_wrap=True)
            if outcome is Outcome.FAILED:
                self.console.print(tail(command.log)[-800:], markup=False, style="red")

    def _expected(self, command: Command) -> float:
        known = self._finished_here[command.kind] or [
            seconds for name, seconds in self.seconds.items()
            if name in self.commands and self.commands[name].kind == command.kind and name in self.outcomes
        ]  # fmt: skip
        known = known or [
            s for row in self._running if row.command.kind == command.kind and (s := row.projected())
        ]
        return sum(known) / len(known) if known else self.guesses.get(command.kind, 60.0)

    def _show(self, bars: Progress, overall: TaskID) -> None:
        news = f"about {duration(self.remaining_seconds())} left"
        bars.update(overall, completed=len(self.outcomes), news=news)
        for row in self._running:
            bars.update(row.task, news=last_line(row.command.log))

    def _stop(self) -> None:
        """Ask every process to save and stop; a second signal, or two minutes, end them at once."""
        self.console.print("Stopping: the runs save what they have.", markup=False)
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
                    # torchrun's workers have sessions of their own
                    started = psutil.Process(row.process.pid).children(recursive=True)
                    os.killpg(row.process.pid, signal.SIGKILL)
                    for child in started:
                        with suppress(psutil.NoSuchProcess):
                            child.kill()
                    row.process.wait()


def duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tail(log: Path) -> str:
    """Return the end of a log."""
    return log.read_text(errors="replace")[-_TAIL_CHARACTERS:] if log.exists() else ""


def last_line(path: Path, width: int = 90) -> str:
    """Return the newest line of a log; a progress bar rewrites its line after a carriage return."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    newest = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return newest.replace("[", "(").replace("]", ")")[:width]


def _threads(share: int) -> int:
    """Return the threads of one of so many processes: its cores, or fewer where OMP_NUM_THREADS says so."""
    asked, cores = os.environ.get(_THREADS[0], ""), max(1, processes.cores() // share)
    return min(cores, int(asked)) if asked.isdigit() and int(asked) > 0 else cores


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


# ---- what is seen while an experiment runs ----


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
