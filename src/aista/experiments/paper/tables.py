"""Tables 1 to 5 of the paper from run folders, the values that the paper prints beside ours."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from aista.baselines.base import REPORTED
from aista.data.manifest import Manifest
from aista.experiments.paper.systems import (
    EVERY_DIRECTION,
    X_RULE,
    Backbone,
    Context,
    Measured,
    System,
    cross_entropies,
    with_best,
)
from aista.experiments.results import Cell, Row, Table, layer_range
from aista.model.bases import locate
from aista.selection.select import LayerReport

# ---- what the paper reports, as printed; "X" is the run that failed ----


@dataclass(frozen=True)
class Corpus:
    """A row of Table 1.

    Attributes:
        task: ASR, AAC or ST.
        name: As printed.
        hours, samples: As printed; None for a dash.
        manifests: Beginning of our manifests' names at the paper's scale.
    """

    task: str
    name: str
    hours: float | None
    samples: int
    manifests: str


TABLE1 = (
    Corpus("ASR", "LibriSpeech", 960, 280_000, "librispeech"),
    Corpus("ASR", "GigaSpeech M-set", 1000, 680_000, "gigaspeech"),
    Corpus("AAC", "WavCaps", 2800, 370_000, "wavcaps"),
    Corpus("AAC", "AudioCaps", None, 45_000, "audiocaps"),
    Corpus("AAC", "Clotho", None, 4_000, "clotho"),
    Corpus("ST", "CoVoST2 En2Zh", 364, 289_000, "covost2-en-zh"),
    Corpus("ST", "CoVoST2 En2Ja", 364, 289_000, "covost2-en-ja"),
)

# Table 2 (6.1), CoVoST2 test, sacreBLEU: (backbone, system) -> direction -> BLEU.
TABLE2: dict[tuple[str, str], dict[str, float]] = {
    ("Vicuna-13B", "base"): {"zh": 36.5, "ja": 29.8},
    ("Vicuna-13B", "ai_sta"): {"zh": 37.6, "ja": 30.2},
    ("Qwen2-7B", "base"): {"zh": 45.3, "ja": 31.0},
    ("Qwen2-7B", "ai_sta"): {"zh": 46.0, "ja": 31.4},
}

# Table 3 (6.2), Qwen2-7B, En-Zh; layers 0-1 were selected.
TABLE3: dict[str, float | str] = {
    "base": 45.3, "layer_0": 45.7, "layers_0_5": 45.5, "ai_sta": 46.0, "layer_1": "X", "layer_1_raw": "X",
}  # fmt: skip

# Table 4 (6.3), Qwen2-7B, En-Zh.
TABLE4: dict[str, float] = {"base": 45.3, "ctc": 44.6, "contrastive": 45.1, "ai_sta": 46.0}

# Table 5 (6.6), En-Zh: (backbone, system) -> (speech translation, zero-shot text translation).
TABLE5: dict[tuple[str, str], tuple[float, float]] = {
    ("Vicuna-13B", "base"): (36.5, 34.0),
    ("Vicuna-13B", "ai_sta"): (37.6, 39.4),
    ("Qwen2-7B", "base"): (45.3, 51.2),
    ("Qwen2-7B", "ai_sta"): (46.0, 51.5),
}

# ---- the tables ----

P_RULE = (
    "p: paired bootstrap (1,000 resamples, two-sided, ties counted) against the base of the same backbone "
    "and seed; the median over the seeds. * p < 0.05."
)
SEED_RULE = "Mean ± sample standard deviation over the seeds; one seed has none."
BOLD_RULE = (
    "Bold: the highest mean of its group, where it stands above every other by more than both deviations "
    "together."
)
CAPTIONS_RULE = (
    "Hours are those that are trained on: a sound that was cropped counts as it is now. Samples are rows: "
    "Clotho has five captions a clip, and the paper counts clips."
)
RULES = (SEED_RULE, P_RULE, BOLD_RULE)
_PAPERS = "En-Zh"  # the column of tables 3 and 4 in the paper
_BASELINES = ("salmonn", "blsp_kd", "qwen_audio", "qwen2_audio")


class Column(NamedTuple):
    """A score as a column: its name in results, the paper's value per system, decimals, may be bold."""

    score: str
    paper: Mapping[str, float | str] = {}
    digits: int = 1
    bold: bool = True


