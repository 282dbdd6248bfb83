"""``aista demo``: the verbs of the library on the shipped configs, one after the other.

synthesise -> select -> joint, base and AI-STA side by side -> evaluate -> results.json and report.html. Every
stage leaves a finished folder behind and is skipped when it is there: after Ctrl-C the same command goes on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aista.config import JointSettings, SelectSettings
from aista.demo import corpus
from aista.demo.report import write_report
from aista.demo.stages import NANO_TRAIN, Clock, bar, console, listen_once, shipped_settings, side_by_side
from aista.evaluation.evaluate import compare, evaluate, versions
from aista.evaluation.settings import EvaluateSettings
from aista.files import write_whole
from aista.selection.report import LayerReport
from aista.selection.select import select

SYSTEMS = {"base": "none", "ai_sta": "wasserstein"}
CORPORA = ("st", "dev", "test_common", "test_rare", "select")


@dataclass(frozen=True)
class Scale:
    """One size of the demo: sizes of its corpora, and settings that differ from the shipped YAML files."""

    corpora: corpus.Scale
    overrides: dict[str, tuple[str, ...]]


SCALES = {
    "demo": Scale(corpus.SCALES["demo"], {}),
    "nano": Scale(
        corpus.SCALES["nano"],
        {
            "select": ("num_pairs=8", "threshold_times_chance=0"),
            "joint": NANO_TRAIN,
            "evaluate": ("limit=4", "generation.max_new_tokens=8"),
        },
    ),
}


class Demo:
    """The demo in one folder.

    Args:
        output: Where everything goes.
        scale: A name of ``SCALES``.
        stage1: The stage-1 model to start from.
        seed: Of training and data order.
    """

    def __init__(
        self, output: Path, scale: str = "demo", *, stage1: str = "aista:stage1", seed: int = 1
    ) -> None:
        self.output, self.scale, self.stage1, self.seed = output, SCALES[scale], stage1, seed
        output.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(output / "seconds.json")

    def run(self) -> dict[str, Any]:
        """Go the whole road and return what is in ``results.json``."""
        with self.clock.stage("synthesis", "Speech: espeak-ng says English sentences"):
            self.synthesise()
        with self.clock.stage("features", "Encoders: listen once, remember"):
            self.encode()
        with self.clock.stage("select", "Layer selection: where does speech find its text?"):
            report = select(self._select_settings())
            console.print(f"selected layers {report.selected} (threshold {report.threshold:.3f})")
        with self.clock.stage(
            "joint", "Joint training: base and AI-STA, the same steps, seed and data order"
        ):
            side_by_side(
                "joint",
                self._saved({name: self._joint_settings(name) for name in SYSTEMS}),
                self.output / "logs",
            )
        with self.clock.stage("evaluate", "Evaluation on held-out combinations and speakers"):
            side_by_side(
                "evaluate",
                self._saved({name: self._evaluate_settings(name) for name in SYSTEMS}),
                self.output / "logs",
            )
        results = self.results(report)
        write_whole(self.output / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
        with self.clock.stage("report", "Report"):
            write_report(self.output)
        return results

    # ---- stages ----

    def synthesise(self) -> None:
        """Make the corpora; finished shards are kept."""
        with bar("utterances") as update:
            corpus.build(self.output / "corpus", self.scale.corpora, corpora=CORPORA, progress=update)

    def encode(self) -> None:
        """Fill the feature store, so that the runs that follow side by side only read it."""
        manifests = [self.output / "corpus" / f"{name}.jsonl" for name in CORPORA]
        listen_once(self.stage1, manifests, self.output / "features")

    def _select_settings(self) -> SelectSettings:
        return self._settings(SelectSettings, "select", f"model={self.stage1}")

    def _joint_settings(self, system: str) -> JointSettings:
        """Base and AI-STA differ in the method alone."""
        return self._settings(
            JointSettings, "joint", f"init={self.stage1}", f"output={self.output / system}",
            f"alignment.method={SYSTEMS[system]}",
        )  # fmt: skip

    def _evaluate_settings(self, system: str) -> EvaluateSettings:
        return shipped_settings(
            EvaluateSettings, "evaluate", self.output, *self.scale.overrides.get("evaluate", ()),
            f"model={self.output / system}", f"output={self.output / 'evaluate' / system}",
        )  # fmt: skip

    def _settings(self, kind: Any, stage: str, *overrides: str) -> Any:
        changes = (*self.scale.overrides.get(stage, ()), f"seed={self.seed}", *overrides)
        return shipped_settings(kind, stage, self.output, *changes)

    def _saved(self, settings: dict[str, Any]) -> dict[str, Path]:
        """Write settings where a verb can read them."""
        paths = {}
        for name, values in settings.items():
            paths[name] = self.output / "configs" / f"{type(values).__name__}_{name}.yaml"
            values.save(paths[name])
        return paths

    # ---- results ----

    def results(self, report: LayerReport) -> dict[str, Any]:
        """Gather what the stages left behind; evaluations that are there are read, not repeated."""
        evaluations = {name: evaluate(self._evaluate_settings(name)) for name in SYSTEMS}
        folders = [self.output / "evaluate" / name for name in SYSTEMS]
        runs = {name: json.loads((self.output / name / "training.json").read_text()) for name in SYSTEMS}
        seconds = {
            key: self.clock.seconds.get(key, 0.0) for key in ("synthesis", "features", "select", "evaluate")
        }
        seconds |= {f"joint_{name}": run["seconds"] for name, run in runs.items()}
        seconds["total"] = round(sum(self.clock.seconds.values()), 1)
        return {
            "selected_layers": report.selected,
            "mrr_by_layer": report.mrr_by_layer,
            "shuffled_mrr_by_layer": [row.shuffled_mrr for row in report.rows],
            "mean_distance_by_layer": [row.mean_distance for row in report.rows],
            "chance_mrr": report.chance_mrr,
            "threshold": report.threshold,
            "num_pairs": report.num_pairs,
            "systems": {name: self._system(evaluations[name], runs[name]) for name in SYSTEMS},
            "significance": {name: asdict(row) for name, row in compare(*folders).items()},
            "bleu_signature": evaluations["base"]["signatures"],
            "warnings": [warning for name in SYSTEMS for warning in evaluations[name]["warnings"]],
            "seconds": seconds,
            "seed": self.seed,
            "stage1": self.stage1,
            "config_sha256": self._joint_settings("ai_sta").sha256(),
            "versions": versions(),
        }

    @staticmethod
    def _system(evaluation: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
        """One system's scores over both test sets, and on each of them."""
        return {
            **evaluation["scores"],
            "by_set": {name: part["scores"] for name, part in evaluation["by_set"].items()},
            "steps": run["steps"],
            "best_validation_accuracy": run["best_token_accuracy"],
        }
