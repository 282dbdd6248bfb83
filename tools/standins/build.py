"""Everything the package ships, made from nothing.

corpora -> stand-ins (Whisper, BEATs, two language models) -> stage 1 on each language model -> finished model
-> model cards. A stage that left its finished folder behind is skipped. What is trained is kept in half
precision, rounded before it is evaluated or built upon.
"""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from aista.config import JointSettings, PretrainSettings, SelectSettings
from aista.data.text_files import read_json_lines
from aista.demo import corpus
from aista.evaluation.evaluate import EvaluateSettings, evaluate
from aista.experiments.plan import NANO_TRAIN, changed, moved, scale_named, shipped
from aista.experiments.runner import Clock, bar
from aista.model.loading import read_trained, write_trained
from aista.selection.select import select
from aista.training.stages import joint, pretrain
from tools import standins
from tools.standins.sounds import draw_sound

ENCODERS = {"speech_encoder": "whisper", "audio_encoder": "beats"}
# Backbone -> its stage-1 model and its prompt template.
STAGE1 = {"language_model": ("stage1", "chatml"), "llama": ("stage1_llama", "vicuna")}
MODEL = Path(__file__).with_name("model.yaml")
MODELS = (*(name for name, _ in STAGE1.values()), "model")
# A small Q-Former on top of what makes every stage short.
_NANO_QFORMER = {"hidden_size": 32, "intermediate_size": 64}


class Build:
    """The build in one folder.

    Args:
        output: Where everything goes.
        scale: ``full``, or ``nano`` for tests.
    """

    def __init__(self, output: Path, scale: str = "full") -> None:
        self.output, self.scale = output, corpus.SCALES[scale_named(scale, tuple(corpus.SCALES))]
        self.scale_name, self.is_nano = scale, scale == "nano"
        output.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(output / "seconds.json")

    def all(self) -> dict[str, Any]:
        """Make everything, evaluate the finished model, write its card, and return its scores."""
        for backbone in STAGE1:
            self.stage1(backbone)
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
            corpus.build(folder, self.scale, draw_sound=draw_sound, progress=update)
        return folder

    def bases(self, *names: str) -> None:
        """Train stand-ins."""
        folder = self.corpora()
        for name in names:
            with self.clock.stage(name, f"Stand-in backbone: {name}"), bar("steps") as update:
                card = standins.train(
                    name, self.output / name, folder, self.scale, nano=self.is_nano, progress=update
                )
            if "scores" not in card:
                standins.evaluate(name, self.output / name, folder, limit=8 if self.is_nano else 300)

    def stage1(self, backbone: str = "language_model") -> str:
        """Train stage 1 on a stand-in language model and return its folder."""
        self.bases(*ENCODERS.values(), backbone)
        name, template = STAGE1[backbone]
        model = {key: str(self.output / base) for key, base in ENCODERS.items()}
        model |= {"backbone": str(self.output / backbone), "template": template}
        with self.clock.stage(name, f"Stage 1 on {backbone}: speech recognition and audio captioning"):
            settings = shipped(PretrainSettings, "pretrain", self.output, self.scale_name)
            settings = changed(settings, output=str(self.output / name), model=model)
            if self.is_nano:
                settings = changed(settings, model={"qformer": _NANO_QFORMER})
            return str(round_to_half(pretrain(settings).folder))

    def layers(self) -> list[int]:
        """Choose the layers to align in the stage-1 model."""
        stage1 = self.stage1()
        with self.clock.stage("select", "Layer selection: where does speech find its text?"):
            settings = shipped(SelectSettings, "select", self.output, self.scale_name)
            return select(changed(settings, model=stage1)).selected

    def model(self) -> str:
        """Train the finished model from stage 1 and return its folder."""
        self.layers()
        with self.clock.stage("model", "The finished model: translation, recognition, alignment"):
            settings = moved(JointSettings.load(MODEL), {"runs/build": self.output})
            if self.is_nano:
                settings = changed(settings, train=NANO_TRAIN)
            return str(round_to_half(joint(settings).folder))

    def score(self) -> dict[str, Any]:
        """Evaluate the finished model on held-out combinations and speakers."""
        with self.clock.stage("evaluate", "Evaluation of the finished model"):
            settings = shipped(EvaluateSettings, "evaluate", self.output, self.scale_name)
            data = [str(self.output / "corpus" / f"{name}.jsonl") for name in TESTS]
            model, output = str(self.output / "model"), str(self.output / "evaluate")
            return evaluate(changed(settings, model=model, output=output, data=data))

    def install(self, target: Path | None = None) -> None:
        """Copy the finished folders to where ``aista:NAME`` looks for them, names of bases made portable."""
        home = target or Path(str(files("aista.demo") / "weights"))
        for name in (*standins.NAMES, *MODELS):
            shutil.rmtree(home / name, ignore_errors=True)
            ignored = shutil.ignore_patterns("checkpoints", "seconds", "history.json")
            shutil.copytree(self.output / name, home / name, ignore=ignored)
        for name in MODELS:
            _make_portable(home / name / "config.json")


