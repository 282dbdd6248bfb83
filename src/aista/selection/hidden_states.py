"""Hidden states of speech-text pairs at every layer, kept on disk layer by layer.

A layer of 1,000 pairs at d = 3584 is 0.8 GB in float32: all 29 never have to be in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aista.data.collate import Collator, SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter


@dataclass(frozen=True)
class LayerStates:
    """Hidden states of one layer.

    Attributes:
        layer: Layer number as in ``output_hidden_states``.
        speech: Q arrays (speech tokens, d), float32.
        text: Q arrays (transcript tokens, d), float32.
    """

    layer: int
    speech: list[np.ndarray]
    text: list[np.ndarray]


@torch.no_grad()
def paired_states(
    model: Any, dataset: SpeechDataset, collator: Collator, layers: tuple[int, ...], batch_size: int
) -> Iterator[tuple[dict[int, list[Tensor]], dict[int, list[Tensor]]]]:
    """Yield, batch by batch, the states of speech and of transcript: layer -> one float32 (tokens, d) a pair.

    The speech stands before the instruction and attention is causal, so the instruction changes nothing.

    Args:
        collator: One that encodes transcripts too.
        layers: Numbered as ``output_hidden_states``.
    """
    model.eval()
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc="hidden states", unit="batch"):
        rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        batch = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in collator(rows).items()}
        batch.pop("ids", None)
        mask = batch.pop("transcript_mask")
        ids, attention = batch.pop("transcript_input_ids"), batch.pop("transcript_attention_mask")
        spoken = model(**batch, capture_layers=layers)
        written = model.text_states(ids, attention, layers)
        yield (
            {layer: _pieces(spoken.hidden_states[layer], spoken.speech_mask) for layer in layers},
            {layer: _pieces(written[layer], mask) for layer in layers},
        )


def _pieces(states: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[keep].float().cpu() for row, keep in zip(states, mask, strict=True)]


def extract(model: Any, dataset: SpeechDataset, collator: Collator, folder: Path, batch_size: int) -> None:
    """Write the speech and transcript states of every pair and layer under ``folder``.

    States are kept in float32: bfloat16 loses ranks where a dimension is massive (TRANSPORT.md, E).
    """
    layers = tuple(range(model.config.text_config.num_hidden_layers + 1))
    dim = model.config.text_config.hidden_size
    writers = {
        (side, layer): FeatureStoreWriter(_store(folder, side, layer), dim, dtype="float32")
        for side in ("speech", "text")
        for layer in layers
    }
    count = 0
    for speech, text in paired_states(model, dataset, collator, layers, batch_size):
        for side, states in (("speech", speech), ("text", text)):
            for layer in layers:
                for offset, piece in enumerate(states[layer]):
                    writers[side, layer].add(str(count + offset), piece.numpy())
        count += len(speech[layers[0]])
    for writer in writers.values():
        writer.close()


def _store(folder: Path, side: str, layer: int) -> Path:
    return folder / f"layer_{layer:03d}" / side


def layer_states(folder: Path, num_layers: int, num_pairs: int) -> Iterator[LayerStates]:
    """Read the states back, one layer at a time, embedding layer first."""
    for layer in range(num_layers + 1):
        speech, text = (FeatureStore(_store(folder, side, layer)) for side in ("speech", "text"))
        keys = [str(i) for i in range(num_pairs)]
        yield LayerStates(layer, [speech[key] for key in keys], [text[key] for key in keys])
