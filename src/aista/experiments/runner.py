"""The one runner of plans: prepares the data, runs what is not finished, several jobs at once.

Ctrl-C lets every job save and stop; the same call goes on.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from aista.evaluation.evaluate import versions
from aista.experiments.plan import AISTA, TRAINING, Job, Plan
from aista.experiments.progress import Clock, console
from aista.experiments.queue import Outcome, Queue
from aista.files import sha256_of, write_whole
from aista.run_folder import held

RECORD = "run.json"
_BAD = (Outcome.FAILED, Outcome.BLOCKED)


class Runner:
    """Runs a plan.

    Args:
        plan: What to do.
        workers: Processes at once, the cores shared out among them; 0: one after the other in this process.
            None: one per core.
        launch: Command that starts a training verb, e.g. ``torchrun --nproc_per_node 8 -m aista``.
        command: What the user typed, for the record.
    """

    def __init__(
        self, plan: Plan, *, workers: int | None = None, launch: Sequence[str] = AISTA, command: str = ""
    ) -> None:
        self.plan, self.launch = plan, tuple(launch)
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self.command = command or shlex.join(["aista", *sys.argv[1:]])
        plan.folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(plan.folder / "seconds.json")

    def commands(self) -> list[str]:
        """Return what would be run, as a shell understands it; the settings are written into the folder."""
        lines = (shlex.join(job.arguments(self.plan.folder, self.launch)) for job in self.plan.jobs())
        return [line.replace(shlex.join(AISTA), "aista") for line in lines]

    def run(self) -> list[str]:
        """Run what is not finished and return the names of what failed.

        Raises:
            KeyboardInterrupt: A signal came; what was running has been saved.
            ConfigError: Another process is at work in this folder, or data is missing.
        """
        with held(self.plan.folder), self._recorded():
            self.plan.prepare(self.clock)
            jobs = self.plan.jobs()
            self._note(jobs)
            outcomes = self._one_by_one(jobs) if self.workers == 0 else self._side_by_side(jobs)
        failed = [job.name for job in jobs if outcomes[job.name] in _BAD]
        for name in failed:
            console.print(f"{name}: {outcomes[name].value}", markup=False, style="red")
        return failed

    def results(self) -> Any:
        """Make tables, figures and the page of the plan from what is there."""
        return self.plan.results(self.clock)

    def _side_by_side(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        return Queue(
            [job.command(self.plan.folder, self.launch) for job in jobs], self.workers,
            seconds=self.clock.seconds, guesses=self.plan.guesses, on_time=self.clock.add, console=console,
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

    def _record(self) -> None:
        path, now = self.plan.folder / RECORD, time.strftime("%Y-%m-%d %H:%M:%S")
        before = json.loads(path.read_text()) if path.exists() else {}
        values = {
            "command": self.command, "machine": machine() | {"workers": self.workers},
            "versions": versions(), "started": before.get("started", now), "finished": now,
        }  # fmt: skip
        write_whole(path, json.dumps(values, ensure_ascii=False, indent=1))

    def _note(self, jobs: Sequence[Job]) -> None:
        """Write down what each training is about to be made from: settings, data, versions."""
        for job in (job for job in jobs if job.verb in TRAINING and job.already() is None):
            data = job.settings.data
            values = {
                "name": job.name, "seed": job.settings.seed, "settings_sha256": job.settings.sha256(),
                "data_sha256": {path: sha256_of(Path(path)) for path in (*data.train, *data.validation)},
                "versions": versions(), "started": time.strftime("%Y-%m-%d %H:%M:%S"),
                "command": self.command,
            }  # fmt: skip
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            write_whole(job.output / "provenance.yaml", text)


def machine() -> dict[str, Any]:
    """Return the processor, the cores, the memory in GB, the system, and GPUs where there are any."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "ram_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        **({"gpus": gpus} if gpus else {}),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or "unknown"


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
