"""``aista reproduce --scale base``: a small Whisper and a Qwen2.5 of 0.5 B on the user's own speech.

align -> stage 1 -> selection -> joint training of base and AI-STA -> evaluation. BEATs and audio captioning
stay out, so these are not the paper's tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from aista.config import AlignSettings, JointSettings, PretrainSettings, SelectSettings, Settings
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError, ManifestError
from aista.evaluation.evaluate import EvaluateSettings
from aista.experiments.paper.systems import Backbone, Run, System
from aista.experiments.plan import changed, moved
from aista.experiments.plans.paper import PaperPlan
from aista.experiments.progress import Clock
from aista.settings_text import override

S = TypeVar("S", bound=Settings)
STAGES = ("align", "pretrain", "select", "joint", "evaluate")
PARTS = ("train", "dev", "test")
#: What ``all`` makes here: what base and AI-STA alone can fill.
EXHIBITS = ("table2", "table5", "figure4")


class BasePlan(PaperPlan):
    """The files of ``experiments/base`` on three manifests of the user.

    Args:
        folder, seeds: As in ``PaperPlan``.
        names: As in ``PaperPlan``; ``all`` is ``EXHIBITS``.
        data: Holds ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``: speech with transcript and translation,
            as ``aista data prepare covost2`` writes them.
        changes: ``stage.dotted.key=value``, e.g. ``pretrain.train.max_steps=100``.
        options: As in ``PaperPlan``.

    Raises:
        ConfigError: A change names no stage, or a setting does not allow it.
    """

    scale = "base"
    guesses = {"align": 300.0, "pretrain": 3600.0, "select": 600.0, "joint": 3600.0, "evaluate": 900.0}

    def __init__(
        self, folder: Path, names: Sequence[str], seeds: int = 1, *, data: Path = Path("data"),
        changes: Sequence[str] = (), **options: Any,
    ) -> None:  # fmt: skip
        self.data = data
        self._changes: dict[str, list[str]] = {stage: [] for stage in STAGES}
        for text in changes:
            stage, dot, change = text.partition(".")
            if stage not in STAGES or not dot:
                raise ConfigError(
                    "A change at base scale begins with the stage that it is for.",
                    got=f"--set {text}",
                    expected=f"{', '.join(STAGES)}: --set pretrain.train.max_steps=100",
                )
            self._changes[stage].append(change)
        self.folder = folder  # where the shipped files are moved to
        model = self.shipped(AlignSettings, "align").model
        title = Path(model.backbone).name if model else "the given model"
        self.backbones = (Backbone("base", title, str(folder / "pretrain"), ""),)
        names = [row for name in names for row in (EXHIBITS if name == "all" else (name,))]
        super().__init__(folder, names, seeds, **options)

    def prepare(self, clock: Clock) -> None:
        """Write the recognition rows: the same clips, asked for their transcript.

        Raises:
            ConfigError: A manifest is missing. ManifestError: A row has no transcript.
        """
        sources = {part: self.data / f"{part}.jsonl" for part in PARTS}
        if missing := [str(path) for path in sources.values() if not path.exists()]:
            raise ConfigError(
                "Base scale needs speech with transcripts and translations.",
                got=f"missing: {', '.join(missing)}",
                advice="`aista data prepare covost2 --direction en-zh --out data/covost2-en-zh` makes them; "
                "--data names their folder.",
            )
        for part, path in sources.items():
            target = self.folder / "corpus" / f"{part}.asr.jsonl"
            if not target.exists():
                write_manifest(target, _recognition(Manifest(path)))

    def num_layers(self) -> int:
        """Return where layer sets end at the latest; none of them goes beyond the sixth layer."""
        return 6

    def align(self, backbone: Backbone) -> AlignSettings:
        return self.shipped(AlignSettings, "align")

    def pretrain(self, backbone: Backbone) -> PretrainSettings:
        return self.shipped(PretrainSettings, "pretrain")

    def select(self, backbone: Backbone) -> SelectSettings:
        return self.shipped(SelectSettings, "select")

    def joint(self, run: Run, system: System) -> JointSettings:
        settings = self.shipped(JointSettings, "joint")
        return changed(settings, output=str(run.model), seed=run.seed, alignment=system.alignment)

    def evaluation(self, run: Run) -> EvaluateSettings:
        settings = self.shipped(EvaluateSettings, "evaluate")
        return changed(settings, model=str(run.model), output=str(run.evaluation))

    def tests(self) -> list[Path]:
        return [self.data / "test.jsonl"]

    def training(self) -> dict[str, Path]:
        return {"ST": self.data / "train.jsonl"}

    def shipped(self, kind: type[S], verb: str, backbone: str = "", direction: str = "") -> S:
        """Read a shipped file, move its folders, and apply the user's changes."""
        path = Path(str(files("aista.experiments"))) / "base" / f"{verb}.yaml"
        values = moved(kind.load(path), {"data": self.data, "runs/base": self.folder}).model_dump(mode="json")
        for text in self._changes[verb]:
            override(values, text)
        return kind.of(values, source=f"{path} with --set")


def _recognition(manifest: Manifest) -> Iterator[Utterance]:
    """Yield the rows as recognition rows that can lie in another folder."""
    for row in manifest:
        if not row.text:
            raise ManifestError("A row has no transcript.", got=f"{manifest.path}: {row.id!r}")
        audio = str(manifest.audio_path(row).resolve())
        yield row.model_copy(update={"audio": audio, "task": "asr", "translation": None, "tgt_lang": None})
