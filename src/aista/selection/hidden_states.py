"""Hidden states of speech-text pairs at every layer, kept on disk layer by layer.

A layer of 1,000 pairs at d = 3584 is 0.8 GB in float32: all 29 never have to be in memory together. Processes
share the work batch by batch, each into a folder of its own; all of them have to see that folder. A run that
was interrupted goes on after its last whole batch.
"""

from __future__ import annotations

import json
import logging
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from aista import processes
from aista.data.dataset import SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.errors import AistaError, ModelInputError
from aista.files import write_whole
from aista.speech_llm import Batch, SpeechLM
from aista.speech_llm.pairs import compared, paired_batches, states_of

logger = logging.getLogger(__name__)

_SIDES = ("speech", "text")
_IN_SPAN = "in_span"
# What a clip can make its reader or its model's processor raise.
_FAULTS = (AistaError, ValueError, RuntimeError)


@dataclass(frozen=True)
class LayerStates:
    """Hidden states of one layer.

    Attributes:
        layer: Layer number as in ``output_hidden_states``.
        speech: Q arrays (speech tokens, d), float32.
        text: Q arrays (transcript tokens, d), float32.
        depth: The layer's number divided by the last layer's.
    """

    layer: int
    speech: list[np.ndarray]
    text: list[np.ndarray]
    depth: float = 0.0