def all_tables(context: Context, first: Context | None = None) -> list[Table]:
    """Return the tables that were asked for.

    Args:
        first: What is there of the first direction, where directions are trained apart: all that most show.
    """
    makers: dict[str, Callable[[Context], Table]] = {
        "table1": table1, "table2": table2, "table3": table3, "table4": table4, "table5": table5,
    }  # fmt: skip
    return [
        make(context if name in EVERY_DIRECTION else first or context)
        for name, make in makers.items()
        if name in context.scope.names
    ]


def table1(context: Context) -> Table:
    """Return what the models were trained on, as counted from the manifests (5.1)."""
    rows = []
    for task in ("ASR", "AAC", "ST"):
        rows.append(Row(label=task, is_heading=True))
        for row in (row for row in TABLE1 if row.task == task):
            found = [path for name, path in context.training.items() if name.startswith(row.manifests)]
            hours, samples = _counted(found) if found else (Cell(digits=0), Cell(digits=0))
            cells = [
                hours.model_copy(update={"paper": row.hours and float(row.hours), "digits": 0}),
                samples.model_copy(update={"paper": float(row.samples)}),
            ]
            rows.append(Row(label=row.name, cells=cells))
        if "ST" in context.training:
            rows += _stand_ins(context, task)
    return Table(
        name="table1",
        title="Table 1: training data",
        columns=["hours", "samples"],
        rows=rows,
        caption="Hours and samples as counted from the manifests; the paper's beside them.",
        notes=[CAPTIONS_RULE] if any(name.startswith("clotho") for name in context.training) else [],
    )


def _counted(manifests: Iterable[Path]) -> tuple[Cell, Cell]:
    """Return hours and rows of manifests."""
    seconds = [row.duration or 0.0 for path in manifests for row in Manifest(path)]
    return _data(sum(seconds) / 3600, len(seconds))


def _data(hours: float, samples: float, note: str = "") -> tuple[Cell, Cell]:
    return Cell(value=hours, digits=2, note=note), Cell(value=samples, digits=0, note=note)


def _stand_ins(context: Context, task: str) -> list[Row]:
    """Return what the small scale trains on in place of the paper's corpora, or base scale on the user's."""
    own = "ASR" in context.training  # a stage 1 of one's own, not one that comes with the package
    kind = "here" if own else "stand-in"
    if task != "ST":
        manifest = context.training.get(task)
        if own and manifest is None:
            return []
        cells = _counted([manifest]) if manifest else _shipped_counts(task.lower())
        label = {"ASR": f"{kind}: spoken sentences", "AAC": f"{kind}: sounds"}[task]
        return [Row(label=label, cells=list(cells))]
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in Manifest(context.training["ST"]):
        pair = f"{row.src_lang.capitalize()}-{row.answer_lang.capitalize()}"
        seconds[pair].append(row.duration or 0.0)
    return [
        Row(
            label=f"{kind}: spoken sentences {pair}",
            cells=list(_data(sum(found) / 3600, len(found))),
        )
        for pair, found in seconds.items()
    ]


