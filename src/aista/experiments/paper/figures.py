"""Figures 4 to 7 of the paper from run folders: their numbers, and the pictures drawn from them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aista.analysis.comparison import Correlation, Point, by_group, by_seed, pooled
from aista.analysis.embedding_map import FEWEST, MeanStates, closeness, density, mean_states, plane
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import AistaError
from aista.experiments.paper.sentences import figure7, pairs_of_runs, transport
from aista.experiments.paper.systems import Context, Run
from aista.experiments.results import FILES, Figure
from aista.figures.charts import ALL_PANELS
from aista.run_folder import sha256_of_model
from aista.selection.select import LayerReport
from aista.text.prompts import language

logger = logging.getLogger(__name__)

MOST_PAIRS = 1000
MAP_SEED = 0
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
        "figure4": (figure4,), "figure5": (figure5,), "figure6": (figure6,), "figure7": (figure7, transport),
    }  # fmt: skip
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
        lines.append(
            {
                "backbone": backbone, "title": context.backbone(backbone), "mrr": report.mrr_by_layer,
                "low": [row.low for row in report.rows], "high": [row.high for row in report.rows],
                "selected": report.selected, "threshold": report.threshold, "chance": report.chance_mrr,
                "num_pairs": report.num_pairs,
            }
        )  # fmt: skip
        rows += [
            {"backbone": backbone, **row.model_dump(include={"layer", "mrr", "low", "high", "selected"})}
            | {"shuffled_mrr": row.shuffled}
            for row in report.rows
        ]
    if not lines:
        return None
    counts = sorted({line["num_pairs"] for line in lines})
    by_chance = {  # 0.05 means less among fewer candidates
        f"{row['threshold']:.3f} among {row['num_pairs']} pairs is "
        f"{row['threshold'] / row['chance']:.1f} times chance"
        for row in lines
    }
    threshold = (
        f"Threshold: {'; '.join(sorted(by_chance))}. The paper's 0.05 among 1,000 is 6.7 times chance."
    )
    return {
        "name": "figure4",
        "title": "Figure 4: where speech finds its text",
        "caption": "At every layer each clip looks for its own transcript among "
        f"{' and '.join(map(str, counts))} by the cost of moving its states onto those of the text; the mean "
        "reciprocal rank is 1 where the right one is always first. Filled: layers above the threshold, which "
        "are aligned in training.",
        "notes": [PAPER_FIGURE4, threshold],
        "data": {"lines": lines, "rows": rows},
    }


# ---- Figure 5: representations in the plane ----


def figure5(context: Context) -> dict[str, Any] | None:
    """Return mean speech and text representations of base and AI-STA in one plane, and their distances."""
    panels: list[dict[str, Any]] = []
    bounds: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    kept: dict[str, np.ndarray] = {}
    num_pairs = 0
    for backbone, pairs in pairs_of_runs(context).items():
        states = {run: _remembered(context, run) for pair in pairs for run in pair}
        num_pairs = len(next(iter(states.values())).speech)
        if num_pairs < FEWEST:
            continue
        rows += [_distances(context, run, found) for run, found in states.items()]
        shown = {f"{run.system}/{kind}": getattr(states[run], kind) for run in pairs[0] for kind in _KINDS}
        laid = plane(shown, MAP_SEED)
        bounds[backbone] = _bounds(np.vstack(list(laid.values())))
        for run in pairs[0]:
            several = f"{context.backbone(backbone)} · " if len(context.layers) > 1 else ""
            panel: dict[str, Any] = {
                "backbone": backbone, "system": run.system, "title": several + context.title(run.system),
                "seed": run.seed, "contours": {},
            }  # fmt: skip
            for kind in _KINDS:
                points = laid[f"{run.system}/{kind}"]
                found = density(points, bounds[backbone])
                panel[kind] = points.round(2).tolist()
                panel["contours"][kind] = [
                    [piece.round(2).tolist() for piece in pieces] for pieces in found.contours()
                ]
                arrays = {kind: points, f"{kind}_density": found.values, "grid_x": found.x, "grid_y": found.y}
                kept |= {f"{backbone}/{run.system}/{name}": array for name, array in arrays.items()}
            panels.append(panel)
    if not panels:
        return None
    folder = context.folder / FILES
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "figure5.npz", **kept)  # type: ignore[arg-type]
    return {
        "name": "figure5",
        "title": "Figure 5: speech and text in one plane",
        "caption": "What enters the language model, averaged over the tokens of each clip and of its "
        f"transcript, for {num_pairs} test clips: t-SNE of both models together (seed {MAP_SEED}), "
        "with the regions that hold 25, 50 and 75 % of a kernel density estimate. The text lies in the same "
        "place in both panels where the models share their embedding.",
        "notes": [
            "t-SNE shows neighbours, not distances; the table has those, measured in the original space.",
            "The paper (6.4) shows 1,000 pairs of CoVoST2 En-Zh with Qwen2-7B and reports no distance.",
        ],
        "data": {"panels": panels, "bounds": bounds, "rows": rows},
    }


_KINDS = ("speech", "text")


def _remembered(context: Context, run: Run) -> MeanStates:
    """Return the mean states of a run's test clips, from disk if they were computed for this very model."""
    digest = hashlib.sha256(sha256_of_model(str(run.model)).encode())
    for path in context.tests:
        digest.update(Path(path).read_bytes())
    place = context.folder / "cache" / f"{run.name.replace('/', '-')}.npz"
    if place.exists():
        with np.load(place) as found:
            if str(found["key"]) == digest.hexdigest():
                return MeanStates(found["speech"], found["text"])
    states = _computed(context, run)
    place.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place, key=digest.hexdigest(), speech=states.speech, text=states.text)
    return states


