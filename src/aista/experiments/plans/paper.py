"""``aista reproduce``: the paper's tables and figures, at three sizes.

Small: stand-ins and synthetic speech on any machine. Base (``plans/base.py``): small published models on the
user's speech. Paper: its own models and data on a GPU node.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aista.config import AlignSettings, JointSettings, PretrainSettings, SelectSettings, Settings
from aista.demo import corpus
from aista.errors import ConfigError
from aista.evaluation.evaluate import BaselineSettings, EvaluateSettings
from aista.experiments.paper.figures import all_figures
from aista.experiments.paper.measured import has_diverged
from aista.experiments.paper.page import write_report
from aista.experiments.paper.systems import Backbone, Context, Run, Scope, System, chosen_names, systems
from aista.experiments.paper.tables import RULES, all_tables
from aista.experiments.plan import Job, Plan, changed, moved, scale_named, shipped
from aista.experiments.plans.demo import CORPORA, encode, synthesise
from aista.experiments.progress import Clock, console
from aista.experiments.results import save
from aista.experiments.runner import RECORD
from aista.files import sha256_of, write_whole
from aista.model.bases import locate
from aista.selection.select import REPORT

S = TypeVar("S", bound=Settings)
SCALES = ("small", "base", "paper", "nano")
SUMMARY = "reproduce.json"
_PARTS = ("train", "dev", "test")
_SHOWN_SETTINGS = ("pretrain", "select", "joint base", "joint ai_sta", "evaluate")


class PaperPlan(Plan):
    """The paper's tables and figures in one folder; a subclass says with which models and data.

    Args:
        folder: Where everything goes.
        names: Tables and figures, or ``all``.
        seeds: Seeds 1 to this many.
        every_seed: Also train with all seeds what is otherwise trained once.
        methods: Dotted names of third parties' alignment methods.

    Attributes:
        scale: One of ``SCALES``.
        backbones: In the paper's order of detail: tables 3 and 4 are made on the first.
        directions: ``("",)`` where one run learns all.
        without: Keys of systems that would be another one again.
        baseline_titles: Key of a baseline -> what a reader sees.

    Raises:
        ConfigError: There is no such table or figure.
    """

    scale: str
    backbones: tuple[Backbone, ...]
    directions: tuple[str, ...] = ("",)
    without: frozenset[str] = frozenset()
    baseline_titles: Mapping[str, str] = {}

    def __init__(
        self, folder: Path, names: Sequence[str], seeds: int = 1, *, every_seed: bool = False,
        methods: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(folder)
        found = systems(self.num_layers(), methods)
        self.scope = Scope(
            names=chosen_names(names),
            backbones=self.backbones,
            systems={name: system for name, system in found.items() if name not in self.without},
            seeds=tuple(range(1, seeds + 1)),
            root=folder,
            directions=self.directions,
            every_seed=every_seed,
        )

    # ---- what a size says ----

    @abstractmethod
    def num_layers(self) -> int:
        """Return the number of blocks of the first backbone."""

    def align(self, backbone: Backbone) -> AlignSettings | None:
        """Return the settings of alignment first where it is part of the plan."""
        return None

    def pretrain(self, backbone: Backbone) -> PretrainSettings | None:
        """Return stage 1's settings where it is part of the plan."""
        return None

    @abstractmethod
    def shipped(self, kind: type[S], verb: str, backbone: str, direction: str = "") -> S:
        """Return the shipped settings of a verb, their paths moved to where this plan has its files."""

    def select(self, backbone: Backbone) -> SelectSettings:
        """Return layer selection's settings."""
        settings = self.shipped(SelectSettings, "select", backbone.name)
        return changed(settings, model=backbone.model, output=str(self.layers(backbone.name).parent))

    def joint(self, run: Run, system: System) -> JointSettings:
        """Return the settings of a run; two systems differ in their alignment and the output alone."""
        alignment = {"layers": str(self.layers(run.backbone)), **system.alignment}
        return changed(
            self.shipped(JointSettings, "joint", run.backbone, run.direction),
            init=self.backbone(run.backbone).model, output=str(run.model), seed=run.seed, alignment=alignment,
        )  # fmt: skip

    @abstractmethod
    def evaluation(self, run: Run) -> EvaluateSettings:
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

    # ---- what runs ----

    def jobs(self) -> list[Job]:
        """Return everything there is to run: the first seed of everything first."""
        found = []
        for backbone in self.scope.probed():
            needs: tuple[str, ...] = ()
            for verb, stage in (("align", self.align(backbone)), ("pretrain", self.pretrain(backbone))):
                if stage is not None:
                    found.append(Job(f"{verb} {backbone.name}", verb, stage, needs))
                    needs = (found[-1].name,)
            found.append(Job(f"select {backbone.name}", "select", self.select(backbone), needs))
        for run in self.scope.runs():
            settings = self.joint(run, self.scope.systems[run.system])
            found.append(Job(f"joint {run.name}", "joint", settings, (f"select {run.backbone}",)))
            evaluation = self.evaluation(run)
            found.append(Job(f"evaluate {run.name}", "evaluate", evaluation, (f"joint {run.name}",)))
        if "table2" in self.scope.names:
            found += [Job(f"baseline {name}", "evaluate", row) for name, row in self.baselines().items()]
        return found

    # ---- what is made of it ----

    def results(self, clock: Clock) -> Path:
        """Make tables, figures, ``reproduce.json`` and the page from what is there; returns the page."""
        with clock.stage("exhibits", "Tables and figures"):
            context = self.context()
            for table in all_tables(context):
                save(table, self.folder)
                text = table.to_text(console.width, hide=RULES)
                console.print(text, markup=False, highlight=False, soft_wrap=True)
            console.print("\n".join(RULES), markup=False, highlight=False, soft_wrap=True)
            for figure in all_figures(context):
                save(figure, self.folder)
        self._summarise(clock)
        return write_report(self.folder)

    def context(self) -> Context:
        """Return what is there, for tables and figures."""
        runs = [run for run in self.scope.runs() if (run.evaluation / "results.json").exists()]
        stores = {row.name: getattr(self.select(row), "features", None) for row in self.scope.probed()}
        return Context(
            folder=self.folder,
            scope=self.scope,
            runs=[run for run in runs if not has_diverged(run)],
            diverged=[run for run in self.scope.runs() if has_diverged(run)],
            layers={b.name: path for b in self.scope.probed() if (path := self.layers(b.name)).exists()},
            tests=[path for path in self.tests() if path.exists()],
            training={name: path for name, path in self.training().items() if path.exists()},
            features={name: store for name, store in stores.items() if store},
            titles={row.name: row.title for row in self.scope.backbones}
            | {row.name: row.title for row in self.scope.systems.values()}
            | dict(self.baseline_titles),
        )

    def _summarise(self, clock: Clock) -> None:
        """Write ``reproduce.json``: what was asked, of which machine, in what time, from which data."""
        record = self.folder / RECORD
        data = sorted({*map(str, self.tests()), *map(str, self.training().values())})
        totals: dict[str, float] = defaultdict(float)
        for name, seconds in clock.seconds.items():  # of processes side by side, their sum
            totals[name.split(" ")[0]] += seconds
        values = (json.loads(record.read_text()) if record.exists() else {}) | {
            "scale": self.scale,
            "seeds": list(self.scope.seeds),
            "exhibits": list(self.scope.names),
            "seconds": {name: round(value, 1) for name, value in totals.items()},
            "data_sha256": {
                "/".join(Path(row).parts[-2:]): sha256_of(Path(row)) for row in data if Path(row).exists()
            },
            "settings": self._settings_texts(),
        }
        write_whole(self.folder / SUMMARY, json.dumps(values, ensure_ascii=False, indent=1))

    def _settings_texts(self) -> dict[str, str]:
        """Return the settings of one selection, the base, AI-STA and one evaluation, as YAML."""
        found: dict[str, str] = {}
        for job in self.jobs():
            kind = job.name.split(" ")[0]
            key = f"joint {job.name.split('/')[1]}" if kind == "joint" else kind
            if key in _SHOWN_SETTINGS and key not in found:
                values = job.settings.model_dump(mode="json")
                found[key] = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        return found


