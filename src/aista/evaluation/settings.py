"""Settings of decoding and of ``aista evaluate``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aista.config import Count, Dtype, Layer, Name, PathName, Settings
from aista.inference.answering import GenerationSettings

__all__ = ["BaselineSettings", "EvaluateSettings", "GenerationSettings", "ScoreSettings"]

Measure = Literal["speech", "text_translation", "token_accuracy", "log_wasserstein", "obedience"]


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
            between speech and transcript (the paper's Figure 6). ``obedience``: percent of the answers of
            ``speech`` (``st``, ``asr``) that obey what is said instead of translating it, see
            ``aista.evaluation.metrics.obeys``; for a test set of spoken questions and orders.
        layers: Layers of ``log_wasserstein``: numbers, or the path of a layer report of ``aista select``.
        limit: Rows taken from the head of each manifest; all by default.
        features: Folder of cached encoder outputs, filled where something is missing.
        dtype: Of the frozen weights; None: bfloat16 on a GPU, float32 on a CPU.
        silence_check: Also decode a few clips with their sound taken away: a model that answers the same does
            not hear.
    """

    harmless = frozenset({"output", "features"})
    contents = {"model": "model", "data": "manifest", "layers": "layers"}

    output: PathName
    model: PathName
    data: list[PathName] = Field(min_length=1)
    measures: list[Measure] = Field(
        default=["speech", "text_translation", "token_accuracy", "log_wasserstein"], min_length=1
    )
    layers: list[Layer] | PathName = [0]
    generation: GenerationSettings = GenerationSettings()
    limit: Count | None = None
    features: PathName | None = None
    dtype: Dtype | None = None
    silence_check: bool = True


class ScoreSettings(Settings):
    """Evaluation of any system that turns speech into text: a baseline, a service, somebody else's model.

    Attributes:
        output, data, limit, silence_check: As for ``EvaluateSettings``.
        measures: ``speech``, and ``text_translation`` where the system also takes text; ``obedience``.
    """

    harmless = frozenset({"output"})
    contents = {"data": "manifest"}

    output: PathName
    data: list[PathName] = Field(min_length=1)
    measures: list[Literal["speech", "text_translation", "obedience"]] = Field(
        default=["speech"], min_length=1
    )
    limit: Count | None = None
    silence_check: bool = True


class BaselineSettings(ScoreSettings):
    """Evaluation of a baseline, as one YAML file.

    Attributes:
        baseline: Its name: a module of ``aista.baselines``, or a dotted path.
        options: Its options: ids, revisions, prompts.
        generation: Search settings that differ from its own.
    """

    baseline: Name
    options: dict[str, Any] = {}
    generation: dict[str, Any] = {}
