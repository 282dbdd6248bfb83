"""The stand-in backbones: a Whisper, a BEATs, a Qwen2 and a Llama, all small, each trained from nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aista.data.text_files import read_json_lines
from aista.demo import corpus, grammar
from aista.errors import ConfigError
from tools.standins import loop

NAMES = ("whisper", "language_model", "llama", "beats")


def train(
    name: str,
    folder: Path | str,
    corpora: Path | str,
    scale: corpus.Scale,
    *,
    nano: bool = False,
    progress: loop.Progress | None = None,
) -> dict[str, Any]:
    """Train one stand-in into a folder; a finished one is kept.

    Args:
        name: One of ``NAMES``.
        folder: Where the finished model goes, in one step at the end (``FOLDER.part`` until then).
        corpora: A folder made by ``corpus.build`` with the same scale.
        scale: What the corpora hold.
        nano: A model of a few seconds, for tests.
        progress: Called with (steps done, steps, loss).

    Returns:
        Its card: data, recipe, minutes.

    Raises:
        ConfigError: There is no such stand-in.
        TrainingError: The loss is not finite.
    """
    if name not in NAMES:
        raise ConfigError(f"Unknown stand-in {name!r}.", expected=", ".join(NAMES))
    folder, corpora = Path(folder), Path(corpora)
    if loop.finished(folder):
        return loop.card(folder)
    if name in ("language_model", "llama"):
        from tools.standins import language_model

        return language_model.train(folder, language_model.recipe(name, nano=nano), progress=progress)
    if name == "beats":
        from tools.standins import beats

        recipe = beats.NANO if nano else beats.RECIPE
        return beats.train(folder, beats.examples(corpora, scale, recipe), recipe, progress=progress)
    from tools.standins import whisper

    paths, texts = _transcribed(corpora / "whisper.jsonl")
    features, lengths = whisper.log_mel(paths)
    return whisper.train(
        folder, features, lengths, texts, whisper.NANO if nano else whisper.RECIPE, progress=progress
    )


def _transcribed(manifest: Path) -> tuple[list[Path], list[str]]:
    rows = [row for _, row in read_json_lines(manifest)]
    return [manifest.parent / row["audio"] for row in rows], [row["text"] for row in rows]


def evaluate(name: str, folder: Path | str, corpora: Path | str, *, limit: int = 300) -> dict[str, Any]:
    """Score a stand-in on held-out data and write the scores into its card.

    ``whisper``: WER of the corpus ``whisper_dev`` (held-out speakers, combinations). The language models:
    BLEU of translation and repetition of held-out combinations, greedy. ``beats``: tagging of unseen sounds.

    Raises:
        ConfigError: There is no such stand-in.
    """
    scorers = {
        "whisper": _score_whisper,
        "language_model": _score_language_model,
        "llama": _score_language_model,
        "beats": _score_beats,
    }
    if name not in scorers:
        raise ConfigError(f"Unknown stand-in {name!r}.", expected=", ".join(NAMES))
    scores = scorers[name](Path(folder), Path(corpora), limit)
    card = loop.card(Path(folder)) | {"scores": scores}
    card["evaluated_with"] = "python -m tools.standins evaluate FOLDER CORPUS"
    card["bytes"] = sum(os.path.getsize(path) for path in Path(folder).glob("*"))
    loop.write_card(Path(folder), card)
    return scores


def _score_whisper(folder: Path, corpora: Path, limit: int) -> dict[str, Any]:
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    from aista.evaluation.metrics import wer
    from tools.standins import whisper

    paths, texts = _transcribed(corpora / "whisper_dev.jsonl")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    features, _ = whisper.log_mel(paths[:limit])
    heard = whisper.transcribe(
        model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False), features
    )
    score = wer(heard, texts[:limit], "en")
    return {"wer": round(score.value, 2), "utterances": len(heard), "signature": score.signature}


def _score_language_model(folder: Path, corpora: Path, limit: int) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aista.evaluation.metrics import bleu
    from tools.standins import language_model

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", trust_remote_code=False).eval()
    tokens = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    template = loop.card(folder)["recipe"].get("template", "chatml")
    drawn = grammar.sentences(limit, seed=1_000_003, split="test")
    sources = [sentence.en for sentence in drawn]
    scores: dict[str, Any] = {"sentences": len(drawn)}
    for target in ("zh", "ja"):
        answers = language_model.answer(model, tokens, sources, "st", target, template)
        score = bleu(answers, [getattr(sentence, target) for sentence in drawn], target)
        scores |= {f"mt_bleu_{target}": round(score.value, 2), f"signature_{target}": score.signature}
    repeated = language_model.answer(model, tokens, sources, "asr", "en", template)
    scores["repeat_bleu"] = round(bleu(repeated, sources, "en").value, 2)
    lists = grammar.phrases(limit, seed=1_000_003, split="test")
    repeated = language_model.answer(model, tokens, lists, "asr", "en", template)
    scores["repeat_phrases_exact"] = round(
        sum(a == b for a, b in zip(repeated, lists, strict=True)) / len(lists), 3
    )
    return scores


def _score_beats(folder: Path, corpora: Path, limit: int) -> dict[str, Any]:
    from random import Random

    from tools.standins import beats, sounds

    rng = Random("unseen sounds")
    drawn = [sounds.draw_sound(rng) for _ in range(limit)]
    model = beats.BeatsForAudioTagging.from_pretrained(folder).eval()
    unseen = [beats.example(sound.render(seed=rng.randrange(2**31)), sound.tags) for sound in drawn]
    return {"sounds": limit, **beats.tagging_accuracy(model, unseen)}