class SmallPlan(PaperPlan):
    """The embedded demo's corpora and stand-ins, its shipped configs, both directions in one run.

    Args:
        folder, names, seeds: As in ``PaperPlan``.
        nano: Seconds instead of minutes: for tests.
        options: As in ``PaperPlan``.
    """

    guesses = {"select": 40.0, "joint": 220.0, "evaluate": 80.0, "baseline": 60.0}
    backbones = (
        Backbone("qwen2", "Qwen2 stand-in", "aista:stage1", "Qwen2-7B"),
        Backbone("llama", "Llama stand-in", "aista:stage1_llama", "Vicuna-13B"),
    )
    baseline_titles = {
        "cascade_qwen2": "cascade: Whisper, Qwen2 (stand-ins)",
        "cascade_llama": "cascade: Whisper, Llama (stand-ins)",
    }

    def __init__(
        self, folder: Path, names: Sequence[str], seeds: int = 1, *, nano: bool = False, **options: Any
    ) -> None:
        self.scale, self._corpora = ("nano", "nano") if nano else ("small", "demo")
        super().__init__(folder, names, seeds, **options)

    def prepare(self, clock: Clock) -> None:
        """Make the corpora and let the encoders, which both backbones share, listen once."""
        synthesise(self.folder, corpus.SCALES[self._corpora], CORPORA, clock)
        encode(self.folder, [self.backbones[0].model], CORPORA, clock)

    def num_layers(self) -> int:
        config = json.loads((locate(self.backbones[0].model) / "config.json").read_text())
        return config["text_config"]["num_hidden_layers"]

    def shipped(self, kind: type[S], verb: str, backbone: str, direction: str = "") -> S:
        return shipped(kind, verb, self.folder, self.scale)

    def evaluation(self, run: Run) -> EvaluateSettings:
        settings = shipped(EvaluateSettings, "evaluate", self.folder, self.scale)
        layers = str(self.layers(run.backbone))
        return changed(settings, model=str(run.model), output=str(run.evaluation), layers=layers)

    def baselines(self) -> dict[str, BaselineSettings]:
        ours = shipped(EvaluateSettings, "evaluate", self.folder, self.scale)
        return {
            key: BaselineSettings(
                output=str(self.folder / "baselines" / key),
                data=ours.data,
                baseline="cascade",
                options={"asr": "aista:whisper", "llm": f"aista:{model}"},
                generation=ours.generation.model_dump(),
                limit=ours.limit,
            )
            for key, model in (("cascade_qwen2", "language_model"), ("cascade_llama", "llama"))
        }

    def tests(self) -> list[Path]:
        return [self.folder / "corpus" / f"{name}.jsonl" for name in ("test_common", "test_rare")]

    def training(self) -> dict[str, Path]:
        return {"ST": self.folder / "corpus" / "st.jsonl"}


