"""Stage 2 (paper 4.2): at which layers does speech retrieve its own transcript?"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aista import retrieval
from aista.config import SelectSettings
from aista.data.collate import Collator, SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import ConfigError, ManifestError
from aista.model.feature_cache import cached_features
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.selection.hidden_states import LayerStates, extract, layer_states
from aista.selection.report import LayerReport, LayerRow

REPORT = "layers.json"


def select(settings: SelectSettings) -> LayerReport:
    """Probe a stage-1 model and write ``layers.json`` and ``layers.png`` into the output folder.

    Running it again returns the finished report; hidden states that were extracted before are used again.

    Raises:
        ManifestError: The manifests hold fewer usable pairs than asked for.
    """
    output = Path(settings.output)
    if (output / REPORT).exists():
        report = LayerReport.load(output / REPORT)
        if report.settings_sha256 == settings.sha256():
            return report
        raise ConfigError(
            f"{output} holds a selection made with other settings.",
            advice="Choose another output, or delete it.",
        )
    settings.save(output / "settings.yaml")
    model = AistaForConditionalGeneration.from_pretrained(settings.model).eval()
    processor = AistaProcessor.from_pretrained(settings.model)
    store = cached_features(model, processor, settings.data, settings.features) if settings.features else None
    dataset = SpeechDataset([Manifest(path) for path in settings.data], features=store)
    pairs = dataset.subset(draw_pairs(dataset.utterances(), settings.num_pairs, settings.seed))
    states = output / "states"
    if not (states / "COMPLETE").exists():
        shutil.rmtree(states, ignore_errors=True)
        extract(model, pairs, Collator(processor, transcripts=True), states, settings.batch_size)
        (states / "COMPLETE").touch()
    texts = [utterance.text or "" for utterance in pairs.utterances()]
    layers = layer_states(states, model.config.text_config.num_hidden_layers, settings.num_pairs)
    report = rank_layers(layers, texts, settings, name=settings.model)
    report.plot(output / "layers.png")
    report.save(output / REPORT)
    shutil.rmtree(states)
    return report


def draw_pairs(utterances: Iterable[Utterance], count: int, seed: int) -> list[int]:
    """Draw ``count`` utterances with speech and transcript; a clip that stands in several rows counts once.

    Returns:
        Their positions, in order of appearance.

    Raises:
        ManifestError: There are not enough.
    """
    first: dict[tuple[str | None, float], int] = {}
    for index, row in enumerate(utterances):
        if row.audio is not None and row.text and row.task != "aac":
            first.setdefault((row.audio, row.offset), index)
    if len(first) < count:
        raise ManifestError(
            "Not enough speech-text pairs for layer selection.",
            got=f"{len(first)} different clips with a transcript",
            expected=f"num_pairs = {count}",
            advice="Add manifests, or lower num_pairs (and set threshold_times_chance instead of threshold).",
        )
    return sorted(random.Random(seed).sample(sorted(first.values()), count))


def rank_layers(
    layers: Iterable[LayerStates], texts: Sequence[str], settings: SelectSettings, name: str
) -> LayerReport:
    """Rank every layer's pairs by Wasserstein distance (Eq. 3-5)."""
    chance = retrieval.chance_mrr(len(texts))
    multiple = settings.threshold_times_chance
    threshold = settings.threshold if multiple is None else multiple * chance
    rows = [_rank_layer(states, texts, threshold, settings) for states in layers]
    return LayerReport(
        model=name,
        num_pairs=len(texts),
        threshold=threshold,
        chance_mrr=chance,
        rows=rows,
        settings_sha256=settings.sha256(),
    )


def _rank_layer(
    states: LayerStates, texts: Sequence[str], threshold: float, settings: SelectSettings
) -> LayerRow:
    start = time.perf_counter()
    speech = [torch.from_numpy(array) for array in states.speech]
    text = [torch.from_numpy(array) for array in states.text]
    measure = _decided if settings.mode == "decide" else _exact
    figures = measure(speech, text, texts, threshold)
    return LayerRow(layer=states.layer, seconds=time.perf_counter() - start, **figures)


def _exact(
    speech: list[Tensor], text: list[Tensor], texts: Sequence[str], threshold: float
) -> dict[str, Any]:
    """Rank all pairs; the control gives every clip a wrong text of like length."""
    ranking = retrieval.exact_ranks(speech, text, texts=texts)
    control = retrieval.control_ranks(speech, text)
    return {
        "mrr": ranking.mrr,
        "low": ranking.mrr,
        "high": ranking.mrr,
        "selected": ranking.mrr > threshold,
        "mean_distance": float(ranking.gold.mean()),
        "shuffled_mrr": control.mrr,
        "num_ties": ranking.num_ties,
        "pairs_touched": len(texts) ** 2,
    }


def _decided(
    speech: list[Tensor], text: list[Tensor], texts: Sequence[str], threshold: float
) -> dict[str, Any]:
    """Rank as few pairs as the question "MRR above the threshold?" needs."""
    decision = retrieval.decide_mrr(speech, text, threshold, texts=texts)
    return {
        "mrr": (decision.low + decision.high) / 2,
        "low": decision.low,
        "high": decision.high,
        "selected": decision.selected,
        "mean_distance": float(retrieval.pair_distances(speech, text).mean()),
        "shuffled_mrr": None,
        "num_ties": 0,
        "pairs_touched": decision.pairs_touched,
    }
