"""Invented tables for looking at the report: no number here was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from aista.experiments.results import Cell, Row, Table

TITLES = {
    "base": "base",
    "ai_sta": "AI-STA (selected layers)",
    "ctc": "CTC",
    "contrastive": "contrastive (N-pair)",
}
SIGNATURES = ["bleu_zh: nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:2.6.0"]
SHARED = "Mean ± sample standard deviation over the seeds; one seed has none."
RNG = np.random.default_rng(0)


def cell(
    mean: float, reported: float | str | None = None, p: float | None = None, seeds: int = 3, digits: int = 1
) -> Cell:
    values = [round(mean + 0.8 * float(RNG.standard_normal()), 3) for _ in range(seeds)]
    spread = statistics.stdev(values) if seeds > 1 else None
    return Cell(
        value=statistics.fmean(values),
        deviation=spread,
        values=values,
        paper=reported,
        p_value=p,
        digits=digits,
        note="test_common 87.9, test_rare 61.7; p by seed: 0.020, 0.310, 0.004",
    )


def rows(group: str, heading: str, entries: Sequence[tuple[str, str, list[Cell]]]) -> list[Row]:
    made = [Row(label=heading, is_heading=True, group=group)] if heading else []
    return made + [Row(label=label, key=key, cells=cells, group=group) for key, label, cells in entries]


def tables() -> list[Table]:
    one, two = "Our LSM with the Qwen2 stand-in", "Our LSM with the Llama stand-in"
    return [
        Table(
            name="table1",
            title="Table 1: training data",
            columns=["hours", "samples"],
            notes=["A note."],
            caption="Hours and samples as counted from the manifests; the paper's beside them.",
            rows=[
                Row(label="ST", is_heading=True),
                Row(label="CoVoST2 En2Zh", cells=[Cell(paper=364.0), Cell(paper=289000, digits=0)]),
                Row(
                    label="stand-in: spoken sentences En-Zh",
                    cells=[Cell(value=1.62, digits=2), Cell(value=2000, digits=0)],
                ),
            ],
        ),
        Table(
            name="table2",
            title="Table 2: speech translation, BLEU",
            columns=["En-Zh", "En-Ja"],
            signatures=SIGNATURES,
            caption="Ours: sacreBLEU on test_common + test_rare, all sentences together. Paper: CoVoST2.",
            notes=[SHARED],
            rows=[
                Row(label="Baseline models", is_heading=True),
                *(
                    Row(label=name, cells=[Cell(paper=row["zh"]), Cell(paper=row["ja"])])
                    for name, row in (
                        ("SALMONN", {"zh": 33.1, "ja": 22.7}),
                        ("Qwen2-Audio", {"zh": 45.2, "ja": 28.6}),
                    )
                ),
                *rows(
                    "qwen2",
                    one,
                    [
                        ("base", "base", [cell(74.3, 45.3), cell(76.0, 31.0)]),
                        ("ai_sta", TITLES["ai_sta"], [cell(72.1, 46.0, 0.004), cell(76.9, 31.4, 0.2)]),
                    ],
                ),
                *rows(
                    "llama",
                    two,
                    [
                        ("base", "base", [cell(70.1, 36.5), cell(71.2, 29.8)]),
                        ("ai_sta", TITLES["ai_sta"], [cell(74.0, 37.6, 0.001), cell(71.5, 30.2, 0.6)]),
                    ],
                ),
            ],
        ),
        Table(
            name="table3",
            title="Table 3: which layers are aligned",
            columns=["En-Zh", "En-Ja", "final CE"],
            signatures=SIGNATURES,
            caption="Ours: sacreBLEU on test_common + test_rare. Paper: CoVoST2 En-Zh, Qwen2-7B.",
            notes=[SHARED, "Seeds shown: 1."],
            rows=rows(
                "qwen2",
                "",
                [
                    (
                        "base",
                        "base",
                        [cell(74, 45.3, seeds=1), cell(76, seeds=1), cell(0.03, seeds=1, digits=3)],
                    ),
                    (
                        "layer_0",
                        "Layer 0",
                        [cell(73, 45.7, 0.2, 1), cell(76, seeds=1), cell(0.03, seeds=1, digits=3)],
                    ),
                    (
                        "layers_0_5",
                        "Layer 0-5",
                        [cell(73, 45.5, 0.1, 1), cell(76, seeds=1), cell(0.03, seeds=1, digits=3)],
                    ),
                    (
                        "layer_1",
                        "Layer 1",
                        [Cell(mark="X", paper="X", note="seed 1 diverged"), Cell(mark="X"), Cell()],
                    ),
                    (
                        "ai_sta",
                        "Layer 0-6 (selected)",
                        [cell(72, 46.0, 0.01, 1), cell(76, seeds=1), cell(0.04, seeds=1, digits=3)],
                    ),
                ],
            ),
        ),
        Table(
            name="table4",
            title="Table 4: alignment methods",
            columns=["En-Zh", "En-Ja", "log W", "token accuracy"],
            signatures=SIGNATURES,
            caption="Ours: sacreBLEU on test_common + test_rare. Paper: CoVoST2 En-Zh, Qwen2-7B.",
            notes=[SHARED],
            rows=rows(
                "qwen2",
                "",
                [
                    (key, TITLES[key], [cell(mean, reported), cell(mean), cell(7, digits=2), cell(93)])
                    for key, mean, reported in (
                        ("base", 74, 45.3),
                        ("ctc", 71, 44.6),
                        ("contrastive", 74, 45.1),
                        ("ai_sta", 73, 46.0),
                    )
                ],
            ),
        ),
        Table(
            name="table5",
            title="Table 5: speech translation and zero-shot text translation, BLEU",
            signatures=SIGNATURES,
            columns=["ST En-Zh", "MT En-Zh", "ST En-Ja", "MT En-Ja"],
            caption="Paper: CoVoST2 En-Zh.",
            notes=[SHARED],
            rows=[
                *rows(
                    "qwen2",
                    "Trained on ST: Qwen2 stand-in",
                    [
                        ("base", "base", [cell(74, 45.3), cell(98, 51.2), cell(76), cell(96)]),
                        (
                            "ai_sta",
                            TITLES["ai_sta"],
                            [cell(73, 46.0, 0.3), cell(98.3, 51.5, 0.1), cell(76), cell(97)],
                        ),
                    ],
                ),
                *rows(
                    "llama",
                    "Trained on ST: Llama stand-in",
                    [
                        ("base", "base", [cell(70, 36.5), cell(95, 34.0), cell(71), cell(90)]),
                        ("ai_sta", TITLES["ai_sta"], [cell(74, 37.6), cell(97, 39.4), cell(71), cell(93)]),
                    ],
                ),
            ],
        ),
    ]
