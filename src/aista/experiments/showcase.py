"""What a newcomer reads at the end of the demo: both systems' scores, and one fresh clip translated."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from rich.table import Table

from aista.demo import grammar, speech
from aista.experiments.progress import console

_ROWS = {
    "bleu_zh": "BLEU, speech to Chinese",
    "bleu_ja": "BLEU, speech to Japanese",
    "mt_bleu_zh": "BLEU, text to Chinese (zero-shot)",
    "mt_bleu_ja": "BLEU, text to Japanese (zero-shot)",
    "token_accuracy": "token accuracy, %",
    "log_wasserstein": "log Wasserstein, speech to text",
}


def summarise(results: dict[str, Any], folder: Path) -> None:
    """Print base against AI-STA, and where the rest can be seen."""
    table = Table("", "base", "AI-STA", title="Held-out combinations, held-out speakers, one seed")
    base, aligned = results["systems"]["base"], results["systems"]["ai_sta"]
    for key, title in _ROWS.items():
        table.add_row(title, *(f"{system[key]:.2f}" if key in system else "-" for system in (base, aligned)))
    console.print(table)
    console.print(f"aligned layers {results['selected_layers']}, {results['seconds']['total']:.0f} s in all")
    for warning in results["warnings"]:
        console.print(f"[yellow]{warning}")
    console.print(f"numbers: {folder / 'results.json'}\npage:    {folder / 'report.html'}\n")


def fresh_clip(path: Path, seed: int = 2026) -> str:
    """Say a sentence that no corpus holds in a voice that no training corpus holds; return its text."""
    from aista.audio.files import write_audio

    rng = Random(f"fresh {seed}")
    sentence = grammar.sentences(1, seed, split="test", vocabulary="common")[0]
    samples = speech.utter(sentence.en, speech.draw_voice(rng, speech.TEST_VARIANTS), seed=seed)
    if samples is None:
        return fresh_clip(path, seed + 1)
    write_audio(path, samples)
    return sentence.en


def show_translation(model: str | None, folder: Path) -> None:
    """Translate a fresh clip with a model (None: the shipped one) and print what was said and understood."""
    from aista.inference.translator import load

    path = folder / "fresh.wav"
    said = fresh_clip(path)
    translator = load(model)
    console.rule("[bold]A fresh clip", align="left", style="dim")
    console.print(f"said      {said}   ({path})")
    for code, title in (("en", "English"), ("zh", "Chinese"), ("ja", "Japanese")):
        if not translator.directions or f"en-{code}" in translator.directions:
            console.print(f"{title:<9} {translator.translate(str(path), target=code).text}")
