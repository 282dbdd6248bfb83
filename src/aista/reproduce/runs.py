"""A sweep: every run of a plan trained and evaluated, several at once, resumable run by run."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from aista.demo.jobs import AISTA, Job, Outcome, Queue
from aista.demo.stages import Clock, console
from aista.errors import AistaError, ConfigError
from aista.evaluation.evaluate import versions
from aista.reproduce.exhibit import save
from aista.reproduce.machine import machine
from aista.reproduce.measured import DIVERGED, has_diverged
from aista.reproduce.plan import Context, Plan, Run
from aista.reproduce.scales import Scale
from aista.reproduce.tables import all_tables

SUMMARY = "reproduce.json"
_NOT_FINITE = "loss is not finite"  # aista.training says so and stops
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

    def already(self) -> Outcome | None:
        """Return how it ended, under these very settings, if it did."""
        saved = self.output / "settings.yaml"
        if not saved.exists() or not self._same(saved):
            return None
        if (self.output / DIVERGED).exists():
            return Outcome.RESULT
        return Outcome.FINISHED if (self.output / _VERBS[self.verb][1]).exists() else None

    def _same(self, saved: Path) -> bool:
        try:
            return type(self.settings).load(saved) == self.settings
        except ConfigError:
            return False

    def here(self) -> None:
        """Do it in this process."""
        module, _ = _VERBS[self.verb]
        getattr(import_module(module), self.verb)(self.settings)


class Sweep:
    """The runs of a plan at a scale.

    Args:
        plan: What to do.
        scale: How large.
        workers: Processes at once; 0: one after the other in this process.
        launch: Command that starts a training verb, e.g. ``torchrun --nproc_per_node 8 -m aista``.
        command: What the user typed, for the record.
    """

    def __init__(
        self, plan: Plan, scale: Scale, *, workers: int = 1, launch: Sequence[str] = AISTA, command: str = ""
    ) -> None:
        self.plan, self.scale, self.workers = plan, scale, workers
        self.launch, self.command = tuple(launch), command or shlex.join(["aista", *sys.argv[1:]])
        self.folder = plan.root
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(self.folder / "seconds.json")
        self._hashes: dict[str, str] = {}

    def work(self) -> list[Work]:
        """Return everything there is to do: the first seed of everything first."""
        found = []
        for backbone in self.plan.probed():
            needs: tuple[str, ...] = ()
            if (pretrain := self.scale.pretrain(backbone)) is not None:
                found.append(Work(f"pretrain {backbone.name}", "pretrain", pretrain))
                needs = (found[-1].name,)
            found.append(Work(f"select {backbone.name}", "select", self.scale.select(backbone), needs))
        for run in self.plan.runs():
            settings = self.scale.joint(run, self.plan.systems[run.system])
            found.append(Work(f"joint {run.name}", "joint", settings, (f"select {run.backbone}",)))
            found.append(
                Work(f"evaluate {run.name}", "evaluate", self.scale.evaluate(run), (found[-1].name,))
            )
        return found

    def commands(self) -> list[str]:
        """Return what would be run, as a shell understands it."""
        return [shlex.join(self._command(work)) for work in self.work()]

    def run(self) -> list[str]:
        """Run what is not finished and return the names of what failed.

        Raises:
            KeyboardInterrupt: A signal came; what was running has been saved.
            ConfigError: Another sweep is at work in this folder, or data is missing.
        """
        with self._alone() as lock:
            started, begin = time.strftime("%Y-%m-%d %H:%M:%S"), time.perf_counter()
            try:
                self.scale.prepare(self.clock)
                return self._everything(lock)
            finally:
                self.clock.add("wall", time.perf_counter() - begin)
                self._summarise(started)

    def exhibit(self) -> Path:
        """Make tables, figures and the page from what is there, and return the page."""
        from aista.reproduce.figures import all_figures
        from aista.reproduce.report import write_report

        with self.clock.stage("exhibits", "Tables and figures"):
            context = self.context()
            for table in all_tables(context):
                save(table, self.folder)
                console.print(table.to_text(console.width), markup=False, highlight=False)
            for figure in all_figures(context):
                save(figure, self.folder)
            return write_report(self.folder)

    def context(self) -> Context:
        """Return what is there, for tables and figures."""
        runs = [run for run in self.plan.runs() if _finished(run)]
        return Context(
            folder=self.folder,
            plan=self.plan,
            runs=[run for run in runs if not has_diverged(run)],
            diverged=[run for run in self.plan.runs() if has_diverged(run)],
            layers={b.name: path for b in self.plan.probed() if (path := self.scale.layers(b.name)).exists()},
            tests=[path for path in self.scale.tests() if path.exists()],
            training={name: path for name, path in self.scale.training().items() if path.exists()},
            features=self._features(),
            titles={row.name: row.title for row in self.plan.backbones}
            | {row.name: row.title for row in self.plan.systems.values()},
        )

    # ---- running ----

    def _everything(self, lock: int) -> list[str]:
        work = self.work()
        for row in work:
            if row.verb in ("pretrain", "joint") and row.already() is None:
                self._note(row)
        if self.workers == 0:
            outcomes = _one_by_one(work)
        else:
            jobs = [self._job(row) for row in work]
            queue = Queue(
                jobs, self.workers, seconds=self.clock.seconds, guesses=self.scale.guesses,
                on_time=self.clock.add, keep_open=(lock,), console=console,
            )  # fmt: skip
            outcomes = queue.run()
        bad = (Outcome.FAILED, Outcome.BLOCKED)
        for row in work:
            if outcomes[row.name] in bad:
                console.print(f"{row.name}: {outcomes[row.name].value}", markup=False, style="red")
        return [row.name for row in work if outcomes[row.name] in bad]

    def _job(self, work: Work) -> Job:
        return Job(
            name=work.name,
            kind=work.verb,
            command=self._command(work),
            log=self.folder / "logs" / f"{_flat(work.name)}.log",
            needs=work.needs,
            already=work.already,
            is_result=lambda tail: _mark_diverged(work, tail),
        )

    def _command(self, work: Work) -> list[str]:
        config = self.folder / "configs" / f"{_flat(work.name)}.yaml"
        work.settings.save(config)
        launch = self.launch if work.verb in ("pretrain", "joint") else AISTA
        return [*launch, work.verb, "--config", str(config)]

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the folder; the runs hold it too, so that a killed sweep's survivors are not disturbed."""
        with open(self.folder / "lock", "w") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # not on this system
                pass
            except OSError:
                raise ConfigError(
                    f"Another sweep, or a run it left behind, is at work in {self.folder}.",
                    advice="Wait for it, stop it, or choose another --output.",
                ) from None
            yield file.fileno()

    # ---- what is written down ----

    def _note(self, work: Work) -> None:
        """Write down what a training is about to be made from."""
        data = work.settings.data
        values = {
            "name": work.name, "seed": work.settings.seed, "settings_sha256": work.settings.sha256(),
            "data_sha256": {path: self._sha256(path) for path in (*data.train, *data.validation)},
            "versions": versions(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), "command": self.command,
        }  # fmt: skip
        work.output.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (work.output / "provenance.yaml").write_text(text, encoding="utf-8")

    def _sha256(self, path: str) -> str:
        if path not in self._hashes:
            self._hashes[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return self._hashes[path]

    def _summarise(self, started: str) -> None:
        """Write ``reproduce.json``: what was asked, of which machine, in what time."""
        path = self.folder / SUMMARY
        before = json.loads(path.read_text()) if path.exists() else {}
        data = {*map(str, self.scale.tests()), *map(str, self.scale.training().values())}
        values = {
            "command": self.command,
            "scale": type(self.scale).__name__.removesuffix("Scale").lower(),
            "seeds": list(self.plan.seeds),
            "exhibits": list(self.plan.exhibits),
            "machine": machine() | {"workers": self.workers},
            "seconds": self._seconds(),
            "versions": versions(),
            "data_sha256": {Path(row).name: self._sha256(row) for row in sorted(data) if Path(row).exists()},
            "settings": self._settings_texts(),
            "started": before.get("started", started),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        path.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")

    def _seconds(self) -> dict[str, float]:
        """Return the time of every stage: process time summed over runs, and the wall clock's."""
        totals: dict[str, float] = defaultdict(float)
        for name, seconds in self.clock.seconds.items():
            totals[name.split(" ")[0]] += seconds
        return {name: round(value, 1) for name, value in totals.items()}

    def _settings_texts(self) -> dict[str, str]:
        """Return the settings of one selection, the base and AI-STA, and one evaluation, as YAML."""
        chosen: dict[str, str] = {}
        for work in self.work():
            system = work.name.split("/")[1] if "/" in work.name else ""
            key = f"{work.verb} {system}".strip() if work.verb == "joint" else work.verb
            values = work.settings.model_dump(mode="json")
            chosen.setdefault(key, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        return chosen

    def _features(self) -> dict[str, str]:
        stores = {row.name: getattr(self.scale.select(row), "features", None) for row in self.plan.probed()}
        return {name: store for name, store in stores.items() if store}


def default_workers(scale: str) -> int:
    """Return how many runs go side by side: at small scale one per core."""
    return {"small": os.cpu_count() or 1, "nano": 0}.get(scale, 1)


def _one_by_one(work: Sequence[Work]) -> dict[str, Outcome]:
    """Do everything in this process."""
    outcomes: dict[str, Outcome] = {}
    for row in work:
        needs = {outcomes[name] for name in row.needs}
        if needs - {Outcome.FINISHED}:
            bad = needs & {Outcome.FAILED, Outcome.BLOCKED}
            outcomes[row.name] = Outcome.BLOCKED if bad else Outcome.RESULT
            continue
        outcomes[row.name] = _ended(row)
        console.print(f"{row.name}: {outcomes[row.name].value}", markup=False)
    return outcomes


def _ended(work: Work) -> Outcome:
    if (before := work.already()) is not None:
        return before
    try:
        work.here()
    except AistaError as error:
        if _mark_diverged(work, str(error)):
            return Outcome.RESULT
        console.print(str(error), markup=False, style="red")
        return Outcome.FAILED
    return Outcome.FINISHED


def _mark_diverged(work: Work, tail: str) -> bool:
    """Note a training whose loss stopped being finite: that is what came out, not a failure of the sweep."""
    if work.verb != "joint" or _NOT_FINITE not in tail:
        return False
    line = next(line for line in reversed(tail.splitlines()) if _NOT_FINITE in line)
    (work.output / DIVERGED).write_text(json.dumps({"reason": line.strip()}))
    return True


def _finished(run: Run) -> bool:
    return (run.evaluation / "results.json").exists()


def _flat(name: str) -> str:
    """Return a name as a file name."""
    return name.replace("/", "_").replace(" ", "_")
