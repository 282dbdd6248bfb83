"""A study: every idea trained with every seed and judged on the dev set, resumable run by run."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from aista.config import JointSettings, PretrainSettings, Settings
from aista.demo import corpus
from aista.demo.stages import NANO_TRAIN, Clock, bar, listen_once, shipped_settings
from aista.evaluation.evaluate import versions
from aista.evaluation.settings import EvaluateSettings
from aista.files import write_whole
from aista.model.bases import locate
from aista.reproduce.exhibit import Table, save
from aista.reproduce.machine import machine
from aista.reproduce.work import Work, alone, commands, do
from aista.study.findings import Finding, figure, finding, table
from aista.study.ideas import REGIMES, SHIPPED, STAGES, Idea, chosen

S = TypeVar("S", bound=Settings)
SCALES = {
    "small": corpus.Scale(asr=3_000, st=250, dev=150),
    "nano": corpus.Scale(asr=32, st=16, dev=8),
}
CORPORA = ("asr", "st", "dev")
SUMMARY = "study.json"
_MODEL = "aista:stage1"
_GUESSES = {"pretrain": 400.0, "joint": 120.0, "evaluate": 30.0}
_NANO_EVALUATE = ("limit=4", "generation.max_new_tokens=8")


class Study:
    """Ideas times seeds in one folder.

    Args:
        folder: Where everything goes; the same call goes on there.
        names: Ideas; all where empty.
        seeds: Seeds 1 to this many.
        scale: ``small``, or ``nano`` for tests.
        workers: Runs at once; 0: one after the other in this process.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str] = (),
        *,
        seeds: int = 3,
        scale: str = "small",
        workers: int = 1,
    ) -> None:
        self.folder, self.seeds, self.scale, self.workers = folder, range(1, seeds + 1), scale, workers
        self.groups = chosen(list(names))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(folder / "seconds.json")
        config = json.loads((locate(_MODEL) / "config.json").read_text())
        self._num_layers = config["text_config"]["num_hidden_layers"]

    def run(self) -> list[str]:
        """Do what is not finished and return the names of what failed.

        Raises:
            KeyboardInterrupt: A signal came; what was running has been saved.
            ConfigError: Another study is at work in this folder.
        """
        with alone(self.folder) as lock:
            self._prepare()
            return do(self.work(), self.folder, self.clock, workers=self.workers, guesses=_GUESSES, lock=lock)

    def work(self) -> list[Work]:
        """Return everything there is to do: group by group, in a group seed by seed."""
        found: dict[str, Work] = {}
        for group in self.groups:
            for seed in self.seeds:
                for idea in group:
                    found |= {work.name: work for work in self._work_of(idea, seed)}
        return list(found.values())

    def commands(self) -> list[str]:
        """Return what would be run, as a shell understands it."""
        return commands(self.work(), self.folder)

    def findings(self) -> list[Finding]:
        """Return what came out for every idea of which there is a run beside what it is compared with."""
        scores = {idea.name: self._scores(idea) for group in self.groups for idea in group}
        rows = (finding(idea, scores[idea.name], scores[idea.against]) for g in self.groups for idea in g)
        return [row for row in rows if row is not None]

    def exhibit(self) -> Table:
        """Write table, figure and ``study.json`` from what is there; returns the table."""
        found = self.findings()
        shown, picture = table(found), figure(found)
        save(shown, self.folder)
        if picture is not None:
            save(picture, self.folder)
        values = {
            "command": shlex.join(["aista", *sys.argv[1:]]), "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seeds": list(self.seeds), "machine": machine() | {"workers": self.workers},
            "versions": versions(), "seconds": self.clock.seconds,
            "word_error_rate_of_stage1": self._word_error_rates(),
            "ideas": [row.as_dict() for row in found],
        }  # fmt: skip
        write_whole(self.folder / SUMMARY, json.dumps(values, ensure_ascii=False, indent=1))
        return shown

    # ---- what runs ----

    def _prepare(self) -> None:
        """Make the corpora and let the encoders listen once."""
        place = self.folder / "corpus"
        with (
            self.clock.stage("synthesis", "Speech: espeak-ng says English sentences"),
            bar("utterances") as update,
        ):
            corpus.build(place, SCALES[self.scale], corpora=CORPORA, progress=update)
        with self.clock.stage("features", "Encoders: listen once, remember"):
            manifests = [place / f"{name}.jsonl" for name in CORPORA]
            listen_once(_MODEL, manifests, self.folder / "features")

    def _work_of(self, idea: Idea, seed: int) -> Iterator[Work]:
        """Yield stage 1 where the idea has its own, the joint run, and its evaluation."""
        start = _MODEL
        needs: tuple[str, ...] = ()
        if idea.stage1 != SHIPPED:
            stage1 = self._stage1(idea.stage1, seed)
            yield stage1
            start, needs = str(stage1.output), (stage1.name,)
            hears = self._evaluate(stage1.output, "dev_asr", "speech")
            yield Work(f"evaluate {stage1.name}", "evaluate", hears, needs)
        run = self._run(idea, seed)
        changes = (*REGIMES[idea.regime].overrides, *idea.overrides)
        joint = self._settings(JointSettings, "joint", run, seed, *changes, f"init={start}")
        yield Work(f"joint {idea.name}/seed_{seed}", "joint", joint, needs)
        yield Work(
            f"evaluate {idea.name}/seed_{seed}",
            "evaluate",
            self._evaluate(run),
            (f"joint {idea.name}/seed_{seed}",),
        )

    def _run(self, idea: Idea, seed: int) -> Path:
        return self.folder / "runs" / idea.name / f"seed_{seed}"

    def _stage1(self, name: str, seed: int) -> Work:
        """Return a stage 1 on the bases of the shipped one, or from that one on."""
        stage, output = STAGES[name], self._stage1_folder(name, seed)
        if stage.verb == "pretrain":
            settings: Settings = self._settings(PretrainSettings, "pretrain", output, seed, *stage.overrides)
        else:
            settings = self._settings(
                JointSettings, "joint", output, seed, f"init={_MODEL}", *stage.overrides
            )
        return Work(f"{stage.verb} {name}/seed_{seed}", stage.verb, settings)

    def _stage1_folder(self, name: str, seed: int) -> Path:
        return self.folder / "stage1" / name / f"seed_{seed}"

    def _settings(self, kind: type[S], stage: str, output: Path, seed: int, *changes: str) -> S:
        nano = NANO_TRAIN if self.scale == "nano" else ()
        names = {
            "{corpus}": str(self.folder / "corpus"),
            "{all}": str(list(range(self._num_layers + 1))),
            "{above}": str(list(range(1, self._num_layers + 1))),
        }
        overrides = [*changes, *nano, f"output={output}", f"seed={seed}"]
        for name, value in names.items():
            overrides = [text.replace(name, value) for text in overrides]
        return shipped_settings(kind, stage, self.folder, *overrides)

    def _evaluate(
        self, run: Path, data: str = "dev", measures: str = "speech, text_translation"
    ) -> EvaluateSettings:
        nano = _NANO_EVALUATE if self.scale == "nano" else ()
        return shipped_settings(
            EvaluateSettings, "evaluate", self.folder, f"model={run}", f"output={run / 'evaluate'}",
            f"data=[{self.folder / 'corpus' / data}.jsonl]", f"measures=[{measures}]",
            "silence_check=false", "layers=[0]", "generation.num_beams=1", *nano,
        )  # fmt: skip

    # ---- what came out ----

    def _word_error_rates(self) -> dict[str, dict[int, float]]:
        """Return by stage 1 and seed the word error rate on the dev set, where it was measured."""
        rates: dict[str, dict[int, float]] = {}
        for name in STAGES:
            for seed in self.seeds:
                path = self._stage1_folder(name, seed) / "evaluate" / "results.json"
                if path.exists():
                    rates.setdefault(name, {})[seed] = json.loads(path.read_text())["scores"]["wer_en"]
        return rates

    def _scores(self, idea: Idea) -> dict[int, dict[str, float]]:
        """Return by seed the scores of the runs that are finished."""
        found = {}
        for seed in self.seeds:
            run = self._run(idea, seed)
            if (run / "evaluate" / "results.json").exists():
                scores = json.loads((run / "evaluate" / "results.json").read_text())["scores"]
                told = json.loads((run / "training.json").read_text())
                found[seed] = {
                    "bleu": (scores["bleu_zh"] + scores["bleu_ja"]) / 2,
                    "mt_bleu": (scores["mt_bleu_zh"] + scores["mt_bleu_ja"]) / 2,
                    "token_accuracy": 100 * told["best_token_accuracy"],
                    "steps": float(told["steps"]),
                }
        return found
