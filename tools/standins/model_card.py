"""The card of the shipped model: what it is, what it was made from, how good it is, what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aista.data.text_files import read_json_lines


def write_card(build: Path, results: dict[str, Any]) -> Path:
    """Write ``README.md`` into the finished model's folder from what the build measured.

    Args:
        build: Folder of a finished build.
        results: What ``aista evaluate`` returned for its model.
    """
    cards = {name: _read(build / name / "card.json") for name in ("whisper", "beats", "language_model")}
    runs = {name: _read(build / name / "training.json") for name in ("stage1", "model")}
    settings = (build / "model" / "settings.yaml").read_text()
    facts = _read(build / "corpus" / "corpus.json")["corpora"]
    names = list(results["by_set"])
    measures = sorted({key for part in results["by_set"].values() for key in part["scores"]})
    card = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    text = card.format(
        words=len(_vocabulary(build / "corpus" / "asr.jsonl")),
        **cards,
        **runs,
        trained=runs["model"]["trained_parameters"],
        stage1_minutes=runs["stage1"]["seconds"] / 60,
        model_minutes=runs["model"]["seconds"] / 60,
        alignment=settings.split("alignment:")[1].split("prompt_pool")[0].replace("\n", " ").strip(),
        seed=settings.rsplit("seed: ", 1)[1].strip(),
        corpora="\n".join(
            f"| {name} | {row['utterances']:,} | {row['seconds'] / 3600:.2f} |" for name, row in facts.items()
        ),
        sets=" | ".join(names),
        rule="|".join("---" for _ in names),
        scores="\n".join(
            _row(measure, [results["by_set"][name]["scores"] for name in names]) for measure in measures
        ),
        signatures="\n".join(f"* {name}: `{value}`" for name, value in results["signatures"].items()),
    )
    path = build / "model" / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _vocabulary(manifest: Path) -> set[str]:
    """Return the words of a manifest's transcripts."""
    texts = (row["text"] for _, row in read_json_lines(manifest))
    return {word.strip(".,").lower() for text in texts for word in text.split()}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _row(measure: str, parts: list[dict[str, float]]) -> str:
    values = (f"{part[measure]:.2f}" if measure in part else "" for part in parts)
    return f"| {measure} | {' | '.join(values)} |"
