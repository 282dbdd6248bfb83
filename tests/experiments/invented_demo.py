"""Invented results for looking at the report: no number here was measured.

``python -m tests.experiments.invented_demo report.html`` writes the page.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from aista.evaluation.decode import TransportMap
from aista.experiments.demo_page import ReportData, render
from aista.experiments.page import Clip, Rendering

NOTICE = "Invented data, to look at the page: no number here was measured."

SENTENCES = [
    (
        "the doctor bought a red book in the park yesterday",
        (
            "医生昨天在公园买了一本红色的书",
            "医生昨天在公园买了一本红色的书",
            "医生昨天在公园买了一个红色的书",
        ),
        (
            "医者は昨日公園で赤い本を買いました",
            "医者は昨日公園で赤い本を買いました",
            "医者は昨日公園で本を買いました",
        ),
    ),
    (
        "my teacher did not give the old map to the child",
        ("我的老师没有把旧地图给孩子", "我的老师没有把旧地图给孩子", "我的老师没有把新地图给那个孩子"),
        (
            "私の先生は子供に古い地図をあげませんでした",
            "私の先生は子供に古い地図をあげました",
            "私の先生は子供に古い地図をあげませんでした",
        ),
    ),
    (
        "she wants to go to the library by bus tomorrow",
        ("她明天想坐公共汽车去图书馆", "她明天想坐公共汽车去图书馆", "她明天想坐公共汽车去图书馆"),
        ("彼女は明日バスで図書館へ行きたいです", "彼女は明日バスで図書館へ行きたいです", ""),
    ),
]


def speech(seconds: float, seed: int) -> np.ndarray:
    """Noise with the loudness of syllables."""
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    syllables = np.clip(
        np.sin(2 * np.pi * 2.1 * time + seed) + 0.5 * np.sin(2 * np.pi * 5.3 * time), 0.02, None
    )
    voice = np.sin(2 * np.pi * 140 * time) + 0.4 * draw.standard_normal(len(time))
    return (0.2 * syllables * voice).astype(np.float32)


def plan(windows: int, tokens: list[str], blur: float, layer: int = 0) -> TransportMap:
    """Mass along the diagonal, more or less blurred."""
    i, j = np.arange(windows)[:, None] / windows, np.arange(len(tokens))[None] / len(tokens)
    mass = np.exp(-((i - j) ** 2) / (2 * blur**2))
    return TransportMap(layer, tokens, (mass / mass.sum()).tolist(), 137.2 * blur)


def clips() -> list[Clip]:
    made = []
    for number, (source, zh, ja) in enumerate(SENTENCES):
        texts = [
            Rendering(code, row[0], {"base": row[1], "ai_sta": row[2]})
            for code, row in (("zh", zh), ("ja", ja))
        ]
        tokens = [f" {word}" for word in source.split()]
        maps = {"base": plan(9, tokens, 0.2), "ai_sta": plan(9, tokens, 0.05)} if number < 2 else {}
        made.append(Clip(f"c{number}", speech(2.9, number), source, "common words", texts, maps))
    return made


def history(floor: float, aligned: bool) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(20, 801, 20):
        row = {"step": step, "ce": floor + 2.4 * math.exp(-step / 160) + 0.02 * math.sin(step)}
        if aligned:
            row["wasserstein_0"] = 2 + 135 * math.exp(-step / 120)
        rows.append(row)
        if step % 200 == 0:
            rows.append({"step": step, "eval_token_accuracy": 1 - (floor + math.exp(-step / 300)) / 2})
    return rows


def results() -> dict:
    """Results with every key, none of them measured."""
    names = ["bleu_zh", "chrf_zh", "bleu_ja", "chrf_ja", "mt_bleu_zh", "mt_bleu_ja"]
    names += ["token_accuracy", "log_wasserstein"]
    base = dict(zip(names, (72.7, 66.0, 74.9, 70.1, 92.8, 91.4, 88.2, 6.10), strict=True))
    system = dict(zip(names, (66.1, 61.0, 75.8, 70.9, 97.2, 94.0, 87.4, 4.76), strict=True))
    sets = {"test_common": 2.5, "test_rare": -18.0}

    def shifted(scores: dict[str, float], by: float) -> dict[str, float]:
        return {name: value + by if "bleu" in name else value for name, value in scores.items()}

    return {
        "selected_layers": [0],
        "mrr_by_layer": [0.639, 0.111, 0.096, 0.054, 0.066, 0.067, 0.142],
        "shuffled_mrr_by_layer": [0.031, 0.028, 0.027, 0.03, 0.029, 0.026, 0.03],
        "chance_mrr": 0.0294,
        "threshold": 0.197,
        "num_pairs": 200,
        "systems": {
            key: {**scores, "by_set": {name: shifted(scores, by) for name, by in sets.items()}, "steps": 800}
            for key, scores in (("base", base), ("ai_sta", system))
        },
        "bleu_signature": {
            "bleu_zh": "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:2.6.0",
            "bleu_ja": "nrefs:1|case:mixed|eff:no|tok:ja-mecab-0.996-IPA|smooth:exp|version:2.6.0",
        },
        "warnings": [],
        "seconds": {
            "synthesis": 62.0, "features": 71.3, "select": 48.0, "joint_base": 171.0, "joint_ai_sta": 228.0,
            "evaluate": 64.0, "total": 644.3,
        },
        "seed": 1,
        "config_sha256": "0" * 64,
        "versions": {"python": "3.11", "aista": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip


def comparisons() -> dict:
    """Half significant, half not."""
    return {
        "bleu_zh": {"p_value": 0.001, "base_half_width": 2.9, "system_half_width": 3.0},
        "bleu_ja": {"p_value": 0.34, "base_half_width": 2.8, "system_half_width": 2.7},
        "mt_bleu_zh": {"p_value": 0.001, "base_half_width": 1.2, "system_half_width": 0.8},
        "mt_bleu_ja": {"p_value": 0.02, "base_half_width": 1.4, "system_half_width": 1.1},
    }


def data() -> ReportData:
    """Return everything the page can show."""
    return ReportData(
        results(),
        comparisons(),
        clips(),
        {"base": history(0.35, False), "ai_sta": history(0.42, True)},
        {"joint": "alignment:\n  method: wasserstein\n  alpha: 0.99\n"},
        NOTICE,
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(data()), encoding="utf-8")
