"""``aista reproduce``: the paper's tables and figures, at three sizes.

Small: stand-ins and synthetic speech on any machine. Base: small published models on the user's speech.
Paper: its own models and data on a GPU node.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from aista.config import AlignSettings, JointSettings, PretrainSettings, SelectSettings
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.demo import corpus
from aista.errors import ConfigError, ManifestError
from aista.evaluation.evaluate import BaselineSettings, EvaluateSettings
from aista.experiments.demo import CORPORA, encode, synthesise
from aista.experiments.paper.figures import all_figures
from aista.experiments.paper.page import RECORD, write_report
from aista.experiments.paper.systems import (
    Backbone,
    Context,
    Run,
    Scope,
    System,
    chosen_names,
    has_diverged,
    systems,
)
from aista.experiments.paper.tables import RULES, all_tables
from aista.experiments.plan import Job, Plan, S, changed, moved, scale_named, shipped
from aista.experiments.results import save
from aista.experiments.runner import Clock, console, recorded
from aista.files import sha256_of, write_whole
from aista.model.bases import locate
from aista.run_folder import SETTINGS
from aista.selection.select import REPORT, clips_with_text
from aista.settings_text import override

SCALES = ("small", "base", "paper", "nano")
STAGES = ("align", "pretrain", "select", "joint", "evaluate")
PARTS = ("train", "dev", "test")
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
        stages: What comes before layer selection: ``align``, ``pretrain``.
        directions: ``("",)`` where one run learns all.
        without: Keys of systems that would be another one again.
        baseline_titles: Key of a baseline -> what a reader sees.

    Raises:
        ConfigError: There is no such table or figure.
    """

    scale: str
    backbones: tuple[Backbone, ...]
    stages: tuple[str, ...] = ()
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

    @abstractmethod
    def shipped(self, kind: type[S], verb: str, backbone: str = "", direction: str = "") -> S:
        """Return the shipped settings of a verb, their paths moved to where this plan has its files."""

    @abstractmethod
    def tests(self, direction: str = "") -> list[Path]:
        """Return the test manifests of a direction."""

    @abstractmethod
    def training(self) -> dict[str, Path]:
        """Return what is trained on: a name of Table 1 -> its manifest."""

    def align(self, backbone: Backbone) -> AlignSettings:
        """Return the settings of alignment first."""
        return self.shipped(AlignSettings, "align")

    def pretrain(self, backbone: Backbone) -> PretrainSettings:
        """Return stage 1's settings."""
        return self.shipped(PretrainSettings, "pretrain", backbone.name)

    def select(self, backbone: Backbone) -> SelectSettings:
        """Return layer selection's settings."""
        settings = self.shipped(SelectSettings, "select", backbone.name)
        return changed(settings, model=backbone.model, output=str(self.layers(backbone.name).parent))

    def joint(self, run: Run, system: System) -> JointSettings:
        """Return the settings of a run; two systems differ in their alignment and the output alone."""
        model = next(row.model for row in self.backbones if row.name == run.backbone)
        alignment = {"layers": str(self.layers(run.backbone)), **system.alignment}
        return changed(
            self.shipped(JointSettings, "joint", run.backbone, run.direction),
            init=model, output=str(run.model), seed=run.seed, alignment=alignment,
        )  # fmt: skip

    def evaluation(self, run: Run) -> EvaluateSettings:
        """Return the settings of a run's evaluation."""
        layers = str(self.layers(run.backbone))
        settings = self.shipped(EvaluateSettings, "evaluate")
        return changed(settings, model=str(run.model), output=str(run.evaluation), layers=layers)

    def baselines(self) -> dict[str, BaselineSettings]:
        """Return the baselines that are run here: ``key``, or ``key/direction`` where tests lie apart."""
        return {}

    def layers(self, backbone: str) -> Path:
        """Return where layer selection leaves its report."""
        return self.folder / "select" / backbone / REPORT

    # ---- what runs ----

    def jobs(self) -> list[Job]:
        """Return everything there is to run: the first seed of everything first.

        Baselines, which wait for nothing, come before what is trained: weights, tokenizers and test sets that
        are not as they should be show within hours, not after weeks.
        """
        wanted = self.baselines() if "table2" in self.scope.names else {}
        found = [Job(f"baseline {name}", "evaluate", row) for name, row in wanted.items()]
        for backbone in self.scope.probed():
            needs: tuple[str, ...] = ()
            for verb in self.stages:
                stage = self.align(backbone) if verb == "align" else self.pretrain(backbone)
                found.append(Job(f"{verb} {backbone.name}", verb, stage, needs))
                needs = (found[-1].name,)
            found.append(Job(f"select {backbone.name}", "select", self.select(backbone), needs))
        for run in self.scope.runs():
            settings = self.joint(run, self.scope.systems[run.system])
            found.append(Job(f"joint {run.name}", "joint", settings, (f"select {run.backbone}",)))
            evaluation = self.evaluation(run)
            found.append(Job(f"evaluate {run.name}", "evaluate", evaluation, (f"joint {run.name}",)))
        return found

    # ---- what is made of it ----

    def results(self, clock: Clock) -> Path:
        """Make tables, figures, ``reproduce.json`` and the page from what is there; returns the page."""
        with clock.stage("exhibits", "Tables and figures"):
            first = self.context(self.directions[:1])
            for table in all_tables(self.context(), first):
                save(table, self.folder)
                text = table.to_text(console.width, hide=RULES)
                console.print(text, markup=False, highlight=False, soft_wrap=True)
            console.print("\n".join(RULES), markup=False, highlight=False, soft_wrap=True)
            for figure in all_figures(first):
                save(figure, self.folder)
        self._summarise(clock)
        return write_report(self.folder)

    def context(self, directions: Sequence[str] | None = None) -> Context:
        """Return what is there, for tables and figures.

        Args:
            directions: Of these alone; None: of all.
        """
        scope = replace(self.scope, directions=tuple(self.directions if directions is None else directions))
        runs, probed = scope.runs(), scope.probed()
        stores = {row.name: getattr(self.select(row), "features", None) for row in probed}
        titles = {row.name: row.title for row in self.scope.systems.values()}
        return Context(
            folder=self.folder,
            scope=scope,
            runs=[r for r in runs if (r.evaluation / "results.json").exists() and not has_diverged(r)],
            diverged=[run for run in runs if has_diverged(run)],
            layers={row.name: path for row in probed if (path := self.layers(row.name)).exists()},
            tests=[path for way in scope.directions for path in self.tests(way) if path.exists()],
            limit=self.evaluation(runs[0]).limit if runs else None,
            training={name: path for name, path in self.training().items() if path.exists()},
            features={name: store for name, store in stores.items() if store},
            titles={**titles, **self.baseline_titles},
        )

    def _summarise(self, clock: Clock) -> None:
        """Write ``reproduce.json``: what was asked, of which machine, in what time, from which data."""
        tests = (path for way in self.directions for path in self.tests(way))
        data = sorted({*map(str, tests), *map(str, self.training().values())})
        totals: dict[str, float] = defaultdict(float)
        for name, seconds in clock.seconds.items():  # of processes side by side, their sum
            totals[name.split(" ")[0]] += seconds
        shown: dict[str, str] = {}  # the settings of one selection, the base, AI-STA and one evaluation
        for job in self.jobs():
            key = f"joint {job.name.split('/')[1]}" if job.kind == "joint" else job.kind
            made_with = job.output / SETTINGS  # what was asked now may have been refused
            if key in _SHOWN_SETTINGS and key not in shown and made_with.exists():
                shown[key] = made_with.read_text(encoding="utf-8")
        before = json.loads((self.folder / RECORD).read_text()) if (self.folder / RECORD).exists() else {}
        record = {**self.asked, **recorded(self.folder)}  # which knows what was refused
        is_other = record.get("data") != self.asked.get("data")
        summary = {
            **record,
            "scale": self.scale,
            "seeds": list(self.scope.seeds),
            "exhibits": list(self.scope.names),
            "seconds": {name: round(value, 1) for name, value in totals.items()},
            "data_sha256": before.get("data_sha256", {})
            if is_other
            else {"/".join(Path(row).parts[-2:]): sha256_of(Path(row)) for row in data if Path(row).exists()},
            "settings": shown,
        }
        write_whole(self.folder / RECORD, json.dumps(summary, ensure_ascii=False, indent=1))


