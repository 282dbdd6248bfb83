"""The two sizes of the reproduction: stand-ins on any machine, the paper's own models and data on a GPU node.

A scale turns the entries of a plan into settings of the library's verbs, and makes or checks the data.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from aista.config import JointSettings, PretrainSettings, SelectSettings, Settings
from aista.demo.pipeline import SCALES, Demo
from aista.demo.stages import Clock, shipped_settings
from aista.errors import ConfigError
from aista.evaluation.settings import BaselineSettings, EvaluateSettings
from aista.model.bases import locate
from aista.experiments.paper.systems import Backbone, Plan, Run, System, chosen_exhibits, systems
from aista.selection.select import REPORT

S = TypeVar("S", bound=Settings)
NAMES = ("small", "paper", "nano")


class Scale(ABC):
    """One size.

    Attributes:
        name: One of ``NAMES``.
        folder: Folder of the sweep.
        backbones: In the paper's order of detail: tables 3 and 4 are made on the first.
        directions: ``("",)`` where one run learns all.
        guesses: Verb -> seconds, before one has been timed.
        without: Keys of systems that would be another one again.
        baseline_titles: Key of a baseline -> what a reader sees.
    """

    name: str
    backbones: tuple[Backbone, ...]
    directions: tuple[str, ...] = ("",)
    guesses: Mapping[str, float] = {}
    without: frozenset[str] = frozenset()
    baseline_titles: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def prepare(self, clock: Clock) -> None:
        """Make what the runs need, or raise ConfigError with what is missing."""

    @abstractmethod
    def num_layers(self) -> int:
        """Return the number of blocks of the first backbone."""

    def pretrain(self, backbone: Backbone) -> PretrainSettings | None:
        """Return stage 1's settings where it is part of the sweep."""
        return None

    @abstractmethod
    def select(self, backbone: Backbone) -> SelectSettings:
        """Return layer selection's settings."""

    @abstractmethod
    def joint(self, run: Run, system: System) -> JointSettings:
        """Return the settings of a run; two systems differ in the system's overrides and the output alone."""

    @abstractmethod
    def evaluate(self, run: Run) -> EvaluateSettings:
        """Return the settings of a run's evaluation."""

    @abstractmethod
    def tests(self) -> list[Path]:
        """Return the test manifests."""

    @abstractmethod
    def training(self) -> dict[str, Path]:
        """Return what is trained on: a name of Table 1 -> its manifest."""

    def baselines(self) -> dict[str, BaselineSettings]:
        """Return the baselines that are run here: ``key``, or ``key/direction`` where tests lie apart."""
        return {}

    def layers(self, backbone: str) -> Path:
        """Return where layer selection leaves its report."""
        return self.folder / "select" / backbone / REPORT

    def backbone(self, name: str) -> Backbone:
        """Return a backbone by its key."""
        return next(row for row in self.backbones if row.name == name)


