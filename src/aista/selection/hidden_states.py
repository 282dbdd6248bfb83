"""Hidden states of speech-text pairs at every layer, kept on disk layer by layer.

A layer of 1,000 pairs at d = 3584 is 0.8 GB in float32: all 29 never have to be in memory together. Processes
share the work batch by batch, each into a folder of its own; all of them have to see that folder.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aista import processes
from aista.data.dataset import SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.speech_llm import SpeechLM
from aista.speech_llm.pairs import paired_states

_SIDES = ("speech", "text")


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


def extract(
    speech_llm: SpeechLM, dataset: SpeechDataset, folder: Path, batch_size: int, cloud: str = "span"
) -> None:
    """Write the speech and transcript states of this process's pairs, at every layer, under ``folder``.

    Batches are dealt out whole, so a state does not depend on the number of processes. States are kept in
    float32: bfloat16 loses ranks where a dimension is massive.
    """
    layers, dim = tuple(range(speech_llm.num_layers + 1)), speech_llm.hidden_size
    writers = {
        (side, layer): FeatureStoreWriter(_store(folder, side, layer), dim, dtype="float32")
        for side in _SIDES
        for layer in layers
    }
    starts = range(processes.rank() * batch_size, len(dataset), processes.count() * batch_size)
    batches = paired_states(speech_llm, dataset, layers, batch_size, starts, cloud)
    for start, (speech, text) in zip(starts, batches, strict=True):
        for side, states in zip(_SIDES, (speech, text), strict=True):
            for layer in layers:
                for offset, piece in enumerate(states[layer]):
                    writers[side, layer].add(str(start + offset), piece.numpy())
    for writer in writers.values():
        writer.close()


def _store(folder: Path, side: str, layer: int) -> Path:
    return folder / f"layer_{layer:03d}" / side


def layer_states(folders: Iterable[Path], layers: Iterable[int], num_pairs: int) -> Iterator[LayerStates]:
    """Read the states of some layers back from the folders of all processes, one layer at a time."""
    folders = list(folders)
    for layer in layers:
        speech, text = ([FeatureStore(_store(each, side, layer)) for each in folders] for side in _SIDES)
        yield LayerStates(layer, _in_order(speech, num_pairs), _in_order(text, num_pairs))


def _in_order(stores: list[FeatureStore], num_pairs: int) -> list[np.ndarray]:
    found: Mapping[str, np.ndarray] = ChainMap(*stores)  # type: ignore[arg-type]  # read only
    return [found[str(pair)] for pair in range(num_pairs)]
