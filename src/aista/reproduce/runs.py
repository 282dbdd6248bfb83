"""A sweep: every run of a plan trained and evaluated, several at once, resumable run by run."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from aista.demo.jobs import AISTA
from aista.demo.stages import Clock, console
from aista.evaluation.evaluate import versions
from aista.files import write_whole
from aista.reproduce.exhibit import save
from aista.reproduce.machine import machine
from aista.reproduce.measured import has_diverged
from aista.reproduce.plan import Context, Plan, Run
from aista.reproduce.scales import Scale
from aista.reproduce.tables import RULES, all_tables
from aista.reproduce.work import TRAINING, Work, alone, commands, do

SUMMARY = "reproduce.json"
_SHOWN_SETTINGS = ("pretrain", "select", "joint base", "joint ai_sta", "evaluate")


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
        baselines = self.scale.baselines() if "table2" in self.plan.exhibits else {}
        for name, other in baselines.items():
            found.append(Work(f"baseline {name}", "evaluate", other))
        return found

    def commands(self) -> list[str]:
        """Return what would be run, as a shell understands it."""
        return commands(self.work(), self.folder, self.launch)

    def run(self) -> list[str]:
        """Run what is not finished and return the names of what failed.

        Raises:
            KeyboardInterrupt: A signal came; what was running has been saved.
            ConfigError: Another sweep is at work in this folder, or data is missing.
        """
        with alone(self.folder) as lock:
            begin = time.perf_counter()
            self._summarise(command=self.command)
            try:
                self.scale.prepare(self.clock)
                return self._everything(lock)
            finally:
                self.clock.add("wall", time.perf_counter() - begin)
                self._summarise(command=self.command)

    def exhibit(self) -> Path:
        """Make tables, figures and the page from what is there, and return the page."""
        from aista.reproduce.figures import all_figures
        from aista.reproduce.report import write_report

        with self.clock.stage("exhibits", "Tables and figures"):
            context = self.context()
            for table in all_tables(context):
                save(table, self.folder)
                text = table.to_text(console.width, hide=RULES)
                console.print(text, markup=False, highlight=False, soft_wrap=True)
            console.print("\n".join(RULES), markup=False, highlight=False, soft_wrap=True)
            for figure in all_figures(context):
                save(figure, self.folder)
        self._summarise()
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
            | {row.name: row.title for row in self.plan.systems.values()}
            | dict(self.scale.baseline_titles),
        )

    # ---- running ----

    def _everything(self, lock: int) -> list[str]:
        work = self.work()
        for row in work:
            if row.verb in TRAINING and row.already() is None:
                self._note(row)
        return do(
            work, self.folder, self.clock, workers=self.workers, launch=self.launch,
            guesses=self.scale.guesses, lock=lock,
        )  # fmt: skip

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

    def _summarise(self, command: str | None = None) -> None:
        """Write ``reproduce.json``: what was asked, of which machine, in what time."""
        path, now = self.folder / SUMMARY, time.strftime("%Y-%m-%d %H:%M:%S")
        before = json.loads(path.read_text()) if path.exists() else {}
        data = sorted({*map(str, self.scale.tests()), *map(str, self.scale.training().values())})
        values = {
            "command": command or before.get("command", self.command),
            "scale": self.scale.name,
            "seeds": list(self.plan.seeds),
            "exhibits": list(self.plan.exhibits),
            "machine": machine() | {"workers": self.workers},
            "seconds": self._seconds(),
            "versions": versions(),
            "data_sha256": {_short(row): self._sha256(row) for row in data if Path(row).exists()},
            "settings": self._settings_texts(),
            "started": before.get("started", now),
            "finished": now,
        }
        write_whole(path, json.dumps(values, ensure_ascii=False, indent=1))

    def _seconds(self) -> dict[str, float]:
        """Return the time of every stage: process time summed over runs, and the wall clock's."""
        totals: dict[str, float] = defaultdict(float)
        for name, seconds in self.clock.seconds.items():
            totals[name.split(" ")[0]] += seconds
        return {name: round(value, 1) for name, value in totals.items()}

    def _settings_texts(self) -> dict[str, str]:
        """Return the settings of one selection, the base, AI-STA and one evaluation, as YAML."""
        chosen: dict[str, str] = {}
        for work in self.work():
            key = work.name.split(" ")[0]
            if key == "joint":
                key = f"joint {work.name.split('/')[1]}"
            if key in _SHOWN_SETTINGS and key not in chosen:
                values = work.settings.model_dump(mode="json")
                chosen[key] = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        return chosen

    def _features(self) -> dict[str, str]:
        stores = {row.name: getattr(self.scale.select(row), "features", None) for row in self.plan.probed()}
        return {name: store for name, store in stores.items() if store}


def default_workers(scale: str) -> int:
    """Return how many runs go side by side: at small scale one per core."""
    return {"small": os.cpu_count() or 1, "nano": 0}.get(scale, 1)


def _finished(run: Run) -> bool:
    return (run.evaluation / "results.json").exists()


def _short(path: str) -> str:
    """Return a manifest's folder and name."""
    return "/".join(Path(path).parts[-2:])