class SmallScale(Scale):
    """The embedded demo's corpora and stand-ins, its shipped configs, both directions in one run.

    Args:
        folder: Folder of the sweep.
        nano: Seconds instead of minutes: for tests.
    """

    guesses = {"select": 40.0, "joint": 220.0, "evaluate": 80.0, "baseline": 60.0}
    baseline_titles = {
        "cascade_qwen2": "cascade: Whisper, Qwen2 (stand-ins)",
        "cascade_llama": "cascade: Whisper, Llama (stand-ins)",
    }

    def __init__(self, folder: Path, nano: bool = False) -> None:
        super().__init__(folder)
        self.name, self.size = ("nano", "nano") if nano else ("small", "demo")
        self.backbones = (
            Backbone("qwen2", "Qwen2 stand-in", "aista:stage1", "Qwen2-7B"),
            Backbone("llama", "Llama stand-in", "aista:stage1_llama", "Vicuna-13B"),
        )

    def prepare(self, clock: Clock) -> None:
        demo = Demo(self.folder, self.size, stage1=self.backbones[0].model)
        with clock.stage("synthesis", "Speech: espeak-ng says English sentences"):
            demo.synthesise()
        with clock.stage("features", "Encoders: listen once, remember"):
            demo.encode()

    def num_layers(self) -> int:
        config = locate(self.backbones[0].model) / "config.json"
        return json.loads(config.read_text())["text_config"]["num_hidden_layers"]

    def select(self, backbone: Backbone) -> SelectSettings:
        changes = (f"model={backbone.model}", f"output={self.layers(backbone.name).parent}")
        return self._settings(SelectSettings, "select", *changes)

    def joint(self, run: Run, system: System) -> JointSettings:
        return self._settings(
            JointSettings, "joint", f"init={self.backbone(run.backbone).model}", f"output={run.model}",
            f"seed={run.seed}", f"alignment.layers={self.layers(run.backbone)}", *system.overrides,
        )  # fmt: skip

    def evaluate(self, run: Run) -> EvaluateSettings:
        changes = (f"model={run.model}", f"output={run.evaluation}", f"layers={self.layers(run.backbone)}")
        return self._settings(EvaluateSettings, "evaluate", *changes)

    def baselines(self) -> dict[str, BaselineSettings]:
        ours = self._settings(EvaluateSettings, "evaluate")
        return {
            key: BaselineSettings.of(
                {
                    "output": str(self.folder / "baselines" / key),
                    "data": ours.data,
                    "baseline": "cascade",
                    "options": {"asr": "aista:whisper", "llm": f"aista:{model}"},
                    "generation": ours.generation.model_dump(),
                    "limit": ours.limit,
                }
            )
            for key, model in (("cascade_qwen2", "language_model"), ("cascade_llama", "llama"))
        }

    def tests(self) -> list[Path]:
        return [self.folder / "corpus" / f"{name}.jsonl" for name in ("test_common", "test_rare")]

    def training(self) -> dict[str, Path]:
        return {"ST": self.folder / "corpus" / "st.jsonl"}

    def _settings(self, kind: type[S], stage: str, *overrides: str) -> S:
        changes = (*SCALES[self.size].overrides.get(stage, ()), *overrides)
        return shipped_settings(kind, stage, self.folder, *changes)


