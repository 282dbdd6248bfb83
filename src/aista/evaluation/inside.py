"""Measures that look inside the model: token accuracy, transport from speech to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aista import ot
from aista.data.dataset import Collator, SpeechDataset
from aista.retrieval import pair_distances
from aista.speech_llm import Batch, SpeechLM
from aista.speech_llm.pairs import paired_states
from aista.text.prompts import plain_ids

_BATCH = 16


@torch.no_grad()
def teacher_forced_accuracy(speech_llm: SpeechLM, dataset: SpeechDataset) -> tuple[int, int]:
    """Return (right target tokens, target tokens) of a model that is shown the right beginning."""
    right = total = 0
    for batch in _batches(speech_llm, dataset, "token accuracy"):
        found: Any = speech_llm.predict(batch).correct
        right += int(found)
        total += batch.num_targets
    return right, total


def transport_costs(
    speech_llm: SpeechLM, dataset: SpeechDataset, layers: Sequence[int]
) -> dict[str, list[float]]:
    """Return log W between the speech and the transcript of every utterance, by layer.

    W is the exact optimal transport cost (Eq. 1) with uniform masses on speech and transcript tokens.

    Returns:
        Layer number (as text) -> one logarithm per utterance.
    """
    costs: dict[str, list[float]] = {str(layer): [] for layer in layers}
    for speech, text in paired_states(speech_llm, dataset, tuple(layers), _BATCH):
        for layer in layers:
            distances = pair_distances(speech[layer], text[layer])
            costs[str(layer)] += np.log(np.maximum(distances, np.finfo(float).tiny)).tolist()
    return costs


@dataclass(frozen=True)
class TransportMap:
    """The optimal transport plan between the windows of a clip and the tokens of its transcript.

    Attributes:
        layer: Where the hidden states were taken.
        tokens: m transcript tokens as text.
        plan: n rows of m numbers: the mass that moves from window i to token j; all sum to 1.
        value: The transport cost W.
    """

    layer: int
    tokens: list[str]
    plan: list[list[float]]
    value: float


def transport_map(speech_llm: SpeechLM, dataset: SpeechDataset, layer: int) -> list[TransportMap]:
    """Return the exact transport plan of every utterance of a (small) dataset at one layer."""
    maps = []
    texts = iter(dataset.utterances())
    for speech, text in paired_states(speech_llm, dataset, (layer,), _BATCH):
        for s, t in zip(speech[layer], text[layer], strict=True):
            solution = ot.solve(ot.squared_euclidean(s, t).numpy())
            tokenizer = speech_llm.batcher.tokenizer
            tokens = [tokenizer.decode([token]) for token in plain_ids(tokenizer, next(texts).text or "")]
            maps.append(TransportMap(layer, tokens, solution.plan.tolist(), solution.value))
    return maps


def _batches(speech_llm: SpeechLM, dataset: SpeechDataset, description: str) -> Iterator[Batch]:
    collator = Collator(speech_llm.batcher)
    starts = range(0, len(dataset), _BATCH)
    for start in tqdm(starts, desc=description, unit="batch"):
        rows = [dataset[i] for i in range(start, min(start + _BATCH, len(dataset)))]
        yield collator(rows)["speech"].to(speech_llm.model.device)
