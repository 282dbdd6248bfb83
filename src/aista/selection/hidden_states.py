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
from rich.progress import track
from torch import Tensor

from aista.data.collate import Collator, SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.model.spans import take_span


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
def extract(model: Any, dataset: SpeechDataset, collator: Collator, folder: Path, batch_size: int) -> None:
    """Write the speech and transcript states of every pair and layer under ``folder``.

    The speech stands before the instruction and attention is causal, so the instruction changes nothing.
    States are kept in float32: bfloat16 loses ranks where a dimension is massive (TRANSPORT.md, E).
    """
    layers = tuple(range(model.config.text_config.num_hidden_layers + 1))
    dim = model.config.text_config.hidden_size
    writers = {
        (side, layer): FeatureStoreWriter(_store(folder, side, layer), dim, dtype="float32")
        for side in ("speech", "text")
        for layer in layers
    }
    model.eval()
    starts = range(0, len(dataset), batch_size)
    for start in track(starts, description="hidden states", total=len(starts)):
        rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        batch = {key: _to(value, model.device) for key, value in collator(rows).items()}
        transcript_mask = batch.pop("transcript_mask")
        text_inputs = batch.pop("transcript_input_ids"), batch.pop("transcript_attention_mask")
        batch.pop("ids", None)
        speech = model(**batch, capture_layers=layers)
        text = model.text_states(*text_inputs, layers)
        for layer in layers:
            _write(writers["speech", layer], start, speech.hidden_states[layer], speech.speech_mask)
            _write(writers["text", layer], start, text[layer], transcript_mask)
    for writer in writers.values():
        writer.close()


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _write(writer: FeatureStoreWriter, start: int, states: Tensor, mask: Tensor) -> None:
    span, span_mask = take_span(states, mask)
    for offset, (rows, keep) in enumerate(zip(span.float().cpu(), span_mask.cpu(), strict=True)):
        writer.add(f"{start + offset}", rows[keep].numpy())


def _store(folder: Path, side: str, layer: int) -> Path:
    return folder / f"layer_{layer:03d}" / side


def layer_states(folder: Path, num_layers: int, num_pairs: int) -> Iterator[LayerStates]:
    """Read the states back, one layer at a time, embedding layer first."""
    for layer in range(num_layers + 1):
        speech, text = (FeatureStore(_store(folder, side, layer)) for side in ("speech", "text"))
        keys = [str(i) for i in range(num_pairs)]
        yield LayerStates(layer, [speech[key] for key in keys], [text[key] for key in keys])