class SmallPlan(PaperPlan):
    """The embedded demo's corpora and stand-ins, its shipped configs, both directions in one run.

    Args:
        folder, names, seeds, options: As in ``PaperPlan``.
        nano: Seconds instead of minutes: for tests.
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
        self.scale = "nano" if nano else "small"
        super().__init__(folder, names, seeds, **options)

    def prepare(self, clock: Clock) -> None:
        """Make the corpora and let the encoders, which both backbones share, listen once."""
        synthesise(self.folder, corpus.SCALES["nano" if self.scale == "nano" else "demo"], CORPORA, clock)
        encode(self.folder, [self.backbones[0].model], CORPORA, clock)

    def num_layers(self) -> int:
        config = json.loads((locate(self.backbones[0].model) / "config.json").read_text())
        return config["text_config"]["num_hidden_layers"]

    def shipped(self, kind: type[S], verb: str, backbone: str = "", direction: str = "") -> S:
        return shipped(kind, verb, self.folder, self.scale)

    def baselines(self) -> dict[str, BaselineSettings]:
        ours = self.shipped(EvaluateSettings, "evaluate")
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

    def tests(self, direction: str = "") -> list[Path]:
        return [self.folder / "corpus" / f"{name}.jsonl" for name in ("test_common", "test_rare")]

    def training(self) -> dict[str, Path]:
        return {"ST": self.folder / "corpus" / "st.jsonl"}


class BasePlan(PaperPlan):
    """The files of ``experiments/base`` on three manifests of the user: a small Whisper, a Qwen2.5 of 0.5 B.

    align -> stage 1 -> selection -> joint training of base and AI-STA -> evaluation. BEATs and audio
    captioning stay out, so these are not the paper's tables.

    Args:
        folder, seeds, options: As in ``PaperPlan``.
        names: As in ``PaperPlan``; ``all`` is what base and AI-STA alone can fill.
        data: Holds ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``: speech with transcript and translation,
            as ``aista data prepare covost2`` writes them.
        changes: ``stage.dotted.key=value``, e.g. ``pretrain.train.max_steps=300``.

    Raises:
        ConfigError: A change names no stage, or a setting does not allow it.
    """

    scale, stages = "base", ("align", "pretrain")

    def __init__(
        self, folder: Path, names: Sequence[str], seeds: int = 1, *, data: Path = Path("data"),
        changes: Sequence[str] = (), **options: Any,
    ) -> None:  # fmt: skip
        self.data, self.folder = data, folder  # where the shipped files are moved to
        self._changes: dict[str, list[str]] = {stage: [] for stage in STAGES}
        for text in changes:
            stage, dot, change = text.partition(".")
            if stage not in STAGES or not dot:
                raise ConfigError(
                    "A change at base scale begins with the stage that it is for.",
                    got=f"--set {text}",
                    expected=f"{', '.join(STAGES)}: --set pretrain.train.max_steps=300",
                )
            self._changes[stage].append(change)
        align, joint = self.shipped(AlignSettings, "align"), self.shipped(JointSettings, "joint")
        pretrain, select = self.shipped(PretrainSettings, "pretrain"), self.shipped(SelectSettings, "select")
        evaluation = self.shipped(EvaluateSettings, "evaluate")
        self.guesses = {  # seconds of a core with bfloat16 (docs/results/base); encoding comes on top
            "align": 1.0 * align.train.max_steps, "pretrain": 5.0 * pretrain.train.max_steps,
            "select": 1.0 * select.num_pairs, "joint": 5.0 * joint.train.max_steps,
            "evaluate": 4.0 * (evaluation.limit or 1000),
        }  # fmt: skip
        model = align.model
        title = Path(model.backbone).name if model else "the given model"
        self.backbones = (Backbone("base", title, str(folder / "pretrain"), ""),)
        fillable = ("table2", "table5", "figure4")
        named = [row for name in names for row in (fillable if name == "all" else (name,))]
        super().__init__(folder, named, seeds, **options)

    def prepare(self, clock: Clock) -> None:
        """Write the same sentences as recognition (clips, asked for their transcript) and as texts.

        They are written each time: stages that were trained on other rows of the same folder are refused.

        Raises:
            ConfigError: A manifest is missing. ManifestError: A row is no speech with both texts.
        """
        sources = {part: self.data / f"{part}.jsonl" for part in PARTS}
        if missing := [str(path) for path in sources.values() if not path.exists()]:
            raise ConfigError(
                "Base scale needs speech with transcripts and translations.",
                got=f"missing: {', '.join(missing)}",
                advice="'aista data prepare covost2 --source cv-corpus-4/en --direction en-zh --out "
                "data/covost2-en-zh' makes them; --data names their folder.",
            )
        made = dict[str, Iterable[Utterance]]()
        for part, path in sources.items():
            made[f"{part}.asr"], made[f"{part}.mt"] = _recognition(Manifest(path)), _text(Manifest(path))
        for name, rows in made.items():  # not before all rows are checked
            write_manifest(self.folder / "corpus" / f"{name}.jsonl", rows)

    def num_layers(self) -> int:
        """Return where layer sets end at the latest; none of them goes beyond the sixth layer."""
        return 6

    def select(self, backbone: Backbone) -> SelectSettings:
        """Return the shipped settings; of a small dev set every clip is taken."""
        settings, dev = self.shipped(SelectSettings, "select"), self.data / "dev.jsonl"
        if not dev.exists():
            return settings
        model, rows = self.shipped(AlignSettings, "align").model, SpeechDataset([Manifest(dev)])
        ends = settings.max_seconds, model.speech_window_seconds if model else None
        short = (rows.lengths <= min(filter(None, ends), default=math.inf)).tolist()
        there = len(clips_with_text(rows.utterances(), short))
        return changed(settings, num_pairs=max(2, min(settings.num_pairs, there)))

    def joint(self, run: Run, system: System) -> JointSettings:
        settings = self.shipped(JointSettings, "joint")
        return changed(settings, output=str(run.model), seed=run.seed, alignment=system.alignment)

    def evaluation(self, run: Run) -> EvaluateSettings:
        settings = self.shipped(EvaluateSettings, "evaluate")
        return changed(settings, model=str(run.model), output=str(run.evaluation))

    def tests(self, direction: str = "") -> list[Path]:
        return [self.data / "test.jsonl"]

    def training(self) -> dict[str, Path]:
        """Return what stage 1 and joint training read: clips, and the same sentences as texts."""
        stages = self.shipped(PretrainSettings, "pretrain"), self.shipped(JointSettings, "joint")
        read = {Path(path) for stage in stages for path in stage.data.train}
        made = {task: self.folder / "corpus" / f"train.{task.lower()}.jsonl" for task in ("ASR", "MT")}
        return {"ST": self.data / "train.jsonl"} | {k: v for k, v in made.items() if v in read}

    def shipped(self, kind: type[S], verb: str, backbone: str = "", direction: str = "") -> S:
        """Read a shipped file, move its folders, and apply the user's changes."""
        path = Path(str(files("aista.experiments"))) / "base" / f"{verb}.yaml"
        values = moved(kind.load(path), {"data": self.data, "runs/base": self.folder}).model_dump(mode="json")
        for text in self._changes[verb]:
            override(values, text)
        return kind.of(values, source=f"{path} with --set")