TESTS = ("test_common", "test_rare", "test_common_asr", "test_rare_asr")


def round_to_half(folder: Path) -> Path:
    """Round the trained tensors of a finished folder to half precision, once; returns the folder."""
    tensors = read_trained(folder)
    if any(tensor.dtype != torch.float16 for tensor in tensors.values()):
        write_trained(folder, {name: tensor.half() for name, tensor in tensors.items()})
    return folder


def _make_portable(config: Path) -> None:
    """Name the bases of a model ``aista:NAME`` instead of the folder they were built in."""
    values = json.loads(config.read_text())
    for base in values["bases"].values():
        base["source"] = f"aista:{Path(base['source'].removeprefix('aista:')).name}"
    for part in values.values():
        if isinstance(part, dict):
            part.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")


# ---- the card of the shipped model: what it is, what it was made from, how good it is ----


def write_card(build: Path, results: dict[str, Any]) -> Path:
    """Write ``README.md`` into the finished model's folder from what the build measured.

    Args:
        build: Folder of a finished build.
        results: What ``aista evaluate`` returned for its model.
    """
    cards = {name: _read(build / name / "card.json") for name in ("whisper", "beats", "language_model")}
    runs = {name: _read(build / name / "training.json") for name in ("stage1", "model")}
    settings = (build / "model" / "settings.yaml").read_text()
    said = (row["text"] for _, row in read_json_lines(build / "corpus" / "asr.jsonl"))
    words = {word.strip(".,").lower() for text in said for word in text.split()}
    facts = _read(build / "corpus" / "corpus.json")["corpora"]
    names = list(results["by_set"])
    measures = sorted({key for part in results["by_set"].values() for key in part["scores"]})
    card = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    text = card.format(
        words=len(words),
        **cards,
        **runs,
        trained=runs["model"]["trained_parameters"],
        stage1_minutes=runs["stage1"]["seconds"] / 60,
        model_minutes=runs["model"]["seconds"] / 60,
        alignment=settings.split("alignment:")[1].split("prompt_pool")[0].replace("\n", " ").strip(),
        seed=settings.rsplit("seed: ", 1)[1].strip(),
        corpora="\n".join(
            f"| {name} | {row['utterances']:,} | {row['seconds'] / 3600:.2f} |" for name, row in facts.items()
        ),
        sets=" | ".join(names),
        rule="|".join("---" for _ in names),
        scores="\n".join(
            _row(measure, [results["by_set"][name]["scores"] for name in names]) for measure in measures
        ),
        signatures="\n".join(f"* {name}: `{value}`" for name, value in results["signatures"].items()),
    )
    path = build / "model" / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _row(measure: str, parts: list[dict[str, float]]) -> str:
    values = (f"{part[measure]:.2f}" if measure in part else "" for part in parts)
    return f"| {measure} | {' | '.join(values)} |"
