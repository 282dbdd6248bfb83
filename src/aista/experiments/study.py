"""``aista study``: when does alignment help? One change of the joint run at a time, judged on the dev set.

Each variant is compared with a base that lacks it, with the same seed, start and order of data.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from aista.analysis.comparison import Gain, gain
from aista.config import JointSettings, PretrainSettings, Settings
from aista.demo import corpus
from aista.errors import ConfigError
from aista.evaluation.evaluate import EvaluateSettings
from aista.experiments.demo import encode, synthesise
from aista.experiments.plan import NANO_TRAIN, Job, Plan, changed, scale_named, shipped
from aista.experiments.results import Cell, Figure, Row, Table, save
from aista.experiments.runner import Clock, recorded
from aista.files import write_whole
from aista.model.bases import locate

CORPORA = ("asr", "st", "dev")
SCALES = {
    "small": corpus.Scale(asr=3_000, st=250, dev=150),
    "nano": corpus.Scale(asr=32, st=16, dev=8),
}
MEASURES = {"bleu": "BLEU", "token_accuracy": "token accuracy", "mt_bleu": "text BLEU"}
_DIGITS = {"bleu": 1, "token_accuracy": 2, "mt_bleu": 1}
_MODEL = "aista:stage1"
_START = "The start is the shipped stage 1 (4,500 steps on 9,000 sentences and sounds) unless said otherwise."
_INTERVAL = (
    "Δ: less the base of the group, of the same seed, start and order of data; mean over the seeds ± half of "
    "Student's 95 % interval. * the interval leaves 0 out. There is no correction for the number of "
    "comparisons: of twenty true zeros one is starred by chance."
)
_MEASURED = (
    "BLEU: dev set, 150 sentences with unseen word pairs, unseen voices, mostly with words that translation "
    "training lacks; mean of Chinese (zh) and Japanese (ja-mecab), greedy. Text BLEU: the transcript stands "
    "where the speech stood (zero-shot). Token accuracy: teacher-forced, dev set; each run keeps its best "
    "validation. Nothing here was measured on test data."
)

# ---- what is tried ----


@dataclass(frozen=True)
class Alignment:
    """How a run is aligned, on any number of layers.

    Attributes:
        layers: Their numbers; ``all``; ``above_0``: all but the embedding layer; None: no alignment.
        scale: Of the cost.
        alpha: Weight of the cross-entropy.
    """

    layers: tuple[int, ...] | Literal["all", "above_0"] | None = None
    scale: str = "cosine"
    alpha: float = 0.9

    def values(self, num_layers: int, method: str | None = None) -> dict[str, Any]:
        """Return it as alignment settings for a backbone of so many blocks."""
        if self.layers is None:
            return {"method": "none"}
        named = {"all": range(num_layers + 1), "above_0": range(1, num_layers + 1)}
        layers = named[self.layers] if isinstance(self.layers, str) else self.layers
        values = {"layers": list(layers), "options": {"scale": self.scale}, "alpha": self.alpha}
        return values | ({"method": method} if method else {})


@dataclass(frozen=True)
class Regime:
    """Data and length of a joint run.

    Attributes:
        title: What a reader sees.
        description: The same in a sentence.
        train: Corpora that are trained on.
        steps, every: Optimiser steps at most, and between two validations.
        weights: Share of each corpus; None: every row once.
    """

    title: str
    description: str
    train: tuple[str, ...]
    steps: int
    every: int
    weights: tuple[float, ...] | None = None


REGIMES: Mapping[str, Regime] = {
    "little": Regime(
        "little data", "250 utterances into two languages, 160 steps of 32.", ("st",), 160, 40,
    ),
    "mixed": Regime(
        "little data, mixed with recognition",
        "two thirds of the rows are those 250 utterances, a third is recognition of other speech; 240 steps.",
        ("st", "asr"), 240, 60, (0.67, 0.33),
    ),
    "to_stop": Regime(
        "little data, the paper's stopping rule",
        "until four validations, 40 steps apart, bring nothing better; 800 steps at most.",
        ("st",), 800, 40,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Stage1:
    """A stage 1 of the study's own, one with every seed.

    Attributes:
        title: What a reader sees.
        description: The same in a sentence.
        verb: ``pretrain``: from new adapters; ``joint``: from the shipped stage 1.
        steps: Optimiser steps.
        alignment: How it is aligned.
    """

    title: str
    description: str
    verb: str
    steps: int
    alignment: Alignment = Alignment()


NONE = Alignment()
COSINE = Alignment("all")
SPREAD = Alignment("all", "text_spread", 0.99)
LITERAL = Alignment("all", "raw", 0.99)
_WEAK = ("a weak stage 1", "700 steps of recognition on 3,000 sentences, from new adapters.", "pretrain", 700)
_LONG = (
    "a longer stage 1",
    "the shipped one, 1,000 steps further on 3,000 sentences in other voices, nearly all of them its own.",
    "joint",
    1_000,
)
STAGES: Mapping[str, Stage1] = {
    "weak": Stage1(*_WEAK),
    "weak_aligned": Stage1(*_WEAK, COSINE),
    "long": Stage1(*_LONG),
    "long_aligned": Stage1(*_LONG, COSINE),
}


@dataclass(frozen=True)
class Variant:
    """One change of the joint run.

    Attributes:
        name: Key and folder name.
        title: What a reader sees.
        alignment: What it changes.
        against: Name of the variant it is compared with; its own name: others are compared with it.
        regime: A key of ``REGIMES``: data and length of the joint run.
        stage1: A key of ``STAGES``: the model that the joint run starts from; empty: the shipped one.
    """

    name: str
    title: str
    alignment: Alignment = NONE
    against: str = "base"
    regime: str = "little"
    stage1: str = ""

    @property
    def is_base(self) -> bool:
        """Whether others are compared with it."""
        return self.against == self.name

    @property
    def group(self) -> str:
        """Data, length and start it shares with what it is compared with."""
        stage = STAGES.get(self.stage1)
        return REGIMES[self.regime].title + (f", {stage.title}" if stage else "")


def _from_stages(name: str) -> tuple[Variant, ...]:
    """Return the four ways to align or not in stage 1 and in the joint run."""
    base, aligned = f"{name}_base", f"{name}_aligned"
    in_joint = Variant(f"{name}_cosine", "aligned in the joint run (cosine, α .9)", COSINE, base, stage1=name)
    return (
        Variant(base, "base: no alignment", NONE, base, stage1=name),
        in_joint,
        Variant(f"{aligned}_stage1", "aligned in stage 1 (cosine, α .9)", NONE, base, stage1=aligned),
        Variant(f"{aligned}_both", "aligned in both", COSINE, base, stage1=aligned),
    )


_OF_THE_DEMO = "cost / text spread, all layers, α .99 (the demo's)"
_OF_THE_PAPER = "the paper's letter: raw cost, all layers, α .99"
# In the order of running: a group that is finished has all its seeds before the next one begins.
GROUPS: tuple[tuple[Variant, ...], ...] = (
    (
        Variant("base", "base: no alignment"),
        Variant("cosine", "cosine cost, all layers, α .9", COSINE),
        Variant(
            "spread_above", "cost / text spread, layers 1 and up, α .9", Alignment("above_0", "text_spread")
        ),
        Variant("spread", _OF_THE_DEMO, SPREAD),
        Variant("literal", _OF_THE_PAPER, LITERAL),
        Variant("cosine_0", "cosine cost, layer 0, α .9", Alignment((0,))),
    ),
    (
        Variant("mixed_base", "base: no alignment", NONE, "mixed_base", "mixed"),
        Variant("mixed_cosine", "cosine cost, all layers, α .9", COSINE, "mixed_base", "mixed"),
    ),
    _from_stages("long"),
    (
        Variant("stop_base", "base: no alignment", NONE, "stop_base", "to_stop"),
        Variant("stop_spread", _OF_THE_DEMO, SPREAD, "stop_base", "to_stop"),
        Variant("stop_literal", _OF_THE_PAPER, LITERAL, "stop_base", "to_stop"),
    ),
    _from_stages("weak"),
)


def chosen(names: Sequence[str]) -> list[list[Variant]]:
    """Return the variants of these names with what they are compared with, by group; all for no name.

    Raises:
        ConfigError: There is no such variant.
    """
    known = {variant.name: variant for group in GROUPS for variant in group}
    if unknown := set(names) - known.keys():
        raise ConfigError(f"There is no variant {', '.join(sorted(unknown))}.", expected=", ".join(known))
    wanted = {*names, *(known[name].against for name in names)} if names else set(known)
    groups = [[variant for variant in group if variant.name in wanted] for group in GROUPS]
    return [group for group in groups if group]


# ---- the plan ----


class StudyPlan(Plan):
    """Variants times seeds in one folder.

    Args:
        folder: Where everything goes; the same plan goes on there.
        names: Variants; all where empty.
        seeds: Seeds 1 to this many.
        scale: ``small``, or ``nano`` for tests.
    """

    guesses = {"pretrain": 400.0, "joint": 120.0, "evaluate": 30.0}

    def __init__(
        self, folder: Path, names: Sequence[str] = (), *, seeds: int = 3, scale: str = "small"
    ) -> None:
        super().__init__(folder)
        self.groups, self.seeds = chosen(names), range(1, seeds + 1)
        self.scale = scale_named(scale, tuple(SCALES))
        config = json.loads((locate(_MODEL) / "config.json").read_text())
        self._num_layers = config["text_config"]["num_hidden_layers"]

    def prepare(self, clock: Clock) -> None:
        """Make the corpora and let the encoders listen once."""
        synthesise(self.folder, SCALES[self.scale], CORPORA, clock)
        encode(self.folder, [_MODEL], CORPORA, clock)

    def jobs(self) -> list[Job]:
        found: dict[str, Job] = {}
        for group in self.groups:
            for seed in self.seeds:
                for variant in group:
                    found |= {job.name: job for job in self._jobs_of(variant, seed)}
        return list(found.values())

    def results(self, clock: Clock) -> Table:
        """Write table, figure and ``study.json`` from what is there; returns the table."""
        found = self.findings()
        seeds = sorted({seed for row in found for seed in row.seeds})
        shown, picture = table(found), figure(found)
        save(shown, self.folder)
        if picture is not None:
            save(picture, self.folder)
        values = recorded(self.folder) | {
            "seeds": seeds, "seconds": clock.seconds,
            "word_error_rate_of_stage1": self._word_error_rates(),
            "ideas": [
                {
                    "name": row.variant.name, "title": row.variant.title, "group": row.variant.group,
                    "against": row.variant.against, "alignment": vars(row.variant.alignment),
                    "seeds": list(row.seeds), "steps": row.steps,
                    "scores": {name: list(values) for name, values in row.scores.items()},
                    "gains": {name: vars(value) for name, value in row.gains.items()},
                }
                for row in found
            ],
        }  # fmt: skip
        write_whole(self.folder / "study.json", json.dumps(values, ensure_ascii=False, indent=1))
        return shown

    def findings(self) -> list[Finding]:
        """Return what came out for every variant, asked for or not, with a run beside its base's."""
        variants = [variant for group in GROUPS for variant in group]
        scores = {variant.name: self._scores(variant) for variant in variants}
        found = (finding(one, scores[one.name], scores[one.against]) for one in variants)
        return [row for row in found if row is not None]

    # ---- what runs ----

    def _jobs_of(self, variant: Variant, seed: int) -> list[Job]:
        """Return stage 1 where the variant has its own, the joint run, and its evaluation."""
        found: list[Job] = []
        start, needs = _MODEL, tuple[str, ...]()
        if variant.stage1:
            stage1 = self._stage1(variant.stage1, seed)
            start, needs = str(stage1.output), (stage1.name,)
            rates = self._evaluate(stage1.output, "dev_asr", ["speech"])
            found += [stage1, Job(f"evaluate {stage1.name}", "evaluate", rates, needs)]
        regime, run = REGIMES[variant.regime], self._place("runs", variant.name, seed)
        data: dict[str, Any] = {"train": [self._manifest(name) for name in regime.train]}
        if regime.weights:
            data["weights"] = list(regime.weights)
        settings = self._trained(
            shipped(JointSettings, "joint", self.folder), run, seed, regime.steps, regime.every,
            init=start, data=data, alignment=variant.alignment.values(self._num_layers),
        )  # fmt: skip
        name = f"{variant.name}/seed_{seed}"
        found.append(Job(f"joint {name}", "joint", settings, needs))
        evaluation = self._evaluate(run, "dev", ["speech", "text_translation"])
        found.append(Job(f"evaluate {name}", "evaluate", evaluation, (f"joint {name}",)))
        return found

    def _stage1(self, name: str, seed: int) -> Job:
        """Return a stage 1 on the bases of the shipped one, or from that one on."""
        stage, output = STAGES[name], self._place("stage1", name, seed)
        changes: dict[str, Any] = {
            "data": {"train": [self._manifest("asr")], "validation": [self._manifest("dev_asr")]}
        }
        start: Settings
        if stage.verb == "pretrain":
            start = shipped(PretrainSettings, "pretrain", self.folder)
            changes["alignment"] = stage.alignment.values(self._num_layers, "wasserstein")
        else:
            start = shipped(JointSettings, "joint", self.folder)
            changes |= {"init": _MODEL, "alignment": stage.alignment.values(self._num_layers)}
        settings = self._trained(start, output, seed, stage.steps, stage.steps // 2, **changes)
        settings = changed(settings, train={"warmup_steps": 1 if self.scale == "nano" else 100})
        return Job(f"{stage.verb} {name}/seed_{seed}", stage.verb, settings)

    def _trained(
        self, start: Settings, output: Path, seed: int, steps: int, every: int, **changes: Any
    ) -> Settings:
        """Return training settings with a length, validated and saved every so many steps."""
        length = {"max_steps": steps, "eval_steps": every, "save_steps": every}
        settings = changed(start, output=str(output), seed=seed, train=length, **changes)
        return changed(settings, train=NANO_TRAIN) if self.scale == "nano" else settings

    def _evaluate(self, model: Path, data: str, measures: list[str]) -> EvaluateSettings:
        settings = shipped(EvaluateSettings, "evaluate", self.folder, self.scale)
        return changed(
            settings, model=str(model), output=str(model / "evaluate"), data=[self._manifest(data)],
            measures=measures, silence_check=False, layers=[0], generation={"num_beams": 1},
        )  # fmt: skip

    def _manifest(self, name: str) -> str:
        return str(self.folder / "corpus" / f"{name}.jsonl")

    def _place(self, kind: str, name: str, seed: int) -> Path:
        """Return the folder of a run (``runs``) or of a stage 1 (``stage1``)."""
        return self.folder / kind / name / f"seed_{seed}"

    # ---- what came out ----

    def _word_error_rates(self) -> dict[str, dict[int, float]]:
        """Return by stage 1 and seed the word error rate on the dev set, where it was measured."""
        rates: dict[str, dict[int, float]] = {}
        for name in STAGES:
            for seed, run in self._there("stage1", name).items():
                scores = json.loads((run / "evaluate" / "results.json").read_text())["scores"]
                rates.setdefault(name, {})[seed] = scores["wer_en"]
        return rates

    def _scores(self, variant: Variant) -> dict[int, dict[str, float]]:
        """Return by seed the scores of the runs that are finished."""
        found = {}
        for seed, run in self._there("runs", variant.name).items():
            scores = json.loads((run / "evaluate" / "results.json").read_text())["scores"]
            training = json.loads((run / "training.json").read_text())
            found[seed] = {
                **{name: (scores[f"{name}_zh"] + scores[f"{name}_ja"]) / 2 for name in ("bleu", "mt_bleu")},
                "token_accuracy": 100 * training["best_token_accuracy"],
                "steps": float(training["steps"]),
            }
        return found

    def _there(self, kind: str, name: str) -> dict[int, Path]:
        """Return by seed the runs (``runs``) or stages 1 (``stage1``) that are evaluated."""
        paths = (self.folder / kind / name).glob("seed_*/evaluate/results.json")
        runs = {path.parts[-3].removeprefix("seed_"): path.parents[1] for path in paths}
        return dict(sorted((int(seed), run) for seed, run in runs.items() if seed.isdecimal()))


# ---- table and figure ----

Scores = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Finding:
    """One variant over its seeds.

    Attributes:
        variant: What was tried.
        seeds: Those of which it and what it is compared with are there.
        scores: Measure -> one value per seed.
        gains: Measure -> difference to what it is compared with; empty for that itself.
        steps: Mean number of optimiser steps.
    """

    variant: Variant
    seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    gains: Mapping[str, Gain]
    steps: float


def finding(variant: Variant, scores: Scores, base: Scores) -> Finding | None:
    """Return what came out for a variant, or None where it has no seed in common with its base.

    Args:
        variant: What was tried.
        scores: Seed -> measure -> value.
        base: The same of what it is compared with.
    """
    seeds = tuple(sorted(scores.keys() & base.keys()))
    if not seeds:
        return None
    own = {name: tuple(scores[seed][name] for seed in seeds) for name in MEASURES}
    theirs = {name: tuple(base[seed][name] for seed in seeds) for name in MEASURES}
    gains = {} if variant.is_base else {name: gain(theirs[name], own[name]) for name in MEASURES}
    return Finding(variant, seeds, own, gains, statistics.fmean(scores[seed]["steps"] for seed in seeds))


def table(findings: Sequence[Finding]) -> Table:
    """Return every variant with its scores and differences."""
    rows = []
    for group, found in groupby(findings, key=lambda row: row.variant.group):
        rows.append(Row(label=group, is_heading=True))
        rows += [Row(label=row.variant.title, cells=_cells(row), key=row.variant.name) for row in found]
    columns = [name for title in MEASURES.values() for name in (title, f"Δ {title}")]
    shown: list[Regime | Stage1] = [REGIMES[row.variant.regime] for row in findings]
    shown += [STAGES[row.variant.stage1] for row in findings if row.variant.stage1]
    meanings = dict.fromkeys(f"{one.title.capitalize()}: {one.description}" for one in shown)
    return Table(
        name="study",
        title="What changes the sign? Changes of the joint run, dev set",
        columns=[*columns, "steps", "seeds"],
        rows=rows,
        caption="One change at a time on the Qwen2 stand-in, mean ± deviation over seeds.",
        notes=[_START, *meanings, _MEASURED, _INTERVAL],
    )


def _cells(row: Finding) -> list[Cell]:
    cells = []
    for name, digits in _DIGITS.items():
        cells += [Cell.over(row.scores[name], digits=digits), Cell()]
        if found := row.gains.get(name):
            half = None if found.high is None else found.high - found.mean
            cells[-1] = Cell(
                value=found.mean, deviation=half, values=list(found.values), digits=digits,
                p_value=found.p_value,
            )  # fmt: skip
    return [*cells, Cell(value=row.steps, digits=0), Cell(value=len(row.seeds), digits=0)]


def figure(findings: Sequence[Finding]) -> Figure | None:
    """Return the differences as a picture, or None where there is none yet."""
    rows = [
        {
            "group": row.variant.group, "name": row.variant.name, "title": row.variant.title,
            "measure": MEASURES[name], "mean": found.mean, "low": found.low, "high": found.high,
            "values": " ".join(f"{value:.3f}" for value in found.values),
        }
        for row in findings
        for name in ("bleu", "mt_bleu")
        if (found := row.gains.get(name)) is not None
    ]  # fmt: skip
    if not rows:
        return None
    return Figure.drawn(
        name="study_figure",
        title="Differences to the base of the group, dev set",
        caption="Small dots: seeds. Bar: 95 % interval of their mean. A number: further off than the axis.",
        notes=[_MEASURED, _INTERVAL],
        data={"rows": rows},
    )
