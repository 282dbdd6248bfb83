"""Invented exhibits for looking at the report: no number here was measured.

``python -m tests.experiments.paper.invented FOLDER`` writes them and the page.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

from aista.analysis.comparison import Point, by_group, by_seed, pooled
from aista.analysis.embedding_map import density
from aista.audio.files import write_audio
from aista.experiments.paper.figures import coefficient_rows
from aista.experiments.paper.page import write_report
from aista.experiments.results import Figure, Table, save
from tests.experiments import invented_demo as sounds
from tests.experiments.paper.invented_tables import TITLES, tables

NOTICE = "Invented data, to look at the page: no number here was measured."
RNG = np.random.default_rng(0)


def figure4() -> dict:
    lines = []
    for name, title, mrr, chosen in (
        ("qwen2", "Qwen2 stand-in", [0.94, 0.40, 0.17, 0.12, 0.1, 0.08, 0.15], [0, 1]),
        ("llama", "Llama stand-in", [0.71, 0.68, 0.55, 0.31, 0.2, 0.05, 0.04], [0, 1, 2, 3, 4]),
    ):
        low, high = [v - 0.02 for v in mrr], [v + 0.02 for v in mrr]
        lines.append(
            {
                "backbone": name,
                "title": title,
                "mrr": mrr,
                "low": low,
                "high": high,
                "selected": chosen,
                "threshold": 0.197,
                "chance": 0.0294,
                "num_pairs": 200,
            }
        )
    data = {"lines": lines, "rows": [{"layer": i, "mrr": v} for i, v in enumerate(lines[0]["mrr"])]}
    return {
        "name": "figure4",
        "title": "Figure 4: where speech finds its text",
        "caption": "A caption.",
        "notes": ["A note."],
        "data": data,
    }


def figure5() -> dict:
    panels, found = [], []
    text = RNG.standard_normal((150, 2)) * (6, 10) + (20, 0)
    for system, shift in (("base", -24), ("ai_sta", 4)):
        speech = RNG.standard_normal((150, 2)) * (7, 9) + (shift, 0)
        clouds = {"speech": speech, "text": text}
        outlines = {
            kind: [
                [p.round(2).tolist() for p in level]
                for level in density(points, (-50, 50, -50, 50)).contours()
            ]
            for kind, points in clouds.items()
        }
        panels.append(
            {
                "backbone": "qwen2",
                "system": system,
                "title": TITLES[system],
                "seed": 1,
                "contours": outlines,
                **{kind: points.round(2).tolist() for kind, points in clouds.items()},
            }
        )
        far = 26.0 if system == "base" else 8.0
        found += [
            {
                "backbone": "qwen2",
                "system": system,
                "title": TITLES[system],
                "group": "Qwen2 stand-in",
                "seed": seed,
                "separability": 1.0,
                "relative_centroid_distance": far * 0.7,
                "relative_paired_distance": far,
                "pairing": 0.97,
            }
            for seed in (1, 2, 3)
        ]
    data = {"panels": panels, "bounds": {"qwen2": [-50, 50, -50, 50]}, "rows": found}
    return {
        "name": "figure5",
        "title": "Figure 5: speech and text in one plane",
        "caption": "A caption.",
        "notes": ["A note."],
        "data": data,
    }


def figure6() -> dict:
    made = []
    systems = {
        **TITLES,
        "distillation": "distillation (BLSP-KD's idea)",
        "layer_0": "Layer 0",
        "layers_0_5": "Layer 0-5",
        "layers_1_6": "Layer 1-6",
    }
    for backbone, code, tongue in (("Qwen2 stand-in", "zh", "Chinese"), ("Qwen2 stand-in", "ja", "Japanese")):
        for i, (system, title) in enumerate(systems.items()):
            for seed in (1, 2, 3) if i < 4 else (1,):
                w = 7.4 - 0.1 * i + 0.04 * float(RNG.standard_normal())
                made.append(
                    {
                        "panel": f"{backbone}, {tongue}",
                        "backbone": "qwen2",
                        "language": code,
                        "system": system,
                        "title": title,
                        "seed": seed,
                        "log_wasserstein": w,
                        "bleu": 74 + 2 * math.sin(i) + 0.4 * float(RNG.standard_normal()),
                    }
                )
    points = [Point(r["panel"], r["seed"], r["system"], r["log_wasserstein"], r["bleu"]) for r in made]
    data = {
        "rows": made,
        "correlations": coefficient_rows(by_group(points) | {"all panels": pooled(points)}),
        "by_seed": coefficient_rows(by_seed(points)),
    }
    return {
        "name": "figure6",
        "title": "Figure 6: closeness and translation",
        "caption": "A caption.",
        "notes": ["A note."],
        "data": data,
    }


def figure7(folder: Path) -> dict:
    cases, counts = [], []
    for backbone in ("qwen2", "llama"):
        for number, (source, zh, ja) in enumerate(sounds.SENTENCES):
            code, texts = (("zh", zh), ("ja", ja))[number % 2]
            name = f"{backbone}-{number}"
            write_audio(folder / f"exhibits/files/{name}.flac", sounds.speech(2.9, number))
            answers = {"base": texts[1], "ai_sta": texts[2], "ctc": texts[1][::-1], "contrastive": ""}
            cases.append(
                {
                    "id": name,
                    "way": "worse" if number else "better",
                    "panel": f"{backbone} stand-in, {code}",
                    "backbone": backbone,
                    "clip": f"exhibits/files/{name}.flac",
                    "audio": "a.flac",
                    "offset": 0.0,
                    "source": source,
                    "row": name,
                    "language": code,
                    "reference": texts[0],
                    "texts": answers,
                    "scores": dict.fromkeys(answers, 50.0),
                    "difference": 30.0 if not number else -22.5,
                    "other_seeds": [3.1, -2.0],
                }
            )
        for tongue in ("Chinese", "Japanese"):
            counts.append(
                {
                    "panel": f"{backbone} stand-in, {tongue}",
                    "num_better": 75,
                    "num_worse": 93,
                    "num_equal": 232,
                    "edges": list(np.linspace(-70, 70, 15)),
                    "histogram": [2, 3, 9, 10, 14, 24, 31, 25, 13, 18, 13, 4, 1, 1],
                }
            )
    data = {"cases": cases, "counts": counts, "titles": TITLES, "rows": [{"id": c["id"]} for c in cases]}
    return {
        "name": "figure7",
        "title": "Figure 7: cases",
        "caption": "A caption.",
        "notes": ["Rule: nobody picked."],
        "data": data,
    }


def transport(folder: Path) -> dict:
    clips = []
    for number, (source, _, _) in enumerate(sounds.SENTENCES[:2]):
        write_audio(folder / f"exhibits/files/transport-{number}.flac", sounds.speech(2.9, number))
        tokens = [f" {word}" for word in source.split()]
        maps = {"base": vars(sounds.plan(9, tokens, 0.2)), "ai_sta": vars(sounds.plan(9, tokens, 0.05))}
        clips.append(
            {
                "id": f"transport-{number}",
                "clip": f"exhibits/files/transport-{number}.flac",
                "source": source,
                "why": "first of common",
                "maps": maps,
            }
        )
    data = {"layer": 0, "clips": clips, "titles": TITLES, "rows": [{"W": 1.0}]}
    return {
        "name": "transport",
        "title": "From sound to token",
        "caption": "A caption.",
        "notes": ["A note."],
        "data": data,
    }


RECORD = {
    "command": "aista reproduce all --scale small --seeds 3",
    "scale": "small",
    "seeds": [1, 2, 3],
    "machine": {"cpu": "A processor", "cores": 2, "ram_gb": 23.4, "system": "Linux x86_64", "workers": 2},
    "seconds": {
        "synthesis": 62.0,
        "features": 71.3,
        "select": 48.0,
        "joint": 4171.0,
        "evaluate": 1128.0,
        "total": 5480.0,
    },
    "versions": {"aista": "0.1.0", "torch": "2.13.0"},
    "data_sha256": {"st.jsonl": "0" * 64},
    "settings": {"joint ai_sta": "alignment:\n  method: wasserstein\n"},
    "started": "2026-01-01 10:00:00",
    "finished": "2026-01-01 11:00:00",
}


def exhibits(folder: Path) -> list[Table | Figure]:
    """Return everything the page can show; sounds are written under ``folder``."""
    figures = [figure4(), figure5(), figure6(), figure7(folder), transport(folder)]
    return [*tables(), *(Figure.drawn(**values) for values in figures)]


def write(folder: Path) -> Path:
    """Write a folder as a sweep leaves it, and its page."""
    for exhibit in exhibits(folder):
        save(exhibit, folder)
    (folder / "reproduce.json").write_text(json.dumps(RECORD))
    return write_report(folder, NOTICE)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