def _shipped_counts(corpus: str) -> tuple[Cell, Cell]:
    """Return what the shipped stage-1 models were trained on, as their build counted it (the model card)."""
    card = (locate("aista:model") / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {corpus} \| ([\d,]+) \| ([\d.]+) \|$", card, re.MULTILINE)
    if row is None:
        return Cell(), Cell()
    note = "counted by `python -m tools.standins build`; the stage-1 model comes with the package"
    return _data(float(row[2]), float(row[1].replace(",", "")), note)


def table2(context: Context) -> Table:
    """Return systems x directions (6.1)."""
    measured, scope = Measured(context), context.scope
    titles = measured.languages()
    rows, about = [], []
    ran = measured.baselines()
    first = scope.backbones[0].name
    if measured.seeds(first, "distillation"):  # our own run of that baseline's method
        own = {code: measured.cell(first, "distillation", f"bleu_{code}") for code in titles}
        ran["blsp_kd"] = ran.get("blsp_kd", {}) | own
    for row in (row for row in REPORTED if row.system in _BASELINES):
        ours = ran.pop(row.system, {})
        theirs = {code: row.bleu.get(f"{measured.source}-{code}") for code in titles}
        if ours or any(value is not None for value in theirs.values()):
            cells = [ours.get(code, Cell()).model_copy(update={"paper": theirs[code]}) for code in titles]
            rows.append(Row(label=row.title, cells=cells, key=row.system))
    for name, found in ran.items():
        cells = [found.get(code, Cell()) for code in titles]
        rows.append(Row(label=context.title(name), cells=cells, key=name))
    if any(row.key == "blsp_kd" for row in rows):
        about.append(
            "In BLSP-KD's row, where there is a number of ours, it is our model trained with the method "
            "`distillation`, which has its idea (the divergence of the answers) and neither its adapter nor "
            "its partial LoRA: no code or weights of it are public."
        )
    if rows:
        rows.insert(0, Row(label="Baseline models", is_heading=True))
    for backbone in scope.backbones_of("table2"):
        reported = {s: values for (b, s), values in TABLE2.items() if b == backbone.paper}
        columns = [
            Column(f"bleu_{code}", {s: values[code] for s, values in reported.items() if code in values})
            for code in titles
        ]
        rows.append(Row(label=f"Our LSM with the {backbone.title}", is_heading=True, group=backbone.name))
        rows += _rows(measured, backbone, scope.systems_of("table2"), columns)
    return Table(
        name="table2",
        title="Table 2: speech translation, BLEU",
        columns=list(titles.values()),
        rows=rows,
        caption=_caption(context, "CoVoST2, its own backbones"),
        notes=[
            *RULES,
            *about,
            *_missing(context, "table2"),
            *measured.warnings(),
        ],
        signatures=measured.signatures([f"bleu_{code}" for code in titles]),
    )


def table3(context: Context) -> Table:
    """Return layer sets (6.2), on the seeds that all of them have."""
    measured, backbone = Measured(context), context.scope.backbones[0]
    shown = {system.name: system for system in context.scope.systems_of("table3")}
    if "ai_sta" in shown:  # the paper's order: the selected layers last
        path = context.layers.get(backbone.name)
        selected = layer_range(LayerReport.load(path).selected) if path else "?"
        alignment = shown.pop("ai_sta").alignment
        shown["ai_sta"] = System("ai_sta", f"Layer {selected} (selected)", alignment)
    seeds = measured.shared_seeds(backbone.name, shown)
    titles = measured.languages(both=False)
    columns = [Column(f"bleu_{code}", TABLE3 if title == _PAPERS else {}) for code, title in titles.items()]
    rows = [
        row.model_copy(update={"cells": [*row.cells, _final_loss(context, backbone, row.key, seeds)]})
        for row in _rows(measured, backbone, list(shown.values()), columns, seeds)
    ]
    return Table(
        name="table3",
        title="Table 3: which layers are aligned",
        columns=[*titles.values(), "final CE"],
        rows=rows,
        caption=_caption(context, "CoVoST2 En-Zh, Qwen2-7B, where layers 0 and 1 were selected"),
        notes=[
            f"Seeds shown: {', '.join(map(str, seeds)) or 'none'}.",
            X_RULE,
            *RULES,
            "Final CE: mean training cross-entropy over the last tenth of the logged steps.",
            "Layer 1-6 is not in the paper: every layer up to 6 without layer 0.",
            *_missing(context, "table3"),
        ],
        signatures=measured.signatures([f"bleu_{code}" for code in titles]),
    )


def _final_loss(context: Context, backbone: Backbone, system: str, seeds: Sequence[int]) -> Cell:
    found = dict[int, float]()
    for seed in seeds or context.scope.seeds:
        for run in context.scope.runs_of(backbone.name, system, seed):
            if losses := cross_entropies(run):
                found[seed] = fmean(losses[-max(1, len(losses) // 10) :])
    return Cell.over(list(found.values()), digits=3, seeds=list(found))


def table4(context: Context) -> Table:
    """Return alignment methods (6.3); a method that is found in the package is a row."""
    measured, backbone = Measured(context), context.scope.backbones[0]
    systems = sorted(context.scope.systems_of("table4"), key=lambda system: system.name.startswith("ai_sta"))
    titles = measured.languages(both=False)
    columns = [
        *(Column(f"bleu_{code}", TABLE4 if title == _PAPERS else {}) for code, title in titles.items()),
        Column("log_wasserstein", digits=2, bold=False),
        Column("token_accuracy", bold=False),
    ]
    counts = [f"{row.title} {len(measured.seeds(backbone.name, row.name))}" for row in systems]
    return Table(
        name="table4",
        title="Table 4: alignment methods",
        columns=[*titles.values(), "log W", "token accuracy"],
        rows=_rows(measured, backbone, systems, columns),
        caption=_caption(context, "CoVoST2 En-Zh, Qwen2-7B"),
        notes=[
            f"Number of seeds: {', '.join(counts)}.",
            "CTC, contrastive and any further method work at the embedding layer, or where they say.",
            "log W: mean logarithm of the cost of transport from speech to transcript, selected layers.",
            "Token accuracy: teacher-forced, per cent, on the test sentences.",
            X_RULE,
            *RULES,
            *_missing(context, "table4"),
        ],
        signatures=measured.signatures([f"bleu_{code}" for code in titles]),
    )


def table5(context: Context) -> Table:
    """Return speech translation beside text translation of the same models: zero-shot (6.6), or taught."""
    measured, scope, taught = Measured(context), context.scope, "MT" in context.training
    titles, rows = measured.languages(), []
    names = [f"{kind}bleu_{code}" for code in titles for kind in ("", "mt_")]
    for backbone in scope.backbones_of("table5"):
        reported = {s: values for (b, s), values in TABLE5.items() if b == backbone.paper}
        spoken, written = ({s: values[i] for s, values in reported.items()} for i in (0, 1))
        paper = {"bleu_zh": spoken} | ({} if taught else {"mt_bleu_zh": written})
        columns = [Column(name, paper.get(name, {})) for name in names]
        heading = f"Trained on ST{' and MT' if taught else ''}: {backbone.title}"
        rows.append(Row(label=heading, is_heading=True, group=backbone.name))
        rows += _rows(measured, backbone, scope.systems_of("table5"), columns)
    return Table(
        name="table5",
        title=f"Table 5: speech translation and {'' if taught else 'zero-shot '}text translation, BLEU",
        columns=[f"{kind} {title}" for title in titles.values() for kind in ("ST", "MT")],
        rows=rows,
        caption=_caption(context, "CoVoST2 En-Zh"),
        notes=[
            "MT: the transcript stands where the speech stood, the prompt unchanged; "
            + ("the training sentences were taught so, too." if taught else "it was not trained."),
            *RULES,
            *_missing(context, "table5"),
        ],
        signatures=measured.signatures(names),
    )


def _rows(
    measured: Measured, backbone: Backbone, systems: Sequence[System], columns: Sequence[Column],
    seeds: Sequence[int] | None = None,
) -> list[Row]:  # fmt: skip
    """Return one row per system, one cell per column."""
    cells = []
    for score, paper, digits, bold in columns:
        found = [
            measured.cell(
                backbone.name, system.name, score, paper=paper.get(system.name), seeds=seeds, digits=digits
            )
            for system in systems
        ]
        cells.append(with_best(found) if bold else found)
    return [
        Row(label=system.title, cells=list(row), group=backbone.name, key=system.name)
        for system, row in zip(systems, zip(*cells, strict=True), strict=True)
    ]


def _caption(context: Context, theirs: str) -> str:
    tests = " + ".join(dict.fromkeys(path.stem for path in context.tests)) or "the test set"
    most = f"at most the first {context.limit} rows of " if context.limit else ""
    return f"Ours: sacreBLEU on {most}{tests}, all sentences together. Paper: {theirs}."


def _missing(context: Context, name: str) -> list[str]:
    """Say which systems have no finished run yet, or not of every seed, and which seeds no mean holds."""
    scope, diverged = context.scope, {*context.diverged}
    found = diverged | {*context.runs}
    left, out = list[str](), list[str]()
    for backbone in scope.backbones_of(name):
        for system in scope.systems_of(name):
            runs = {seed: scope.runs_of(backbone.name, system.name, seed) for seed in scope.seeds_of(system)}
            for names, seeds in (
                (left, [seed for seed, needed in runs.items() if not found.issuperset(needed)]),
                (out, [seed for seed, needed in runs.items() if not diverged.isdisjoint(needed)]),
            ):
                some = f" (seed {', '.join(map(str, seeds))})" if len(seeds) < len(runs) else ""
                names += [f"{backbone.name}/{system.name}{some}"] if seeds else []
    told = (("Not finished yet", left), ("Diverged, and in no mean", out))
    return [f"{what}: {', '.join(names)}." for what, names in told if names]