def _computed(context: Context, run: Run) -> MeanStates:
    from aista.inference.translator import load
    from aista.model.feature_cache import cached_features

    translator = load(run.model)
    model, processor = translator.model, translator.processor
    paths = [str(path) for path in context.tests]
    store = None
    if folder := context.features.get(run.backbone):
        longest = translator.longest_seconds
        store = cached_features(model, processor, paths, folder, max_seconds=longest, too_long="skip")
    clips = SpeechDataset([Manifest(path) for path in paths], features=store).clips()
    clips = clips.subset(np.flatnonzero(clips.lengths <= translator.longest_seconds))
    if len(clips) > MOST_PAIRS:
        draw = np.random.default_rng(MAP_SEED).choice(len(clips), MOST_PAIRS, replace=False)
        clips = clips.subset(np.sort(draw))
    return mean_states(model, processor, clips)


def _distances(context: Context, run: Run, states: MeanStates) -> dict[str, Any]:
    found = closeness(states)
    return {
        "backbone": run.backbone,
        "system": run.system,
        "group": context.backbone(run.backbone),
        "title": context.title(run.system),
        "seed": run.seed,
        **vars(found),
        "relative_centroid_distance": found.relative_centroid_distance,
        "relative_paired_distance": found.relative_paired_distance,
        "pairing": found.pairing,
    }


def _bounds(points: np.ndarray) -> list[float]:
    """Return the ends of a cloud with some air: low x, high x, low y, high y."""
    low, high = points.min(0), points.max(0)
    air = 0.12 * (high - low)
    ends = [low[0] - air[0], high[0] + air[0], low[1] - air[1], high[1] + air[1]]
    return [round(float(end), 3) for end in ends]


# ---- Figure 6: transport cost and BLEU ----


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
            "rows": rows, "correlations": coefficient_rows(found), "by_seed": coefficient_rows(seeds),
        },
    }  # fmt: skip


def _points(context: Context, run: Run) -> list[dict[str, Any]]:
    """Return one row per language of a run whose transport cost was measured."""
    scores = run.results["scores"]
    codes = [name.removeprefix("bleu_") for name in scores if name.startswith("bleu_")]
    return [
        {
            "panel": f"{context.backbone(run.backbone)}, {language(code).name}",
            "backbone": run.backbone,
            "language": code,
            "system": run.system,
            "title": context.title(run.system),
            "seed": run.seed,
            "log_wasserstein": scores["log_wasserstein"],
            "bleu": scores[f"bleu_{code}"],
        }
        for code in codes
        if "log_wasserstein" in scores
    ]


def coefficient_rows(found: Mapping[str, Correlation]) -> list[dict[str, Any]]:
    """Return correlations as flat rows, two per set of runs."""
    return [
        {"over": name, "coefficient": kind, **vars(one)}
        for name, both in found.items()
        for kind, one in (("Pearson", both.pearson), ("Spearman", both.spearman))
    ]