def _recognition(manifest: Manifest) -> list[Utterance]:
    """Return the rows as recognition rows that can lie in another folder."""
    found = []
    for row in manifest:
        if row.task != "st" or not row.text or not row.translation:
            raise ManifestError(
                "Base scale needs speech with a transcript and a translation in every row.",
                got=f"{manifest.path}: {row.id!r}, task {row.task}, "
                + ", ".join(f"{'a' if getattr(row, key) else 'no'} {key}" for key in ("text", "translation")),
                expected="task st, text, translation, tgt_lang",
            )
        parts = row.segments if all(part.text for part in row.segments or ()) else None
        audio = str(manifest.audio_path(row).resolve())
        told = {"audio": audio, "task": "asr", "translation": None, "tgt_lang": None, "prompt": None}
        found.append(row.model_copy(update={**told, "segments": parts}))
    return found


def _text(manifest: Manifest) -> Iterator[Utterance]:
    """Yield the rows without their sound: the transcript is to be translated."""
    for row in manifest:
        yield Utterance(
            id=f"{row.id}-text", task="mt", src_lang=row.src_lang, tgt_lang=row.tgt_lang, text=row.text,
            translation=row.translation, corpus=row.corpus,
        )  # fmt: skip


class FullPlan(PaperPlan):
    """The paper's backbones, corpora and hyper-parameters: ``paper/configs/*.yaml``.

    Args:
        folder, names, seeds, options: As in ``PaperPlan``.
        data: Where the manifests of ``aista data prepare`` lie (``data/`` in the shipped files).
        models: Where ``aista download`` put the bases (``models/`` in the shipped files).
    """

    scale, stages = "paper", ("pretrain",)
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
        ways = dict.fromkeys(run.direction for run in self.scope.runs())
        needed = [self._manifest(way, part) for way in ways for part in PARTS]
        needed += self.training().values() if "table1" in self.scope.names else []
        needed += [self.models / "whisper" / "tokenizer_config.json"] if "table2" in self.scope.names else []
        for backbone in self.scope.probed():
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

    def shipped(self, kind: type[S], verb: str, backbone: str = "", direction: str = "") -> S:
        name = "_".join(filter(None, (verb, backbone, direction)))
        path = Path(str(files("aista.experiments.paper"))) / "configs" / f"{name}.yaml"
        return moved(kind.load(path), {"data": self.data, "models": self.models})

    def pretrain(self, backbone: Backbone) -> PretrainSettings:
        return changed(super().pretrain(backbone), output=backbone.model)

    def evaluation(self, run: Run) -> EvaluateSettings:
        return EvaluateSettings.of(
            {
                "output": str(run.evaluation),
                "model": str(run.model),
                "data": [str(self._manifest(run.direction, "test"))],
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
                data=[str(self._manifest(way, "test"))],
                baseline=name,
                options=options,
            )
            for key, (name, options) in found.items()
            for way in self.directions
        }

    def tests(self, direction: str = "") -> list[Path]:
        return [self._manifest(direction, "test")]

    def training(self) -> dict[str, Path]:
        pretrain = self.pretrain(self.backbones[0]).data.train
        found = {str(Path(path).relative_to(self.data).with_suffix("")): Path(path) for path in pretrain}
        return found | {f"covost2-{way}": self._manifest(way, "train") for way in self.directions}

    def _manifest(self, direction: str, part: str) -> Path:
        return self.data / f"covost2-{direction}" / f"{part}.jsonl"


