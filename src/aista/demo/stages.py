"""What demo and build share: shipped settings moved into a folder, timed stages, two runs side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aista.config import Settings
from aista.demo.jobs import AISTA, Job, Outcome, Queue
from aista.errors import TrainingError
from aista.files import write_whole

console = Console()
S = TypeVar("S", bound=Settings)
# What makes a training stage last a second: the nano scale of tests.
NANO_TRAIN = (
    "train.max_steps=4", "train.eval_steps=2", "train.save_steps=2", "train.per_device_train_batch_size=4",
    "train.logging_steps=1", "train.warmup_steps=1",
)  # fmt: skip


@contextmanager
def bar(unit: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yields ``update(done, total, loss=None)``."""
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as shown:
        task = shown.add_task(unit, total=None, news="")

        def update(done: int, total: int, loss: float | None = None) -> None:
            shown.update(task, completed=done, total=total, news="" if loss is None else f"loss {loss:.3f}")

        yield update


def shipped_settings(kind: type[S], stage: str, folder: Path, *overrides: str) -> S:
    """Read a shipped config with its ``runs/demo`` and ``runs/build`` paths moved into ``folder``."""
    text = (files("aista.demo") / "configs" / f"{stage}.yaml").read_text(encoding="utf-8")
    moved = folder / "configs" / f"{stage}.yaml"
    moved.parent.mkdir(parents=True, exist_ok=True)
    moved.write_text(
        text.replace("runs/demo", str(folder)).replace("runs/build", str(folder)), encoding="utf-8"
    )
    return kind.load(moved, overrides)


class Clock:
    """Seconds of every stage, on disk: a resumed run still knows what its stages took."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Announce and time a stage; time spent on it before an interruption counts too."""
        console.rule(f"[bold]{title}", align="left", style="dim")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add time to a stage."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)
        write_whole(self._path, json.dumps(self.seconds))


def listen_once(stage1: str, manifests: Iterable[Path], features: Path) -> None:
    """Fill a feature store with what a model's encoders hear in every clip of some manifests."""
    from aista.model.feature_cache import cached_features
    from aista.model.processing import AistaProcessor
    from aista.model.speech_lm import AistaForConditionalGeneration

    model = AistaForConditionalGeneration.from_pretrained(stage1).eval()
    cached_features(model, AistaProcessor.from_pretrained(stage1), [str(m) for m in manifests], str(features))


def side_by_side(verb: str, configs: Mapping[str, Path], logs: Path) -> None:
    """Run one verb on several configs at once, the cores shared out among them.

    Ctrl-C reaches all of them; each saves and stops.

    Args:
        verb: ``joint`` or ``evaluate``.
        configs: Name -> YAML file.
        logs: Folder for ``<verb>_<name>.log``.

    Raises:
        TrainingError: One of them failed; the end of its log is shown.
    """
    jobs = [
        Job(f"{verb} {name}", verb, (*AISTA, verb, "--config", str(config)), logs / f"{verb}_{name}.log")
        for name, config in configs.items()
    ]
    outcomes = Queue(jobs, len(jobs), console=console).run()
    for job in jobs:
        if outcomes[job.name] is not Outcome.FINISHED:
            raise TrainingError(
                f"`aista {job.name}` failed.", got=job.tail(), advice="Run the same command again."
            )
