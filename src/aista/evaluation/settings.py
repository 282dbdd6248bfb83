"""Settings of decoding and of ``aista evaluate``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aista.config import Settings

Measure = Literal["speech", "text_translation", "token_accuracy", "log_wasserstein"]


class GenerationSettings(Settings):
    """How an answer is searched for.

    Attributes:
        num_beams: 1 is greedy search. The paper names none; SALMONN, its base, uses 4.
        max_new_tokens: Longest answer to one segment of audio, in tokens.
        batch_size: Segments decoded at once; it does not change the answers.
        length_penalty, repetition_penalty: As in transformers; they matter with beams only and always.
    """

    num_beams: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=200, ge=1)
    batch_size: int = Field(default=16, ge=1)
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0


class EvaluateSettings(Settings):
    """Evaluation of one model on held-out manifests.

    Attributes:
        output: Folder for ``results.json`` and the hypotheses; an interrupted evaluation goes on there.
        model: Folder of the model.
        data: Manifests; each is a test set of its own, named by the file.
        measures: What is computed. ``speech``: the rows' own tasks, from audio: BLEU and chrF2 (``st``), word
            error rate (``asr``), chrF2 (``aac``). ``text_translation``: the ``st`` rows again with the
            transcript standing where the speech stood, prompt unchanged (the paper's zero-shot MT).
            ``token_accuracy``: teacher-forced. ``log_wasserstein``: mean logarithm of the transport cost
            between speech and transcript (the paper's Figure 6).
        layers: Layers of ``log_wasserstein``: numbers, or the path of a layer report of ``aista select``.
        limit: Rows taken from the head of each manifest; all by default.
        features: Folder of cached encoder outputs, filled where something is missing.
        silence_check: Also decode a few clips with their sound taken away: a model that answers the same does
            not hear.
    """

    output: str
    model: str
    data: list[str] = Field(min_length=1)
    measures: list[Measure] = ["speech", "text_translation", "token_accuracy", "log_wasserstein"]
    layers: list[int] | str = [0]
    generation: GenerationSettings = GenerationSettings()
    limit: int | None = Field(default=None, ge=1)
    features: str | None = None
    silence_check: bool = True
