"""``aista demo build``: everything the package ships, made from nothing.

corpora -> stand-in backbones (Whisper, language model, BEATs) -> stage 1 -> finished model -> model cards. A
stage that left its finished folder behind is skipped.
"""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from aista.config import JointSettings, PretrainSettings, SelectSettings
from aista.demo import corpus, standins
from aista.demo.model_card import write_card
from aista.demo.stages import NANO_TRAIN, Clock, bar, shipped_settings
from aista.evaluation.evaluate import evaluate
from aista.evaluation.settings import EvaluateSettings
from aista.selection.select import select
from aista.training.joint import joint
from aista.training.pretrain import pretrain

BASES = {"speech_encoder": "whisper", "audio_encoder": "beats", "backbone": "language_model"}
MODELS = ("stage1", "model")
_NANO = {
    "pretrain": (*NANO_TRAIN, "model.qformer.hidden_size=32", "model.qformer.intermediate_size=64"),
    "select": ("num_pairs=8", "threshold_times_chance=0"),
    "model": NANO_TRAIN,
    "evaluate": ("limit=4", "generation.max_new_tokens=8"),
}


class Build:
    """The build in one folder.

    Args:
        output: Where everything goes.
        scale: ``full``, or ``nano`` for tests.
    """

    def __init__(self, output: Path, scale: str = "full") -> None:
        self.output, self.scale = output, corpus.scale_named(scale)
        self.overrides = _NANO if scale == "nano" else {}
        self.is_nano = scale == "nano"
        output.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(output / "seconds.json")

    def all(self) -> dict[str, Any]:
        """Make everything, evaluate the finished model, write its card, and return its scores."""
        self.model()
        results = self.score()
        write_card(self.output, results)
        return results

    def corpora(self) -> Path:
        """Synthesise every corpus."""
        folder = self.output / "corpus"
        with (
            self.clock.stage("synthesis", "Corpora: speech, sounds, translations"),
            bar("utterances") as update,
        ):
            corpus.build(folder, self.scale, progress=update)
        return folder

    def backbones(self) -> None:
        """Train the three stand-in backbones."""
        folder = self.corpora()
        for name in BASES.values():
            with self.clock.stage(name, f"Stand-in backbone: {name}"), bar("steps") as update:
                card = standins.train(
                    name, self.output / name, folder, self.scale, nano=self.is_nano, progress=update
                )
            if "scores" not in card:
                standins.evaluate(name, self.output / name, folder, limit=8 if self.is_nano else 300)

    def stage1(self) -> str:
        """Train stage 1 on the stand-ins and return its folder."""
        self.backbones()
        bases = [f"model.{key}={self.output / name}" for key, name in BASES.items()]
        with self.clock.stage("stage1", "Stage 1: speech recognition and audio captioning"):
            settings = shipped_settings(
                PretrainSettings, "pretrain", self.output, *self.overrides.get("pretrain", ()), *bases
            )
            return str(pretrain(settings).folder)

    def layers(self) -> list[int]:
        """Choose the layers to align in the stage-1 model."""
        stage1 = self.stage1()
        with self.clock.stage("select", "Layer selection: where does speech find its text?"):
            settings = shipped_settings(
                SelectSettings, "select", self.output, *self.overrides.get("select", ()), f"model={stage1}"
            )
            return select(settings).selected

    def model(self) -> str:
        """Train the finished model from stage 1 and return its folder."""
        self.layers()
        with self.clock.stage("model", "The finished model: translation, recognition, alignment"):
            settings = shipped_settings(JointSettings, "model", self.output, *self.overrides.get("model", ()))
            return str(joint(settings).folder)

    def score(self) -> dict[str, Any]:
        """Evaluate the finished model on held-out combinations and speakers."""
        with self.clock.stage("evaluate", "Evaluation of the finished model"):
            settings = shipped_settings(
                EvaluateSettings, "evaluate", self.output, *self.overrides.get("evaluate", ()),
                f"model={self.output / 'model'}", f"output={self.output / 'evaluate'}",
                "data=" + json.dumps([str(self.output / "corpus" / f"{name}.jsonl") for name in TESTS]),
            )  # fmt: skip
            return evaluate(settings)

    def install(self, target: Path | None = None) -> None:
        """Copy the finished folders to where ``aista:NAME`` looks for them, names of bases made portable."""
        home = target or Path(str(files("aista.demo") / "weights"))
        for name in (*BASES.values(), *MODELS):
            shutil.rmtree(home / name, ignore_errors=True)
            ignored = shutil.ignore_patterns("checkpoints", "seconds", "history.json")
            shutil.copytree(self.output / name, home / name, ignore=ignored)
        for name in MODELS:
            _make_portable(home / name / "config.json")


TESTS = ("test_common", "test_rare", "test_common_asr", "test_rare_asr")


def _make_portable(config: Path) -> None:
    """Name the bases of a model ``aista:NAME`` instead of the folder they were built in."""
    values = json.loads(config.read_text())
    for key, name in BASES.items():
        values["bases"][key]["source"] = f"aista:{name}"
    for part in values.values():
        if isinstance(part, dict):
            part.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")
