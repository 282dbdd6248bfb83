"""From rows to batches: utterances with their sound, and a collator that hands them to the processor."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from aista.audio.files import load_audio, probe
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.data.feature_store import FeatureStore
from aista.data.manifest import Manifest, Utterance
from aista.errors import AudioError, ManifestError, ModelInputError, TrainingError
from aista.text.prompts import instruction

logger = logging.getLogger(__name__)

Content = np.ndarray | str
"""float32 samples (n,) at 16 kHz, cached encoder features (frames, D), or the source text of a row of mt."""

_CHARACTERS_PER_SECOND = 15.0  # what a row of text weighs beside rows of sound


def feature_key(utterance: Utterance) -> str:
    """Return the name of an utterance's sound in a feature store: its file and its span, not its row.

    Rows that share a clip (one recording, two target languages) share its features. The utterance must come
    from a :class:`SpeechDataset`, which makes its path absolute.
    """
    return f"{utterance.audio}@{utterance.offset!r}+{utterance.duration!r}"


class SpeechDataset(Dataset[tuple[Utterance, Content]]):
    """The rows of one or more manifests with their sound.

    Item i is (utterance, content): the utterance with the absolute path of its audio, and its samples, cached
    features or source text.

    Args:
        manifests: What to read, in this order.
        features: Cached encoder features to give in place of samples; a clip without them counts as corrupt.
        max_corrupt_share: Share of the rows that may turn out to be unreadable. Each is logged with its id
            and replaced by the readable row next in length; one more than this share ends the run. 0 (the
            default, and what an evaluation needs) lets the first one raise.
        max_seconds: Longest clip that is taken.
        too_long: Whether a longer one is an error, or skipped and counted in the log.

    Raises:
        ManifestError: There is no row, or a clip is too long.
        AudioError: A clip cannot be read, or its features were not cached, and none may be corrupt.
        TrainingError: More clips are corrupt than allowed.
    """

    def __init__(
        self,
        manifests: Manifest | Sequence[Manifest],
        *,
        features: FeatureStore | None = None,
        max_corrupt_share: float = 0.0,
        max_seconds: float | None = None,
        too_long: Literal["error", "skip"] = "error",
    ) -> None:
        self.manifests = [manifests] if isinstance(manifests, Manifest) else list(manifests)
        self.features = features
        self.max_corrupt_share = max_corrupt_share
        self._folders = [os.path.abspath(manifest.path.parent) for manifest in self.manifests]
        self._ends = np.cumsum([len(manifest) for manifest in self.manifests], dtype=np.int64)
        self._take(np.arange(self._ends[-1] if len(self._ends) else 0))
        if len(self) == 0:
            names = ", ".join(str(manifest.path) for manifest in self.manifests)
            raise ManifestError("There is no utterance to read.", got=names or "no manifest")
        if max_seconds is not None:
            self._take(self._rows[self._short_enough(max_seconds, too_long)])

    def _take(self, rows: np.ndarray) -> None:
        """Make these rows (numbers over all manifests) the dataset's."""
        for derived in ("lengths", "_by_length", "_place"):
            self.__dict__.pop(derived, None)
        self._rows = rows
        # Shared with worker processes: which rows turned out to be corrupt.
        self._corrupt = torch.zeros(len(rows), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self._rows)

    def utterance(self, index: int) -> Utterance:
        """Return the utterance at an index, without its sound."""
        row = int(self._rows[index])
        which = int(np.searchsorted(self._ends, row, side="right"))
        utterance = self.manifests[which][row - int(self._ends[which])]
        if utterance.audio is None:
            return utterance
        path = os.path.normpath(os.path.join(self._folders[which], utterance.audio))
        return utterance.model_copy(update={"audio": path})

    def utterances(self) -> Iterator[Utterance]:
        """Iterate over the utterances, without their sound."""
        return (self.utterance(index) for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Utterance, Content]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        utterance = self.utterance(index)
        if self.max_corrupt_share <= 0:
            return utterance, self._content(utterance)
        if not self._corrupt[index]:
            try:
                return utterance, self._content(utterance)
            except AudioError as error:
                self._note_corrupt(index, utterance, error)
        return self._replacement(index)

    def readable(self, indices: Iterable[int]) -> list[tuple[Utterance, Content]]:
        """Return the items that can be read; the others are logged and left out, not replaced.

        Raises:
            TrainingError: More clips are corrupt than ``max_corrupt_share`` allows (where that is not 0).
        """
        items = []
        for index in indices:
            utterance = self.utterance(index)
            try:
                items.append((utterance, self._content(utterance)))
            except AudioError as error:
                self._note_corrupt(index, utterance, error)
        return items

    def _content(self, utterance: Utterance) -> Content:
        if utterance.audio is None:
            return utterance.text or ""
        if self.features is None:
            return load_audio(
                utterance.audio, offset_seconds=utterance.offset, duration_seconds=utterance.duration
            )
        try:
            return self.features[feature_key(utterance)]
        except KeyError:
            raise AudioError(
                f"{utterance.audio}: its features are not in {self.features.directory}.",
                got=f"no key {feature_key(utterance)}",
                advice="It could not be read when they were cached, or was added later: cache them again.",
            ) from None

    def _note_corrupt(self, index: int, utterance: Utterance, error: AudioError) -> None:
        """Count a corrupt clip, log it, and end the run when there are too many."""
        self._corrupt[index] = 1
        count = self.num_corrupt
        logger.warning("Clip %s is left out (%d so far): %s", utterance.id, count, error)
        if 0 < self.max_corrupt_share * len(self) < count:
            some = ", ".join(self.utterance(i).id for i in self._corrupt.nonzero().flatten()[:5].tolist())
            raise TrainingError(
                "Too many clips are corrupt.",
                got=f"{count} of {len(self)}: {some}" + (", ..." if count > 5 else ""),
                expected=f"at most {self.max_corrupt_share:.2%}",
                advice="Look at them with `aista data check --decode`, or raise max_corrupt_share.",
            )

    @property
    def num_corrupt(self) -> int:
        """How many rows turned out to be corrupt so far, in all worker processes."""
        return int(self._corrupt.sum())

    def _replacement(self, index: int) -> tuple[Utterance, Content]:
        """Return the readable row next in length: the same one whenever this index is asked for."""
        place = int(self._place[index])
        for step in range(1, len(self)):
            other = int(self._by_length[(place + step) % len(self)])
            utterance = self.utterance(other)
            if self._corrupt[other] or utterance.audio is None:
                continue
            try:
                return utterance, self._content(utterance)
            except AudioError as error:
                self._note_corrupt(other, utterance, error)
        raise TrainingError("No clip can be read.", advice="Look at them with `aista data check --decode`.")

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of every item in seconds, from the manifest, or from the file's header. float64 (n,).

        Reading it parses every row, so a bad row shows before training starts.
        """
        return np.array([_seconds(utterance) for utterance in self.utterances()], dtype=np.float64)

    @property
    def sources(self) -> np.ndarray:
        """Number of the manifest that every item is from: groups to weigh in a sampler. int64 (n,)."""
        return np.searchsorted(self._ends, self._rows, side="right")

    @cached_property
    def _by_length(self) -> np.ndarray:
        return np.argsort(self.lengths, kind="stable")

    @cached_property
    def _place(self) -> np.ndarray:
        return np.argsort(self._by_length, kind="stable")

    def _short_enough(self, max_seconds: float, too_long: str) -> np.ndarray:
        """Return a mask of the rows within ``max_seconds``; say how many are not, or refuse them."""
        longer = np.flatnonzero(self.lengths > max_seconds)
        if len(longer):
            example = f"e.g. {self.utterance(int(longer[0])).id!r}: {self.lengths[longer[0]]:.1f} s"
            if too_long == "error":
                raise ManifestError(
                    f"{len(longer)} clips are too long.",
                    got=example,
                    expected=f"at most {max_seconds:g} s",
                    advice="Set too_long to 'skip', or cut them.",
                )
            logger.warning("%d clips longer than %g s are skipped, %s.", len(longer), max_seconds, example)
        return self.lengths <= max_seconds

    def subset(self, indices: Iterable[int] | np.ndarray) -> SpeechDataset:
        """Return a dataset of these items, in this order."""
        other = object.__new__(SpeechDataset)
        other.__dict__.update(self.__dict__)
        other._take(self._rows[np.fromiter(indices, dtype=np.int64)])
        return other

    def clips(self) -> SpeechDataset:
        """Return a dataset that holds every clip once, however many rows share it, and no text."""
        return self.without(())

    def without(self, keys: Container[str]) -> SpeechDataset:
        """Return a dataset of the distinct clips whose feature key is not among ``keys``."""
        seen: set[str] = set()
        chosen = []
        for index, utterance in enumerate(self.utterances()):
            key = feature_key(utterance)
            if utterance.audio is not None and key not in seen and key not in keys:
                seen.add(key)
                chosen.append(index)
        return self.subset(chosen)


def _seconds(utterance: Utterance) -> float:
    if utterance.audio is None:
        return len(utterance.text or "") / _CHARACTERS_PER_SECOND
    if utterance.duration is not None:
        return utterance.duration
    try:
        return max(0.0, probe(utterance.audio).duration_seconds - utterance.offset)
    except AudioError:
        return 0.0  # reading it will say what is wrong with it


class Collator:
    """Hands the rows of a batch to the processor; may be sent to worker processes.

    Args:
        processor: Called as ``AistaProcessor`` is.
        transcripts: Also encode the transcripts, for the text branch of an alignment loss.
        targets: Encode what should be answered; without it the batch is a question only.
        prompt_pool: Draw one of a task's wordings for every row and epoch, by hash of (seed, epoch, id).
            Without it every row gets the wording that evaluation uses.
        seed: Seed of the draw.
    """

    def __init__(
        self,
        processor: Any,
        *,
        transcripts: bool = False,
        targets: bool = True,
        prompt_pool: bool = False,
        seed: int = 0,
    ) -> None:
        self.processor = processor
        self.transcripts, self.targets = transcripts, targets
        self.prompt_pool, self.seed = prompt_pool, seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # seen by living workers too

    def set_epoch(self, epoch: int) -> None:
        """Draw the prompts of this epoch from now on."""
        self._epoch[0] = epoch

    def instruction(self, utterance: Utterance) -> str:
        """Return what is asked of a row: its own prompt, or a wording of its task."""
        if utterance.prompt is not None:
            return utterance.prompt
        draw = f"{self.seed}-{int(self._epoch)}-{utterance.id}" if self.prompt_pool else None
        return instruction(utterance.task, utterance.answer_lang, draw=draw)

    def __call__(self, items: Sequence[tuple[Utterance, Content]]) -> dict[str, Any]:
        """Return the processor's batch, plus ``ids``.

        Raises:
            ManifestError: A row lacks its target or its transcript.
            ModelInputError: Sound, features and text are mixed in one batch.
        """
        rows = [utterance for utterance, _ in items]
        batch = self.processor(
            text=[self.instruction(row) for row in rows],
            targets=[row.target for row in rows] if self.targets else None,
            transcripts=[_transcript(row) for row in rows] if self.transcripts else None,
            **_slot([content for _, content in items]),
        )
        return {**batch, "ids": [row.id for row in rows]}


def _slot(contents: list[Content]) -> dict[str, Any]:
    """Return the processor's arguments for what stands in the speech slot."""
    kinds = {"text" if isinstance(content, str) else content.ndim for content in contents}
    if len(kinds) > 1:
        raise ModelInputError(
            "A batch mixes sound and text.",
            advice="Keep rows of task mt in a manifest of their own, apart from rows with audio.",
        )
    if kinds == {"text"}:
        return {"source_text": contents}
    if kinds == {1}:
        return {"audio": contents, "sampling_rate": SAMPLE_RATE_HZ}
    # Whole windows of frames were cached: their number says how many samples they stand for.
    return {"features": contents, "num_samples": [len(content) * SAMPLES_PER_FRAME for content in contents]}


def _transcript(utterance: Utterance) -> str:
    if not utterance.text:
        raise ManifestError(
            f"Utterance {utterance.id!r} has no transcript.", advice="Aligning speech with text needs both."
        )
    return utterance.text