def plan_there(
    folder: Path, names: Sequence[str], *, scale: str | None = None, seeds: int | None = None, **options: Any
) -> PaperPlan:  # fmt: skip
    """Return the plan of the runs that lie in a folder: for tables of what is there.

    Args:
        folder, names: As in ``PaperPlan``.
        scale, seeds, options: As in ``paper_plan``; by default as the folder was made, with every seed found.

    Raises:
        ConfigError: The folder is of another scale; or as ``paper_plan``.
    """
    path = folder / RECORD
    record = (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}) | recorded(folder)
    was = record.get("scale")
    if scale and was and scale != was:
        raise ConfigError(
            f"{folder} is of another scale.", got=f"--scale {scale}", expected=f"--scale {was}, or none"
        )
    found = [path.name.removeprefix("seed_") for path in folder.glob("runs/**/seed_*")]
    before = {name: record[name] for name in ("data", "models", "changes", "methods") if name in record}
    options = {"every_seed": True, **before, **options}
    for name in {"data", "models"} & options.keys():
        options[name] = Path(options[name])
    most = max((int(name) for name in found if name.isdecimal()), default=1)
    return paper_plan(scale or was or "small", folder, names, seeds or most, **options)


def paper_plan(
    scale: str, folder: Path, names: Sequence[str], seeds: int = 1, *, data: Path = Path("data"),
    models: Path = Path("models"), changes: Sequence[str] = (), **options: Any,
) -> PaperPlan:  # fmt: skip
    """Return the plan of a size.

    Args:
        scale: ``small``, ``base``, ``paper``, or ``nano`` for tests.
        folder, names, seeds: As in ``PaperPlan``.
        data, models: As in ``FullPlan``. changes: As in ``BasePlan``, which alone takes them.
        options: ``every_seed`` and ``methods`` of ``PaperPlan``.

    Raises:
        ConfigError: There is no such size, table or figure; or changes of another scale than ``base``.
    """
    plan: PaperPlan
    if scale_named(scale, SCALES) == "base":
        plan = BasePlan(folder, names, seeds, data=data, changes=changes, **options)
    elif changes:
        raise ConfigError("Only base scale takes --set.", got=f"--scale {scale} --set {changes[0]}")
    elif scale == "paper":
        plan = FullPlan(folder, names, seeds, data=data, models=models, **options)
    else:
        plan = SmallPlan(folder, names, seeds, nano=scale == "nano", **options)
    plan.asked = {
        "scale": scale, "data": str(data), "models": str(models), "changes": list(changes),
        "methods": list(options.get("methods", ())),
    }  # fmt: skip
    return plan
