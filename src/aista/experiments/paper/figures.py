"""Figures 4 to 7 of the paper from run folders: their numbers, and the pictures drawn from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from aista.analysis.comparison import Coefficient, Correlation, Point, by_group, by_seed, pooled
from aista.errors import AistaError
from aista.experiments.paper.sentences import figure7
from aista.experiments.paper.states import figure5, transport
from aista.experiments.paper.systems import Context, Run
from aista.experiments.results import Figure
from aista.figures.charts import ALL_PANELS
from aista.selection.select import LayerReport
from aista.text.languages import language

logger = logging.getLogger(__name__)

PAPER_FIGURE4 = (
    "The paper (4.2): with Vicuna-13B the MRR stays above 0.5 from layer 0 to 5 and falls below 0.01 from "
    "layer 6 on; with Qwen2-7B layers 0 and 1 are high and the next decline steeply. Chosen there: 0-5 and "
    "0-1."
)
PAPER_FIGURE6 = (
    "The paper (6.5) shows four runs on one backbone and direction, without a coefficient: as log W falls, "
    "BLEU rises."
)


def all_figures(context: Context) -> list[Figure]:
    """Return the figures that were asked for and whose runs are there, numbers and pictures.

    One that cannot be made is logged, and the others are made.
    """
    makers: dict[str, tuple[Callable[[Context], dict[str, Any] | None], ...]] = {
        "figure4": (figure4,),
        "figure5": (figure5,),
        "figure6": (figure6,),
        "figure7": (figure7, transport),
    }
    figures = []
    for make in (make for name in context.scope.names for make in makers.get(name, ())):
        try:
            values = make(context)
        except AistaError as error:
            logger.warning("%s could not be made: %s", make.__name__, error)
            continue
        if values is not None:
            figures.append(Figure.drawn(**values))
    return figures


def figure4(context: Context) -> dict[str, Any] | None:
    """Return MRR per layer of every backbone whose layers were selected."""
    lines: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for backbone, path in context.layers.items():
        report = LayerReport.load(path)
        title = context.title(backbone)
        lines.append(
            {
                "backbone": backbone,
                "title": title,
                "mrr": report.mrr_by_layer,
                "low": [row.low for row in report.rows],
                "high": [row.high for row in report.rows],
                "selected": report.selected,
                "threshold": report.threshold,
                "chance": report.chance_mrr,
                "num_pairs": report.num_pairs,
            }
        )
        rows += [
            {"backbone": backbone, **row.model_dump(include={"layer", "mrr", "low", "high", "selected"})}
            | {"shuffled_mrr": row.shuffled}
            for row in report.rows
        ]
    if not lines:
        return None
    counts = sorted({line["num_pairs"] for line in lines})
    return {
        "name": "figure4",
        "title": "Figure 4: where speech finds its text",
        "caption": "At every layer each clip looks for its own transcript among "
        f"{' and '.join(map(str, counts))} by the cost of moving its states onto those of the text; the mean "
        "reciprocal rank is 1 where the right one is always first. Filled: layers above the threshold, which "
        "are aligned in training.",
        "notes": [PAPER_FIGURE4, *_threshold_note(lines)],
        "data": {"lines": lines, "rows": rows},
    }


def _threshold_note(lines: list[dict[str, Any]]) -> list[str]:
    """Say how the threshold stands to chance: 0.05 means less among fewer candidates."""
    told = {
        f"{row['threshold']:.3f} among {row['num_pairs']} pairs is "
        f"{row['threshold'] / row['chance']:.1f} times chance"
        for row in lines
    }
    return [f"Threshold: {'; '.join(sorted(told))}. The paper's 0.05 among 1,000 is 6.7 times chance."]


def figure6(context: Context) -> dict[str, Any] | None:
    """Return log Wasserstein and BLEU of every run, and how they go together."""
    rows = [row for run in context.runs for row in _points(context, run)]
    if not rows:
        return None
    points = [
        Point(row["panel"], row["seed"], row["system"], row["log_wasserstein"], row["bleu"]) for row in rows
    ]
    found = by_group(points)
    if len(found) > 1:
        found[ALL_PANELS] = pooled(points)
    seeds = by_seed(points) if len({point.seed for point in points}) > 1 else {}
    diverged = ", ".join(dict.fromkeys(context.title(run.system) for run in context.diverged))
    notes = [
        PAPER_FIGURE6,
        "Log W is the mean over test clips and selected layers, in the model's own units. 95 % intervals: "
        "Fisher's for Pearson, bootstrap over runs for Spearman; p by t and by permutation. All panels: each "
        "run less its panel's mean; a run that speaks two languages counts twice. Runs of one seed share "
        "data and start: they are not independent, and the intervals are narrower than they should be.",
    ]
    if diverged:
        notes.append(f"Diverged and left out: {diverged}.")
    return {
        "name": "figure6",
        "title": "Figure 6: closeness and translation",
        "caption": "Mean logarithm of the transport cost between speech and transcript against BLEU; every "
        "dot is one training run, an arrow at the edge one that lies far off. The paper's claim is a falling "
        "line: the smaller the cost, the better the translation.",
        "notes": notes,
        "data": {
            "rows": rows,
            "correlations": coefficient_rows(found),
            "by_seed": coefficient_rows(seeds),
        },
    }


def _points(context: Context, run: Run) -> list[dict[str, Any]]:
    """Return one row per language of a run whose transport cost was measured."""
    results = json.loads((run.evaluation / "results.json").read_text(encoding="utf-8"))
    scores = results["scores"]
    if "log_wasserstein" not in scores:
        return []
    rows = []
    for name, value in scores.items():
        if name.startswith("bleu_"):
            tongue = language(name.removeprefix("bleu_")).name
            rows.append(
                {
                    "panel": f"{context.title(run.backbone)}, {tongue}",
                    "backbone": run.backbone,
                    "language": name.removeprefix("bleu_"),
                    "system": run.system,
                    "title": context.title(run.system),
                    "seed": run.seed,
                    "log_wasserstein": scores["log_wasserstein"],
                    "bleu": value,
                }
            )
    return rows


def coefficient_rows(found: Mapping[str, Correlation]) -> list[dict[str, Any]]:
    """Return correlations as flat rows, two per set of runs."""

    def row(name: str, kind: str, one: Coefficient) -> dict[str, Any]:
        return {"over": name, "coefficient": kind, **vars(one)}

    return [
        row(name, kind, one)
        for name, both in found.items()
        for kind, one in (("Pearson", both.pearson), ("Spearman", both.spearman))
    ]
