"""``aista demo``: the verbs of the library on the shipped configs, one after the other.

synthesise -> select -> joint, base and AI-STA side by side -> evaluate -> results.json and report.html.
The two are compared twice: taught translation from speech, and never taught it (speech has transcripts,
translation texts of other sentences; AI-STA is aligned first). Every stage leaves a finished folder behind
and is skipped when it is there: after Ctrl-C the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from rich.markup import escape
from rich.table import Table

from aista.config import AlignSettings, JointSettings, SelectSettings
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.demo import corpus, grammar, speech
from aista.errors import TrainingError
from aista.evaluation.evaluate import EvaluateSettings, compare, versions
from aista.experiments.demo_page import write_report
from aista.experiments.plan import NANO_TRAIN, Job, Plan, changed, scale_named, shipped
from aista.experiments.runner import Clock, Runner, bar, console, tail
from aista.files import write_whole
from aista.selection.select import REPORT, LayerReport

SYSTEMS = {"base": "none", "ai_sta": "wasserstein"}
# Translation of speech is never taught: base, and the form of docs/findings/when-alignment-helps.md.
UNTAUGHT: dict[str, dict[str, Any]] = {
    "untaught_base": {"method": "none"},
    "untaught_ai_sta": {"method": "wasserstein", "alpha": 0.5, "options": {"scale": "cosine"}},
}
# AI-STA spends the first on alignment alone; base has as many in all.
ALIGN_STEPS, UNTAUGHT_STEPS = 150, 100
TEXTS = 1_200  # sentences of text translation, each into both languages
CORPORA = ("st", "dev", "test_common", "test_rare", "select")
SCALES = ("demo", "nano")


class DemoPlan(Plan):
    """The demo in one folder.

    Args:
        folder: Where everything goes.
        scale: ``demo`` (minutes), or ``nano`` (seconds, for tests).
        stage1: The stage-1 model to start from.
        seed: Of training and data order.
    """

    guesses = {"select": 40.0, "align": 60.0, "joint": 120.0, "evaluate": 60.0}

    def __init__(
        self, folder: Path, scale: str = "demo", *, stage1: str = "aista:stage1", seed: int = 1
    ) -> None:
        super().__init__(folder)
        self.scale, self.stage1, self.seed = scale_named(scale, SCALES), stage1, seed

    def prepare(self, clock: Clock) -> None:
        """Make the corpora, and let the encoders listen once: the jobs side by side only read that."""
        synthesise(self.folder, corpus.SCALES[self.scale], CORPORA, clock)
        encode(self.folder, [self.stage1], CORPORA, clock)
        write_texts(self.folder, CORPORA)

    def jobs(self) -> list[Job]:
        systems = {name: self.joint(name) for name in SYSTEMS}
        systems |= {name: self.untaught(name) for name in UNTAUGHT}
        aligned = Job("align untaught", "align", self.align())
        trained = [
            Job(
                f"joint {name}", "joint", each,
                ("select", aligned.name) if each.init == aligned.settings.output else ("select",),
            )
            for name, each in systems.items()
        ]  # fmt: skip
        evaluated = [
            Job(f"evaluate {name}", "evaluate", self.evaluation(name), (f"joint {name}",)) for name in systems
        ]
        return [Job("select", "select", self.select(), all_cores=True), aligned, *trained, *evaluated]

    def select(self) -> SelectSettings:
        """Return layer selection's settings."""
        settings = shipped(SelectSettings, "select", self.folder, self.scale)
        return changed(settings, model=self.stage1, seed=self.seed)

    def joint(self, system: str) -> JointSettings:
        """Return a training's settings; base and AI-STA differ in the method alone."""
        return changed(
            shipped(JointSettings, "joint", self.folder, self.scale),
            init=self.stage1, output=str(self.folder / system), seed=self.seed,
            alignment={"method": SYSTEMS[system]},
        )  # fmt: skip

    def align(self) -> AlignSettings:
        """Return the settings of alignment first, which only the untaught AI-STA has."""
        data = {
            "train": [str(self.folder / "corpus/st_asr.jsonl")],
            "features": str(self.folder / "features"),
        }
        steps = NANO_TRAIN if self.scale == "nano" else {"max_steps": ALIGN_STEPS, "save_steps": ALIGN_STEPS}
        return AlignSettings.of(
            {
                "init": self.stage1, "output": str(self.folder / "aligned"), "data": data, "seed": self.seed,
                "train": {**steps, "eval_steps": None},
            }
        )  # fmt: skip

    def untaught(self, system: str) -> JointSettings:
        """Return a training's settings where speech is transcribed and only text is translated."""
        settings = changed(self.joint("base"), output=str(self.folder / system), alignment=UNTAUGHT[system])
        steps = ALIGN_STEPS + UNTAUGHT_STEPS
        if UNTAUGHT[system]["method"] != "none":
            settings, steps = changed(settings, init=self.align().output), UNTAUGHT_STEPS
        home = self.folder / "corpus"
        data = {"train": [str(home / "st_asr.jsonl"), str(home / "mt.jsonl")], "weights": [1.0, 1.0]}
        train: dict[str, Any] = {"eval_steps": None, "patience": None}
        if self.scale != "nano":
            train |= {"max_steps": steps, "save_steps": steps, "per_device_train_batch_size": 16}
            train["warmup_steps"] = steps // 10
        return changed(settings, data={**data, "validation": []}, train=train)

    def evaluation(self, system: str) -> EvaluateSettings:
        """Return the settings of a system's evaluation; the untaught are asked less, and greedily."""
        settings = shipped(EvaluateSettings, "evaluate", self.folder, self.scale)
        output = self.folder / "evaluate" / system
        settings = changed(settings, model=str(self.folder / system), output=str(output))
        if system in SYSTEMS:
            return settings
        heard = [str(self.folder / "corpus" / f"{name}_asr.jsonl") for name in ("test_common", "test_rare")]
        return changed(
            settings, data=[*settings.data, *heard], measures=["speech"], silence_check=False,
            generation={"num_beams": 1},
        )  # fmt: skip

    def results(self, clock: Clock) -> dict[str, Any]:
        """Write ``results.json`` and ``report.html`` and return what is in the first."""
        report = LayerReport.load(self.folder / "select" / REPORT)
        folders = {name: self.folder / "evaluate" / name for name in (*SYSTEMS, *UNTAUGHT)}
        evaluations = {name: json.loads((at / "results.json").read_text()) for name, at in folders.items()}
        taught, never = (
            {name: asdict(row) for name, row in compare(*(folders[name] for name in pair)).items()}
            for pair in (SYSTEMS, UNTAUGHT)
        )
        trainings = {name: json.loads((self.folder / name / "training.json").read_text()) for name in folders}
        spent = clock.seconds
        seconds = {key: spent.get(key, 0.0) for key in ("synthesis", "features", "select")}
        seconds["align"] = spent.get("align untaught", 0.0)
        seconds |= {f"joint_{name}": run["seconds"] for name, run in trainings.items()}
        seconds["evaluate"] = round(sum(spent.get(f"evaluate {name}", 0.0) for name in trainings), 2)
        seconds["total"] = round(spent.get("wall", 0.0), 1)  # the clock on the wall, over all attempts
        results = {
            "selected_layers": report.selected,
            "mrr_by_layer": report.mrr_by_layer,
            "shuffled_mrr_by_layer": [row.shuffled for row in report.rows],
            "mean_distance_by_layer": [row.mean_distance for row in report.rows],
            "chance_mrr": report.chance_mrr,
            "threshold": report.threshold,
            "num_pairs": report.num_pairs,
            "systems": {
                name: {
                    **evaluations[name]["scores"],
                    "by_set": {key: part["scores"] for key, part in evaluations[name]["by_set"].items()},
                    "steps": trainings[name]["steps"],
                    "best_validation_accuracy": trainings[name]["best_token_accuracy"],
                }
                for name in SYSTEMS
            },
            "significance": taught,
            "untaught": {  # both systems where no translation of speech was ever seen
                "systems": {key: evaluations[f"untaught_{key}"]["scores"] for key in SYSTEMS},
                "significance": never,
                "steps": {key: trainings[f"untaught_{key}"]["steps"] for key in SYSTEMS},
                "align_steps": self.align().train.max_steps,
            },
            "bleu_signature": evaluations["base"]["signatures"],
            "warnings": [warning for name in SYSTEMS for warning in evaluations[name]["warnings"]],
            "seconds": seconds,
            "seed": self.seed,
            "stage1": self.stage1,
            "config_sha256": self.joint("ai_sta").sha256(),
            "versions": versions(),
        }
        write_whole(self.folder / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
        write_report(self.folder)
        return results


def run(plan: DemoPlan) -> dict[str, Any]:
    """Run the whole demo and return what is in ``results.json``.

    Raises:
        TrainingError: A stage failed; the end of its log is shown.
    """
    runner = Runner(plan, workers=len(SYSTEMS))
    if failed := runner.run():
        first = next(job for job in plan.jobs() if job.name == failed[0])
        raise TrainingError(
            f"`aista {first.name}` failed.",
            got=tail(runner.log(first)),
            advice="Run the same command again.",
        )
    return runner.results()


# ---- the data that all small plans share ----


def synthesise(folder: Path, scale: corpus.Scale, corpora: Sequence[str], clock: Clock) -> None:
    """Make corpora under ``folder/corpus``; finished shards are kept."""
    with (
        clock.stage("synthesis", "Speech: espeak-ng says English sentences"),
        bar("utterances") as update,
    ):
        corpus.build(folder / "corpus", scale, corpora=tuple(corpora), progress=update)


def write_texts(folder: Path, corpora: Sequence[str]) -> None:
    """Write ``corpus/mt.jsonl``: sentences that no clip of these corpora says, with their translations."""
    home = folder / "corpus"
    if (home / "mt.jsonl").exists():
        return
    heard = {row.text for name in corpora for row in Manifest(home / f"{name}.jsonl")}
    drawn = (s for s in grammar.sentences(3 * TEXTS, 20, split="train") if s.en not in heard)
    rows = [
        Utterance(id=f"mt-{i:05d}-{code}", task="mt", text=s.en, tgt_lang=code, translation=getattr(s, code))
        for i, s in zip(range(TEXTS), drawn, strict=False)
        for code in corpus.TARGETS
    ]
    write_manifest(home / "mt.jsonl", rows)


def encode(folder: Path, models: Sequence[str], corpora: Sequence[str], clock: Clock) -> None:
    """Fill ``folder/features`` with what the models' encoders make of every clip of some corpora."""
    from aista.model.feature_cache import cached_features
    from aista.model.processing import AistaProcessor
    from aista.model.speech_lm import AistaForConditionalGeneration

    manifests = [str(folder / "corpus" / f"{name}.jsonl") for name in corpora]
    with clock.stage("features", "Encoders: listen once, remember"):
        for name in models:
            model = AistaForConditionalGeneration.from_pretrained(name).eval()
            cached_features(model, AistaProcessor.from_pretrained(name), manifests, str(folder / "features"))


# ---- what a newcomer reads at the end: both systems' scores, and one fresh clip translated ----

_SPEECH = {"bleu_zh": "BLEU, speech to Chinese", "bleu_ja": "BLEU, speech to Japanese"}
_ROWS = {
    **_SPEECH,
    "mt_bleu_zh": "BLEU, text to Chinese (zero-shot)",
    "mt_bleu_ja": "BLEU, text to Japanese (zero-shot)",
    "token_accuracy": "token accuracy, %",
    "log_wasserstein": "log Wasserstein, speech to text",
}
_UNTAUGHT_ROWS = {**_SPEECH, "wer_en": "word error rate, %"}


def summarise(results: dict[str, Any], folder: Path) -> None:
    """Print base against AI-STA, and where the rest can be seen."""
    for found, rows, aligned, heading in (
        (results, _ROWS, "AI-STA", "Held-out combinations, held-out speakers, one seed"),
        (
            results["untaught"],
            _UNTAUGHT_ROWS,
            "AI-STA, cosine",
            "Speech was transcribed alone, only text translated; AI-STA aligned first",
        ),
    ):
        table = Table("", "base", aligned, title=heading)
        for key, title in rows.items():
            scores = (found["systems"][name].get(key) for name in SYSTEMS)
            table.add_row(title, *("-" if score is None else f"{score:.2f}" for score in scores))
        console.print(table)
    console.print(f"aligned layers {results['selected_layers']}, {results['seconds']['total']:.0f} s in all")
    for warning in results["warnings"]:
        console.print(f"[yellow]{escape(warning)}")
    numbers, page = (escape(str(folder / name)) for name in ("results.json", "report.html"))
    console.print(f"numbers: {numbers}\npage:    {page}\n")


def fresh_clip(path: Path, seed: int = 2026) -> str:
    """Say a sentence that no corpus holds in a voice that no training corpus holds; return its text."""
    from aista.audio.files import write_audio

    rng = Random(f"fresh {seed}")
    sentence = grammar.sentences(1, seed, split="test", vocabulary="common")[0]
    samples = speech.utter(sentence.en, speech.draw_voice(rng, speech.TEST_VARIANTS), seed=seed)
    if samples is None:
        return fresh_clip(path, seed + 1)
    write_audio(path, samples)
    return sentence.en


def show_translation(model: str | None, folder: Path) -> None:
    """Translate a fresh clip with a model (None: the shipped one) and print what was said and understood."""
    from aista.inference.translator import load

    path = folder / "fresh.wav"
    said = fresh_clip(path)
    translator = load(model)
    console.rule("[bold]A fresh clip", align="left", style="dim")
    console.print(f"said      {said}   ({escape(str(path))})")
    for code, title in (("en", "English"), ("zh", "Chinese"), ("ja", "Japanese")):
        if not translator.directions or f"en-{code}" in translator.directions:
            console.print(f"{title:<9} {translator.translate(str(path), target=code).text}")