class Extraction:
    """Brings the hidden states of pairs to disk, and reads them back.

    Args:
        speech_llm: The model.
        dataset: The pairs: rows with sound and transcript.
        folder: Of the states; each process has a folder of its own in it.
        cloud: ``span``; or ``sequence``, and then both clouds can be read.
        before: Ids that stand before the speech in place of the model's own prompt.
    """

    def __init__(
        self,
        speech_llm: SpeechLM,
        dataset: SpeechDataset,
        folder: Path,
        cloud: str = "span",
        before: Sequence[int] | None = None,
    ) -> None:
        self.speech_llm, self.dataset, self.cloud, self.before = speech_llm, dataset, cloud, before
        self._folders = [folder / f"{rank}_of_{processes.count()}" for rank in range(processes.count())]
        self._own = self._folders[processes.rank()]

    def run(self, batch_size: int) -> dict[int, str]:
        """Write the states of this process's pairs at every layer, and wait for the others.

        Batches are dealt out whole, so a state does not depend on the number of processes. States are kept
        as exactly as they were computed: in float32, or in bfloat16 where the decoder computes in it.

        Returns:
            Pairs that could not be used, by position, and why: sound that cannot be read or that the model
            does not take, a side without tokens, states that are not finite.
        """
        layers = range(self.speech_llm.num_layers + 1)
        self.speech_llm.model.eval()
        finished, failed = self._own / "finished", self._own / "failed.jsonl"
        starts = range(processes.rank() * batch_size, len(self.dataset), processes.count() * batch_size)
        known = set(finished.read_text().split()) if finished.exists() else set()
        failures = _failures(failed)  # of an earlier attempt: they may have been mended
        with ExitStack() as stack:

            def writer(name: str, dim: int, dtype: str) -> FeatureStoreWriter:
                return stack.enter_context(FeatureStoreWriter(self._own / name, dim, dtype=dtype))

            writers = {
                (side, layer): writer(_store(side, layer), self.speech_llm.hidden_size, self._dtype)
                for side in _SIDES
                for layer in layers
            }
            marks = {side: writer(f"{_IN_SPAN}/{side}", 1, "float16") for side in _SIDES}
            bar = tqdm(starts, desc="hidden states", unit="batch", disable=not processes.is_main())
            for start in bar:
                numbers = range(start, min(start + batch_size, len(self.dataset)))
                label = f"{numbers.start}:{numbers.stop}"
                due = [pair for pair in numbers if label not in known or pair in failures]
                if not due:
                    continue
                faults: dict[int, str] = {}
                good, batches = self._prepared(due, faults)
                if batches is not None:
                    spoken, written = states_of(self.speech_llm, batches, layers, self.cloud)
                    for place, pair in enumerate(good):
                        pieces = {("speech", k): spoken[k][place] for k in layers}
                        pieces |= {("text", k): written[k][place] for k in layers}
                        wrong = [layer for (_, layer), x in pieces.items() if not torch.isfinite(x).all()]
                        if wrong:
                            faults[pair] = f"states at layer {min(wrong)} are not finite"
                            continue
                        for key, piece in pieces.items():
                            writers[key].add(str(pair), piece.numpy())
                        for side, batch in zip(_SIDES, batches, strict=True):
                            kept = compared(batch, self.cloud)[place]
                            marks[side].add(str(pair), batch.span[place][kept][:, None].float().numpy())
                for pair, why in faults.items():
                    logger.warning("Clip %s is left out: %s", self.dataset.utterance(pair).id, why)
                for each in (*writers.values(), *marks.values()):
                    each.flush()
                failures = {pair: why for pair, why in failures.items() if pair not in due} | faults
                if failures or failed.exists():
                    write_whole(failed, "".join(json.dumps(row) + "\n" for row in failures.items()))
                with finished.open("a", encoding="utf-8") as file:  # last: these pairs are done
                    file.write(f"{label}\n")
        processes.wait()
        return self.failed

    def estimate(self, batch_size: int) -> tuple[float, float]:
        """Return bytes: of all states on disk, and of one layer in memory, from a batch of pairs.

        Raises:
            ModelInputError: Not one pair can be used.
        """
        lengths, texts = self.dataset.lengths, [row.text or "" for row in self.dataset.utterances()]
        faults: dict[int, str] = {}
        for start in range(0, len(self.dataset), batch_size):
            numbers = range(start, min(start + batch_size, len(self.dataset)))
            good, batches = self._prepared(numbers, faults)
            if batches is not None:
                break
        else:
            raise ModelInputError("No clip can be used with this model.", got=next(iter(faults.values())))
        spoken, written = (sum(row.stop - row.start for row in batch.rows()) for batch in batches)
        tokens = spoken * lengths.sum() / max(lengths[good].sum(), 1e-3)
        tokens += written * sum(map(len, texts)) / sum(len(texts[pair]) for pair in good)
        if self.cloud == "sequence":
            tokens += 2 * batches[0].rows()[0].start * len(texts)
        layer = float(4 * tokens * self.speech_llm.hidden_size)
        return layer * (self.speech_llm.num_layers + 1) / (2 if self._dtype == "bfloat16" else 1), layer

    def tokens(self, pair: int) -> tuple[list[int], list[int]]:
        """Return the ids that stand before a pair's span, and those of its transcript."""
        _, batches = self._prepared([pair], {})
        assert batches is not None
        (row,) = batches[1].rows()
        return row.prompt[: row.start], row.prompt[row.start : row.stop]

    @property
    def _dtype(self) -> str:
        types = {p.dtype for p in self.speech_llm.decoder.module.parameters() if p.is_floating_point()}
        return "bfloat16" if types == {torch.bfloat16} else "float32"

    @property
    def failed(self) -> dict[int, str]:
        """Pairs of all processes that could not be used, and why."""
        every = (_failures(folder / "failed.jsonl").items() for folder in self._folders)
        return dict(sorted(row for rows in every for row in rows))

    def _prepared(
        self, numbers: Sequence[int], faults: dict[int, str]
    ) -> tuple[list[int], tuple[Batch, Batch] | None]:
        """Make the batches of some pairs; those that cannot be used are noted and left out."""
        items = {}
        for pair in numbers:
            try:
                items[pair] = self.dataset[pair]
            except _FAULTS as error:
                faults[pair] = _first_line(error)

        def make(pairs: Sequence[int]) -> tuple[Batch, Batch]:
            return paired_batches(self.speech_llm.batcher, [items[pair] for pair in pairs], self.before)

        try:
            if items and _all_have_tokens(batches := make(list(items))):
                return list(items), batches
        except _FAULTS:
            pass
        for pair in list(items):
            try:
                if _all_have_tokens(make([pair])):
                    continue
                faults[pair] = "a side has no token"
            except _FAULTS as error:
                faults[pair] = _first_line(error)
            del items[pair]
        return list(items), make(list(items)) if items else None

    def layers(self, layers: Iterable[int], cloud: str) -> Iterator[LayerStates]:
        """Read some layers back, one at a time; pairs that failed are not among them.

        Args:
            cloud: The one that was written, or ``span``.
        """
        failed = self.failed
        pairs = [pair for pair in range(len(self.dataset)) if pair not in failed]
        marks = [self._in_order(f"{_IN_SPAN}/{side}", pairs) for side in _SIDES]
        for layer in layers:
            sides = [self._in_order(_store(side, layer), pairs) for side in _SIDES]
            if cloud != self.cloud:
                sides = [
                    [x[mark[:, 0] > 0] for x, mark in zip(side, marks_of_side, strict=True)]
                    for side, marks_of_side in zip(sides, marks, strict=True)
                ]
            yield LayerStates(layer, sides[0], sides[1], layer / self.speech_llm.num_layers)

    def _in_order(self, name: str, pairs: list[int]) -> list[np.ndarray]:
        stores = [FeatureStore(folder / name) for folder in self._folders]
        found: Mapping[str, np.ndarray] = ChainMap(*stores)  # type: ignore[arg-type]  # read only
        return [found[str(pair)] for pair in pairs]


def _failures(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    return dict(json.loads(line) for line in path.read_text().split("\n") if line)


def _store(side: str, layer: int) -> str:
    return f"layer_{layer:03d}/{side}"


def _all_have_tokens(batches: tuple[Batch, Batch]) -> bool:
    return all(bool(batch.span.any(1).all()) for batch in batches)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