class PaperScale(Scale):
    """The paper's backbones, corpora and hyper-parameters: ``configs/paper/*.yaml``.

    Args:
        folder: Folder of the sweep.
        data: Where the manifests of ``aista data prepare`` lie (``data/`` in the shipped files).
        models: Where ``aista download`` put the bases (``models/`` in the shipped files).
    """

    name = "paper"
    directions = ("en-zh", "en-ja")
    without = frozenset({"ai_sta_raw", "layer_1_raw"})  # the shipped files have the literal cost
    baseline_titles = {"cascade_qwen2-7b": "cascade: Whisper-Large-v2, Qwen2-7B"}
    guesses = {"pretrain": 60 * 3600.0, "select": 1800.0, "joint": 40 * 3600.0, "evaluate": 2 * 3600.0}

    def __init__(self, folder: Path, data: Path = Path("data"), models: Path = Path("models")) -> None:
        super().__init__(folder)
        self.data, self.models = data, models
        self.backbones = tuple(
            Backbone(name, title, str(folder / "pretrain" / name), title)
            for name, title in (("qwen2-7b", "Qwen2-7B"), ("vicuna-13b", "Vicuna-13B"))
        )

    def prepare(self, clock: Clock) -> None:
        """Look for every manifest and base.

        Raises:
            ConfigError: Something is missing; the message names each file.
        """
        needed = [self.data / f"covost2-{way}/{part}.jsonl" for way in self.directions for part in _PARTS]
        for backbone in self.backbones:
            model, data = self.pretrain(backbone).model, self.pretrain(backbone).data
            needed += [Path(path) for path in (*data.train, *data.validation, *self.select(backbone).data)]
            needed += [
                Path(base) for base in (model.speech_encoder, model.audio_encoder, model.backbone) if base
            ]
        missing = [str(path) for path in dict.fromkeys(needed) if not path.exists()]
        if missing:
            raise ConfigError(
                "The paper's scale needs data or models that are not there.",
                got="missing: " + ", ".join(missing),
                advice="`aista data prepare` makes manifests, `aista download` fetches bases; name their "
                "folders with --data and --models. `--dry-run` shows every command.",
            )

    def num_layers(self) -> int:
        return 28

    def pretrain(self, backbone: Backbone) -> PretrainSettings:
        return self._settings(PretrainSettings, f"pretrain_{backbone.name}", f"output={backbone.model}")

    def select(self, backbone: Backbone) -> SelectSettings:
        changes = (f"model={backbone.model}", f"output={self.layers(backbone.name).parent}")
        return self._settings(SelectSettings, f"select_{backbone.name}", *changes)

    def joint(self, run: Run, system: System) -> JointSettings:
        return self._settings(
            JointSettings, f"joint_{run.backbone}_{run.direction}",
            f"init={self.backbone(run.backbone).model}", f"output={run.model}", f"seed={run.seed}",
            f"alignment.layers={self.layers(run.backbone)}", *system.overrides,
        )  # fmt: skip

    def evaluate(self, run: Run) -> EvaluateSettings:
        return EvaluateSettings.of(
            {
                "output": str(run.evaluation),
                "model": str(run.model),
                "data": [str(self.data / f"covost2-{run.direction}" / "test.jsonl")],
                "layers": str(self.layers(run.backbone)),
                "generation": {"num_beams": 4},  # SALMONN's; the paper names none
            }
        )

    def baselines(self) -> dict[str, BaselineSettings]:
        systems = {
            "qwen2_audio": ("qwen2_audio", {}),
            "cascade_qwen2-7b": (
                "cascade", {"asr": str(self.models / "whisper"), "llm": str(self.models / "qwen2")},
            ),
        }  # fmt: skip
        return {
            f"{key}/{way}": BaselineSettings.of(
                {
                    "output": str(self.folder / "baselines" / key / way),
                    "data": [str(self.data / f"covost2-{way}" / "test.jsonl")],
                    "baseline": name,
                    "options": options,
                }
            )
            for key, (name, options) in systems.items()
            for way in self.directions
        }

    def tests(self) -> list[Path]:
        return [self.data / f"covost2-{direction}" / "test.jsonl" for direction in self.directions]

    def training(self) -> dict[str, Path]:
        pretrain = self.pretrain(self.backbones[0]).data.train
        found = {str(Path(path).relative_to(self.data).with_suffix("")): Path(path) for path in pretrain}
        return found | {
            f"covost2-{way}": self.data / f"covost2-{way}" / "train.jsonl" for way in self.directions
        }

    def _settings(self, kind: type[S], name: str, *overrides: str) -> S:
        """Read a shipped file with its folders moved."""
        text = (files("aista.reproduce") / "configs" / "paper" / f"{name}.yaml").read_text(encoding="utf-8")
        moved = self.folder / "configs" / f"{name}.yaml"
        moved.parent.mkdir(parents=True, exist_ok=True)
        for shipped, here in (("data/", f"{self.data}/"), (" models/", f" {self.models}/")):
            text = text.replace(shipped, here)
        moved.write_text(text, encoding="utf-8")
        return kind.load(moved, overrides)


_PARTS = ("train", "dev", "test")


def scale_named(name: str, folder: Path, data: Path, models: Path) -> Scale:
    """Return a scale by its name.

    Raises:
        ConfigError: There is no such scale.
    """
    if name not in NAMES:
        raise ConfigError(f"There is no scale {name!r}.", expected=", ".join(NAMES))
    return PaperScale(folder, data, models) if name == "paper" else SmallScale(folder, nano=name == "nano")


def planned(
    scale: Scale, names: Sequence[str], seeds: int, *, every_seed: bool = False, methods: Sequence[str] = ()
) -> Plan:
    """Return the plan for exhibits at a scale.

    Args:
        scale: How large.
        names: Exhibits, or ``all``.
        seeds: Seeds 1 to this many.
        every_seed: See ``Plan``.
        methods: Dotted names of third parties' alignment methods.

    Raises:
        ConfigError: There is no such exhibit.
    """
    found = systems(scale.num_layers(), methods)
    return Plan(
        exhibits=chosen_exhibits(names),
        backbones=scale.backbones,
        systems={name: system for name, system in found.items() if name not in scale.without},
        seeds=tuple(range(1, seeds + 1)),
        root=scale.folder,
        directions=scale.directions,
        every_seed=every_seed,
    )
