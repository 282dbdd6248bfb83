"""What a study says: differences seed by seed with their intervals, as a table and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aista.analysis.zero_shot_mt import Gain, gain
from aista.evaluation.drawing import standalone
from aista.reproduce.exhibit import Cell, Figure, Row, Table
from aista.study.drawing import forest
from aista.study.ideas import REGIMES, STAGES, Idea

Scores = Mapping[int, Mapping[str, float]]
MEASURES = {"bleu": "BLEU", "token_accuracy": "token accuracy", "mt_bleu": "text BLEU"}
_DRAWN = ("bleu", "mt_bleu")
_DIGITS = {"bleu": 1, "token_accuracy": 2, "mt_bleu": 1}
_START = "The start is the shipped stage 1 (4,500 steps on 9,000 sentences and sounds) unless said otherwise."
INTERVAL = (
    "Δ: less the base of the group, of the same seed, start and order of data; mean over the seeds ± half of "
    "Student's 95 % interval. * the interval leaves 0 out. There is no correction for the number of "
    "comparisons: of twenty true zeros one is starred by chance."
)
MEASURED = (
    "BLEU: dev set, 150 sentences with unseen word pairs, unseen voices, mostly with words that translation "
    "training lacks; mean of Chinese (zh) and Japanese (ja-mecab), greedy. Text BLEU: the transcript stands "
    "where the speech stood (zero-shot). Token accuracy: teacher-forced, dev set; each run keeps its best "
    "validation. Nothing here was measured on test data."
)


@dataclass(frozen=True)
class Finding:
    """One idea over its seeds.

    Attributes:
        idea: What was tried.
        seeds: Those of which it and what it is compared with are there.
        scores: Measure -> one value per seed.
        gains: Measure -> difference to what it is compared with; empty for that itself.
        steps: Mean number of optimiser steps.
    """

    idea: Idea
    seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    gains: Mapping[str, Gain]
    steps: float

    @property
    def group(self) -> str:
        """Data, length and start it shares with what it is compared with."""
        stage = STAGES.get(self.idea.stage1)
        return REGIMES[self.idea.regime].title + (f", {stage.title}" if stage else "")

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "name": self.idea.name, "title": self.idea.title, "group": self.group,
            "against": self.idea.against, "overrides": list(self.idea.overrides),
            "seeds": list(self.seeds), "steps": self.steps,
            "scores": {name: list(values) for name, values in self.scores.items()},
            "gains": {name: vars(value) for name, value in self.gains.items()},
        }  # fmt: skip


def finding(idea: Idea, scores: Scores, base: Scores) -> Finding | None:
    """Return what came out for an idea, or None where it has no seed in common with its base.

    Args:
        scores: Seed -> measure -> value.
        base: The same of what it is compared with.
    """
    seeds = tuple(sorted(scores.keys() & base.keys()))
    if not seeds:
        return None
    own = {name: tuple(scores[seed][name] for seed in seeds) for name in MEASURES}
    theirs = {name: tuple(base[seed][name] for seed in seeds) for name in MEASURES}
    gains = {} if idea.is_base else {name: gain(theirs[name], own[name]) for name in MEASURES}
    return Finding(idea, seeds, own, gains, statistics.fmean(scores[seed]["steps"] for seed in seeds))


def table(findings: Sequence[Finding]) -> Table:
    """Return every idea with its scores and differences."""
    rows = []
    for group, found in groupby(findings, key=lambda row: row.group):
        rows.append(Row(label=group, is_heading=True))
        rows += [Row(label=row.idea.title, cells=_cells(row), key=row.idea.name) for row in found]
    columns = [name for title in MEASURES.values() for name in (title, f"Δ {title}")]
    return Table(
        name="study",
        title="What changes the sign? Changes of the joint run, dev set",
        columns=[*columns, "steps", "seeds"],
        rows=rows,
        caption="One change at a time on the Qwen2 stand-in, mean ± deviation over seeds.",
        notes=[*_groups(findings), MEASURED, INTERVAL],
    )


def _groups(findings: Sequence[Finding]) -> list[str]:
    """Say what the names of the groups mean."""
    regimes = [REGIMES[row.idea.regime] for row in findings]
    stages = [STAGES[row.idea.stage1] for row in findings if row.idea.stage1 in STAGES]
    told = {row.title: row.told for row in regimes} | {row.title: row.told for row in stages}
    return [_START, *(f"{title.capitalize()}: {words}" for title, words in told.items())]


def _cells(row: Finding) -> list[Cell]:
    cells = []
    for name in MEASURES:
        values, digits = row.scores[name], _DIGITS[name]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        cells.append(
            Cell(value=statistics.fmean(values), deviation=deviation, values=list(values), digits=digits)
        )
        cells.append(_difference(row.gains[name], digits) if row.gains else Cell())
    cells.append(Cell(value=row.steps, digits=0))
    return [*cells, Cell(value=len(row.seeds), digits=0)]


def _difference(found: Gain, digits: int) -> Cell:
    half = None if found.high is None else found.high - found.mean
    return Cell(
        value=found.mean,
        deviation=half,
        values=list(found.values),
        digits=digits,
        p_value=found.p_value,
    )


def figure(findings: Sequence[Finding]) -> Figure | None:
    """Return the differences as a picture, or None where there is none yet."""
    rows = [
        {
            "group": row.group, "name": row.idea.name, "title": row.idea.title, "measure": MEASURES[name],
            "mean": found.mean, "low": found.low, "high": found.high,
            "values": " ".join(f"{value:.3f}" for value in found.values),
        }
        for row in findings
        for name in _DRAWN
        if (found := row.gains.get(name)) is not None
    ]  # fmt: skip
    if not rows:
        return None
    return Figure(
        name="study_figure",
        title="Differences to the base of the group, dev set",
        caption="Small dots: seeds. Bar: 95 % interval of their mean. A number: further off than the axis.",
        notes=[MEASURED, INTERVAL],
        data={"rows": rows},
        svg=standalone(forest(rows)),
    )
