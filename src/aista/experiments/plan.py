"""What an experiment is: the data it needs, the jobs it runs, the tables and figures it makes of them."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from aista.config import Settings
from aista.errors import AistaError, ConfigError
from aista.evaluation.evaluate import BaselineSettings
from aista.experiments.runner import AISTA, TRAINING, Clock, Outcome, console
from aista.run_folder import inputs_of, is_finished

DIVERGED = "diverged.json"
_NOT_FINITE = re.compile(r"loss is not finite|no finite loss")  # what aista.training says when it stops
# Where a verb's function is, and the file that is there when it has finished.
_VERBS = {
    "align": ("aista.training.stages", "training.json"),
    "pretrain": ("aista.training.stages", "training.json"),
    "select": ("aista.selection.select", "layers.json"),
    "joint": ("aista.training.stages", "training.json"),
    "evaluate": ("aista.evaluation.evaluate", "results.json"),
}
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Job:
    """One verb of the library with its settings.

    Attributes:
        name: ``joint qwen2/base/seed_1``; the first word is its kind.
        verb: ``align``, ``pretrain``, ``select``, ``joint`` or ``evaluate``.
        settings: What it is called with; ``BaselineSettings`` evaluate a baseline.
        needs: Names of other jobs.
        all_cores: It has a thread per core, not its share of them; others may run beside it.
    """

    name: str
    verb: str
    settings: Any
    needs: tuple[str, ...] = ()
    all_cores: bool = False

    @property
    def output(self) -> Path:
        """The folder it leaves behind."""
        return Path(self.settings.output)

    @property
    def kind(self) -> str:
        """The first word of its name: jobs of one kind take about the same time."""
        return self.name.split(" ")[0]

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

    def config(self, folder: Path) -> Path:
        """Return where a runner writes its settings."""
        return folder / "configs" / f"{self.file_name}.yaml"

    def arguments(self, folder: Path, launch: Sequence[str] = AISTA) -> list[str]:
        """Return the command that uses the settings in ``folder/configs``."""
        start = launch if self.verb in (*TRAINING, "select") else AISTA
        words = [*start, self.verb, "--config", str(self.config(folder))]
        if isinstance(self.settings, BaselineSettings):
            words += ["--baseline", self.settings.baseline]
        return words

    def here(self) -> Outcome:
        """Do it in this process, unless it is done."""
        if (before := self.already()) is not None:
            return before
        try:
            if isinstance(self.settings, BaselineSettings):
                self._score_baseline()
            else:
                getattr(import_module(_VERBS[self.verb][0]), self.verb)(self.settings)
        except AistaError as error:
            if self.has_diverged(str(error)):
                return Outcome.RESULT
            console.print(str(error), markup=False, style="red")
            return Outcome.FAILED
        return Outcome.FINISHED

    def has_diverged(self, tail: str) -> bool:
        """Note a training whose loss stopped being finite: that is what came out, not a failure to run it."""
        lines = [line for line in tail.splitlines() if _NOT_FINITE.search(line)]
        if self.verb != "joint" or not lines:
            return False
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / DIVERGED).write_text(json.dumps({"reason": lines[-1].strip()}))
        return True

    def _score_baseline(self) -> None:
        from aista.baselines import baseline
        from aista.evaluation.evaluate import score

        settings = self.settings
        system = baseline(settings.baseline, generation=settings.generation, **settings.options)
        try:
            score(system, settings, system.card)
        finally:
            system.close()


class Plan(ABC):
    """One experiment in one folder.

    Attributes:
        folder: Where everything goes; the same plan goes on there.
        guesses: Kind of job -> seconds, before one has been timed.
        asked: What it was asked for, which the runner writes down.
    """

    guesses: Mapping[str, float] = {}
    asked: Mapping[str, Any] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def prepare(self, clock: Clock) -> None:
        """Make the data that the jobs need, or raise ConfigError with what is missing."""

    @abstractmethod
    def jobs(self) -> list[Job]:
        """Return everything there is to run, in the order in which it should start."""

    @abstractmethod
    def results(self, clock: Clock) -> Any:
        """Make tables, figures and the page from what is there, as far as it is there."""


def scale_named(name: str, known: Sequence[str]) -> str:
    """Return the name of a scale.

    Raises:
        ConfigError: It is not one of the known ones.
    """
    if name not in known:
        raise ConfigError(f"There is no scale {name!r}.", expected=", ".join(known))
    return name


# ---- settings ----

# What makes a training last a second: the nano scale of tests.
NANO_TRAIN = {
    "max_steps": 4, "eval_steps": 2, "save_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1,
    "warmup_steps": 1,
}  # fmt: skip
# Changes of the demo's shipped configs at nano scale, by config.
NANO: Mapping[str, Mapping[str, Any]] = {
    "pretrain": {"train": NANO_TRAIN},
    "joint": {"train": NANO_TRAIN},
    "select": {"num_pairs": 8, "threshold_times_chance": 0.0},
    "evaluate": {"limit": 4, "generation": {"max_new_tokens": 8}},
}


def shipped(kind: type[S], name: str, folder: Path, scale: str = "") -> S:
    """Return a config of the demo with its paths moved to ``folder``; at scale ``nano`` it takes seconds."""
    path = Path(str(files("aista.demo"))) / "configs" / f"{name}.yaml"
    settings = moved(kind.load(path), {"runs/demo": folder, "runs/build": folder})
    return changed(settings, **NANO[name]) if scale == "nano" else settings


def changed(settings: S, **values: Any) -> S:
    """Return settings with some values changed; a mapping changes single values of inner settings.

    Raises:
        ConfigError: A value is not allowed.
    """
    update: dict[str, Any] = {}
    for name, value in values.items():
        inner = getattr(settings, name, None)
        if isinstance(inner, Settings) and isinstance(value, Mapping):
            update[name] = changed(inner, **value)
        else:
            update[name] = value
    return type(settings).of(dict(settings.model_copy(update=update)))


def moved(settings: S, folders: Mapping[str, Path]) -> S:
    """Return settings in which every path that begins with one of these folders begins with another.

    Args:
        settings: Any settings.
        folders: A folder as it stands in the settings -> where it is.
    """

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if isinstance(value, str):
            for old, new in folders.items():
                if value == old or value.startswith(f"{old}/"):
                    return str(new) + value[len(old) :]
        return value

    return type(settings).of(walk(settings.model_dump()))
