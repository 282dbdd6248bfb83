"""Verbs of the library with their settings, as a sweep runs them: each in a process of its own, or here."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from aista.demo.jobs import AISTA, Job, Outcome, Queue
from aista.demo.stages import Clock, console
from aista.errors import AistaError, ConfigError
from aista.evaluation.settings import BaselineSettings
from aista.reproduce.measured import DIVERGED
from aista.run_folder import inputs_of, is_finished

TRAINING = ("pretrain", "joint")
LAUNCHED = (*TRAINING, "select")
_NOT_FINITE = re.compile(r"loss is not finite|no finite loss")  # what aista.training says when it stops
# Where a verb's function is, and the file that is there when it has finished.
_VERBS = {
    "pretrain": ("aista.training.pretrain", "training.json"),
    "select": ("aista.selection.select", "layers.json"),
    "joint": ("aista.training.joint", "training.json"),
    "evaluate": ("aista.evaluation.evaluate", "results.json"),
}


@dataclass(frozen=True)
class Work:
    """One verb with its settings.

    Attributes:
        name: ``joint qwen2/base/seed_1``.
        verb: A verb of the library.
        settings: What it is called with.
        needs: Names of other work.
    """

    name: str
    verb: str
    settings: Any
    needs: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        """The folder it leaves behind."""
        return Path(self.settings.output)

    @property
    def file_name(self) -> str:
        """Its name as the name of a file."""
        return self.name.replace("/", "_").replace(" ", "_")

    def already(self) -> Outcome | None:
        """Return how it ended, under these very settings, if it did."""
        ends = ((DIVERGED, Outcome.RESULT), (_VERBS[self.verb][1], Outcome.FINISHED))
        for name, outcome in ends:
            if is_finished(self.output, self.settings, lambda: inputs_of(self.settings), result=name):
                return outcome
        return None

    def command(self, folder: Path, launch: Sequence[str]) -> list[str]:
        """Write the settings into a folder and return the command that uses them."""
        config = folder / "configs" / f"{self.file_name}.yaml"
        self.settings.save(config)
        command = [*(launch if self.verb in LAUNCHED else AISTA), self.verb, "--config", str(config)]
        if isinstance(self.settings, BaselineSettings):
            command += ["--baseline", self.settings.baseline]
        return command

    def job(self, folder: Path, launch: Sequence[str]) -> Job:
        """Return it as a job of a queue."""
        return Job(
            name=self.name,
            kind=self.name.split(" ")[0],
            command=self.command(folder, launch),
            log=folder / "logs" / f"{self.file_name}.log",
            needs=self.needs,
            already=self.already,
            is_result=self.has_diverged,
            is_steady=self.verb in TRAINING,
        )

    def here(self) -> Outcome:
        """Do it in this process, unless it is done."""
        if (before := self.already()) is not None:
            return before
        try:
            self._call()
        except AistaError as error:
            if self.has_diverged(str(error)):
                return Outcome.RESULT
            console.print(str(error), markup=False, style="red")
            return Outcome.FAILED
        return Outcome.FINISHED

    def has_diverged(self, tail: str) -> bool:
        """Note a training whose loss stopped being finite: that is what came out, no failure of the sweep."""
        if self.verb != "joint" or not _NOT_FINITE.search(tail):
            return False
        line = next(line for line in reversed(tail.splitlines()) if _NOT_FINITE.search(line))
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / DIVERGED).write_text(json.dumps({"reason": line.strip()}))
        return True

    def _call(self) -> None:
        if isinstance(self.settings, BaselineSettings):
            _score(self.settings)
            return
        module, _ = _VERBS[self.verb]
        getattr(import_module(module), self.verb)(self.settings)


def _score(settings: BaselineSettings) -> None:
    from aista.baselines import baseline
    from aista.evaluation.evaluate import score

    system = baseline(settings.baseline, generation=settings.generation, **settings.options)
    try:
        score(system, settings, system.card)
    finally:
        system.close()


def commands(work: Sequence[Work], folder: Path, launch: Sequence[str] = AISTA) -> list[str]:
    """Return what would be run, as a shell understands it; the settings are written into the folder."""
    lines = (shlex.join(row.command(folder, launch)) for row in work)
    return [line.replace(shlex.join(AISTA), "aista") for line in lines]


def do(
    work: Sequence[Work], folder: Path, clock: Clock, *, workers: int, launch: Sequence[str] = AISTA,
    guesses: Mapping[str, float] | None = None, lock: int | None = None,
) -> list[str]:  # fmt: skip
    """Do what is not finished and return the names of what failed.

    Args:
        work: In the order in which it should start.
        folder: Gets ``configs/`` and ``logs/``.
        clock: Is told what everything took.
        workers: Processes at once; 0: one after the other in this process.
        launch: Command that starts a training verb.
        guesses: Verb -> seconds, before one has been timed.
        lock: A descriptor the processes inherit, from ``alone``.

    Raises:
        KeyboardInterrupt: A signal came; what was running has been saved.
    """
    if workers == 0:
        outcomes = _one_by_one(work, clock)
    else:
        outcomes = Queue(
            [row.job(folder, launch) for row in work], workers, seconds=clock.seconds, guesses=guesses,
            on_time=clock.add, keep_open=() if lock is None else (lock,), console=console,
        ).run()  # fmt: skip
    failed = [row.name for row in work if outcomes[row.name] in (Outcome.FAILED, Outcome.BLOCKED)]
    for name in failed:
        console.print(f"{name}: {outcomes[name].value}", markup=False, style="red")
    return failed


def _one_by_one(work: Sequence[Work], clock: Clock) -> dict[str, Outcome]:
    """Do everything in this process."""
    outcomes: dict[str, Outcome] = {}
    for row in work:
        needs = {outcomes[name] for name in row.needs}
        if needs <= {Outcome.FINISHED}:
            start = time.perf_counter()
            outcomes[row.name] = row.here()
            clock.add(row.name, time.perf_counter() - start)
        else:
            bad = needs & {Outcome.FAILED, Outcome.BLOCKED}
            outcomes[row.name] = Outcome.BLOCKED if bad else Outcome.RESULT
        console.print(f"{row.name}: {outcomes[row.name].value}", markup=False)
    return outcomes


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold a folder; the runs hold it too, so that a killed sweep's survivors are not disturbed.

    Raises:
        ConfigError: Another holds it.
    """
    with open(folder / "lock", "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on this system
            pass
        except OSError:
            raise ConfigError(
                f"Another sweep, or a run it left behind, is at work in {folder}.",
                advice="Wait for it, stop it, or choose another --output.",
            ) from None
        yield file.fileno()