class FullPlan(PaperPlan):
    """The paper's backbones, corpora and hyper-parameters: ``paper/configs/*.yaml``.

    Args:
        folder, names, seeds: As in ``PaperPlan``.
        data: Where the manifests of ``aista data prepare`` lie (``data/`` in the shipped files).
        models: Where ``aista download`` put the bases (``models/`` in the shipped files).
        options: As in ``PaperPlan``.
    """

    scale = "paper"
    directions = ("en-zh", "en-ja")
    without = frozenset({"ai_sta_raw", "layer_1_raw"})  # the shipped files have the literal cost
    baseline_titles = {"cascade_qwen2-7b": "cascade: Whisper-Large-v2, Qwen2-7B"}
    guesses = {"pretrain": 60 * 3600.0, "select": 1800.0, "joint": 40 * 3600.0, "evaluate": 2 * 3600.0}

    def __init__(
        self, folder: Path, names: Sequence[str], seeds: int = 1, *, data: Path = Path("data"),
        models: Path = Path("models"), **options: Any,
    ) -> None:  # fmt: skip
        self.data, self.models = data, models
        self.backbones = tuple(
            Backbone(name, title, str(folder / "pretrain" / name), title)
            for name, title in (("qwen2-7b", "Qwen2-7B"), ("vicuna-13b", "Vicuna-13B"))
        )
        super().__init__(folder, names, seeds, **options)

    def prepare(self, clock: Clock) -> None:
        """Look for every manifest and base.

        Raises:
            ConfigError: Something is missing; the message names each file.
        """
        needed = [self.data / f"covost2-{way}/{part}.jsonl" for way in self.directions for part in _PARTS]
        for backbone in self.backbones:
            model, data = self.pretrain(backbone).model, self.pretrain(backbone).data
            needed += [Path(path) for path in (*data.train, *data.validation, *self.select(backbone).data)]
            bases = (model.speech_encoder, model.audio_encoder, model.backbone) if model else ()
            needed += [Path(base) for base in bases if base]
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

    def shipped(self, kind: type[S], verb: str, backbone: str, direction: str = "") -> S:
        name = "_".join(filter(None, (verb, backbone, direction)))
        path = Path(str(files("aista.experiments.paper"))) / "configs" / f"{name}.yaml"
        return moved(kind.load(path), {"data": self.data, "models": self.models})

    def pretrain(self, backbone: Backbone) -> PretrainSettings:
        return changed(self.shipped(PretrainSettings, "pretrain", backbone.name), output=backbone.model)

    def evaluation(self, run: Run) -> EvaluateSettings:
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
        cascade = {"asr": str(self.models / "whisper"), "llm": str(self.models / "qwen2")}
        found = {"qwen2_audio": ("qwen2_audio", {}), "cascade_qwen2-7b": ("cascade", cascade)}
        return {
            f"{key}/{way}": BaselineSettings(
                output=str(self.folder / "baselines" / key / way),
                data=[str(self.data / f"covost2-{way}" / "test.jsonl")],
                baseline=name,
                options=options,
            )
            for key, (name, options) in found.items()
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


def paper_plan(
    scale: str, folder: Path, names: Sequence[str], seeds: int = 1, *, data: Path = Path("data"),
    models: Path = Path("models"), changes: Sequence[str] = (), **options: Any,
) -> PaperPlan:  # fmt: skip
    """Return the plan of a size.

    Args:
        scale: ``small``, ``base``, ``paper``, or ``nano`` for tests.
        folder, names, seeds: As in ``PaperPlan``.
        data, models: As in ``FullPlan``. changes: As in ``BasePlan``; only there.
        options: ``every_seed`` and ``methods`` of ``PaperPlan``.

    Raises:
        ConfigError: There is no such size, table or figure; or changes of another scale than ``base``.
    """
    if scale_named(scale, SCALES) == "base":
        from aista.experiments.plans.base import BasePlan  # it is made of this module's PaperPlan

        return BasePlan(folder, names, seeds, data=data, changes=changes, **options)
    if changes:
        raise ConfigError("Only base scale takes --set.", got=f"--scale {scale} --set {changes[0]}")
    if scale == "paper":
        return FullPlan(folder, names, seeds, data=data, models=models, **options)
    return SmallPlan(folder, names, seeds, nano=scale == "nano", **options)


def default_workers(scale: str) -> int:
    """Return how many jobs go side by side: at small scale one per core."""
    return {"small": os.cpu_count() or 1, "nano": 0}.get(scale, 1)
