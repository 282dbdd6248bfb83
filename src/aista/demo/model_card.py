"""The card of the shipped model: what it is, what it was made from, how good it is, what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CARD = """# The small model that aista ships

English speech into Chinese, Japanese and English text. It is there so that everything can be tried in minutes on a laptop; it knows
{words} English words and the voices of a speech synthesiser. Do not use it for real speech.

| part | class | parameters |
|---|---|---|
| speech encoder | Whisper, {whisper[encoder_parameters]:,} of them in the encoder | {whisper[parameters]:,} |
| audio encoder | BEATs | {beats[parameters]:,} |
| backbone | Qwen2 | {language_model[parameters]:,} |
| trained here: window Q-Former, projection, LoRA | | {trained:,} |

## Data

Everything is synthetic: sentences of one grammar in three languages, spoken by espeak-ng (60 training voices, others for testing), with
noise; sounds with captions. An eighth of the word pairs occurs only in the test sets; `test_rare` has at least one word in every
sentence that never occurs in speech-translation training.

| corpus | utterances | hours |
|---|---|---|
{corpora}

## Training

Stage 1 (recognition and captions): {stage1[steps]:,} steps, {stage1_minutes:.0f} minutes. Then translation and recognition together:
{model[steps]:,} steps, {model_minutes:.0f} minutes; alignment: {alignment}. Two CPU cores, seed {seed}. Made again by `aista demo build`.

## Scores on held-out combinations and speakers

| | {sets} |
|---|{rule}|
{scores}

{signatures}

Stand-in backbones on their own: Whisper {whisper[scores][wer]} % word error rate; language model, text to text,
{language_model[scores][mt_bleu_zh]} BLEU (zh) and {language_model[scores][mt_bleu_ja]} BLEU (ja-mecab); BEATs
{beats[scores][mean_average_precision]} mean average precision of tags.

## Licence

The weights are Apache-2.0 like the code. The audio they were trained on was synthesised by espeak-ng, whose program is GPL-3; no part of
that program is contained here.
"""


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
    text = _CARD.format(
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
    texts = (json.loads(line)["text"] for line in manifest.read_text(encoding="utf-8").splitlines())
    return {word.strip(".,").lower() for text in texts for word in text.split()}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _row(measure: str, parts: list[dict[str, float]]) -> str:
    values = (f"{part[measure]:.2f}" if measure in part else "" for part in parts)
    return f"| {measure} | {' | '.join(values)} |"
