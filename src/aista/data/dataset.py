"""The rows of manifests with their sound, as training and evaluation read them, and their batches."""

from __future__ import annotations

import copy
import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from aista.audio.files import load_audio, probe
from aista.data.feature_store import FeatureStore
from aista.data.manifest import Manifest, Utterance
from aista.data.recordings import SoundNames
from aista.data.sampling import LengthGroupedSampler, padding_waste
from aista.data.too_long import LengthReport, TooLong, fit, refuse
from aista.errors import AudioError, ConfigError, CorruptDataError, ManifestError
from aista.text.prompts import SPEECH_SLOT, instruction

logger = logging.getLogger(__name__)

Content = np.ndarray | str
"""float32 samples (n,) at 16 kHz, cached encoder features (frames, D), or the source text of a row of mt."""

_CHARACTERS_PER_SECOND = 15.0  # what a row of text weighs beside rows of sound
_WHOLE = -1  # in place of the number of a piece


class SpeechDataset(Dataset[tuple[Utterance, Content]]):
    """The rows of one or more manifests with their sound.

    Item i is (utterance, content): the utterance with the absolute path of its audio, and its samples, cached
    features or source text.

    Args:
        manifests: What to read, in this order.
        features: Cached encoder features to give in place of samples; a clip without them counts as corrupt.
        sounds: Names of the sounds, which cached features are kept under; by default those of the store.
        max_corrupt_share: Share of the rows that may turn out to be unreadable. Each is logged with its id
            and replaced by the readable row next in length; one more than this share ends the run. 0 (the
            default, and what an evaluation needs) lets the first one raise.
        max_seconds: Longest clip that is taken as it is.
        too_long: What becomes of longer ones (:func:`aista.data.too_long.fit`); each fate is counted in
            ``too_long`` and logged.

    Attributes:
        too_long: What became of rows that were too long; None where ``max_seconds`` is.

    Raises:
        ManifestError: There is no row, or a clip is too long.
        AudioError: A clip cannot be read, or its features were not cached, and none may be corrupt.
        CorruptDataError: More clips are corrupt than allowed.
    """

    def __init__(
        self,
        manifests: Manifest | Sequence[Manifest],
        *,
        features: FeatureStore | None = None,
        sounds: SoundNames | None = None,
        max_corrupt_share: float = 0.0,
        max_seconds: float | None = None,
        too_long: TooLong = "error",
    ) -> None:
        self.manifests = [manifests] if isinstance(manifests, Manifest) else list(manifests)
        self.features = features
        self.sounds = sounds or SoundNames(features.directory if features is not None else None)
        self.max_corrupt_share = max_corrupt_share
        self.too_long: LengthReport | None = None
        self._ends = np.cumsum([len(manifest) for manifest in self.manifests], dtype=np.int64)
        rows = np.arange(self._ends[-1] if len(self._ends) else 0)
        self._take(rows, np.full(len(rows), _WHOLE, dtype=np.int32))
        if max_seconds is not None and len(self):
            self._fit(max_seconds, too_long)
        self._num_rows = len(self)  # of which ``max_corrupt_share`` is: a subset's clips are a part of them
        if not len(self):
            raise ManifestError(
                f"No utterance is shorter than {max_seconds:g} s."
                if len(rows)
                else "There is no utterance to read.",
                got=", ".join(str(manifest.path) for manifest in self.manifests) or "no manifest",
            )

    def _take(self, rows: np.ndarray, pieces: np.ndarray) -> None:
        """Make these rows (numbers over all manifests), or these pieces of them, the dataset's."""
        for derived in ("_measured", "_by_length"):
            self.__dict__.pop(derived, None)
        self._rows, self._pieces = rows, pieces
        # Shared with worker processes: which rows turned out to be corrupt.
        self._corrupt = torch.zeros(len(rows), dtype=torch.uint8).share_memory_()

    def _fit(self, max_seconds: float, too_long: TooLong) -> None:
        """Replace the rows that are too long by what can be used of them, in their place."""
        self.too_long = report = LengthReport(max_seconds)
        longer = np.flatnonzero((self.lengths > max_seconds) & self.has_sound).tolist()
        if not longer:
            return
        if too_long == "error":
            raise refuse(len(longer), self.utterance(longer[0]), self.lengths[longer[0]], max_seconds)
        counts = np.ones(len(self), dtype=np.int64)
        whole = np.ones(len(self), dtype=bool)
        for index in longer:
            utterance = self.utterance(index)
            kept = fit(utterance, max_seconds, too_long)
            report.note(utterance, float(self.lengths[index]), kept)
            counts[index], whole[index] = len(kept), False
        numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._take(np.repeat(self._rows, counts), np.where(np.repeat(whole, counts), _WHOLE, numbers))
        for sentence in report.sentences():
            logger.warning("%s", sentence)

    def __len__(self) -> int:
        return len(self._rows)

    def utterance(self, index: int) -> Utterance:
        """Return the utterance at an index, without its sound."""
        row, piece = int(self._rows[index]), int(self._pieces[index])
        which = int(np.searchsorted(self._ends, row, side="right"))
        manifest = self.manifests[which]
        utterance = manifest[row - int(self._ends[which])]
        if utterance.audio is None:
            return utterance
        utterance = utterance.model_copy(update={"audio": str(manifest.audio_path(utterance))})
        if piece == _WHOLE or self.too_long is None:
            return utterance
        return fit(utterance, self.too_long.max_seconds, "segment")[piece]

    def utterances(self) -> Iterator[Utterance]:
        """Iterate over the utterances, without their sound."""
        return (self.utterance(index) for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Utterance, Content]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.max_corrupt_share <= 0:
            utterance = self.utterance(index)
            return utterance, self._content(utterance)
        item = None if self._corrupt[index] else self._item(index)
        return item or self._replacement(index)

    def _item(self, index: int) -> tuple[Utterance, Content] | None:
        """Return an item, or None where its clip is corrupt: that is counted, and too many end the run."""
        utterance = self.utterance(index)
        try:
            return utterance, self._content(utterance)
        except AudioError as error:
            self._corrupt[index] = 1
            count = self.num_corrupt
            logger.warning("Clip %s is left out (%d so far): %s", utterance.id, count, error)
        if 0 < self.max_corrupt_share * self._num_rows < count:
            some = ", ".join(self.utterance(i).id for i in self.corrupt[:5])
            raise CorruptDataError(
                "Too many clips are corrupt.",
                got=f"{count} of {self._num_rows}: {some}" + (", ..." if count > 5 else ""),
                expected=f"at most {self.max_corrupt_share:.2%}",
                advice="Look at them with `aista data check --decode` and mend them; or begin another run "
                "with a larger max_corrupt_share.",
            )
        return None

    def readable(self, indices: Iterable[int]) -> list[tuple[Utterance, Content]]:
        """Return the items that can be read; the others are logged and left out, not replaced.

        Raises:
            CorruptDataError: More clips are corrupt than ``max_corrupt_share`` allows (where that is not 0).
        """
        return [item for index in indices if (item := self._item(index)) is not None]

    def _content(self, utterance: Utterance) -> Content:
        if utterance.audio is None:
            return utterance.text or ""
        if self.features is None:
            return load_audio(utterance.audio, **utterance.span)
        key = self.feature_key(utterance)
        try:
            return self.features[key]
        except KeyError:
            raise AudioError(
                f"{utterance.audio}: its features are not in {self.features.directory}.",
                got=f"no key {key}",
                advice="It could not be read when they were cached, or was added later: cache them again.",
            ) from None

    @property
    def corrupt(self) -> list[int]:
        """Which items turned out to be corrupt so far, in all worker processes."""
        return self._corrupt.nonzero().flatten().tolist()

    def note_corrupt(self, indices: Iterable[int]) -> None:
        """Count items that another process found to be corrupt."""
        self._corrupt[list(indices)] = 1

    def look_again(self, indices: Iterable[int]) -> None:
        """Read items that an earlier attempt found to be corrupt: they count again unless they were mended.

        Raises:
            CorruptDataError: More clips are corrupt than ``max_corrupt_share`` allows.
        """
        for index in indices:
            self._item(index)

    @property
    def num_corrupt(self) -> int:
        """How many rows turned out to be corrupt so far, in all worker processes."""
        return int(self._corrupt.sum())

    def _replacement(self, index: int) -> tuple[Utterance, Content]:
        """Return the readable row next in length: the same one whenever this index is asked for."""
        by_length, place = self._by_length
        for step in range(1, len(self)):
            other = int(by_length[(int(place[index]) + step) % len(self)])
            if self._corrupt[other] or not self.has_sound[other]:
                continue
            if (item := self._item(other)) is not None:
                return item
        raise CorruptDataError(
            "No clip can be read.", advice="Look at them with `aista data check --decode`."
        )

    @cached_property
    def _measured(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths, numbers of archives, and which rows have sound, in one pass over the rows."""
        lengths = np.empty(len(self))
        archives = np.empty(len(self), dtype=np.int64)
        has_sound = np.empty(len(self), dtype=bool)
        numbers: dict[str, int] = {}
        for index, utterance in enumerate(self.utterances()):
            lengths[index], has_sound[index] = _seconds(utterance), utterance.audio is not None
            archive, inside, _ = (utterance.audio or "").rpartition(".tar/")
            archives[index] = numbers.setdefault(archive, len(numbers)) if inside else -1
        return lengths, archives, has_sound

    @property
    def lengths(self) -> np.ndarray:
        """Length of every item in seconds, from the manifest, or from the file's header. float64 (n,).

        Reading it parses every row, so a bad row shows before training starts.
        """
        return self._measured[0]

    @property
    def archives(self) -> np.ndarray:
        """Number of the tar that every item's sound lies in, -1 for a file by itself: blocks of a sampler."""
        return self._measured[1]

    @property
    def has_sound(self) -> np.ndarray:
        """Whether every item has sound; a text to translate (task mt) has none. bool (n,)."""
        return self._measured[2]

    def account(self) -> dict[str, Any]:
        """Return what was not used as it was: rows that were too long, clips that proved corrupt."""
        long = {} if self.too_long is None else {"too_long": vars(self.too_long)}
        return {"rows": len(self), **long, "corrupt": self.num_corrupt}

    def describe(self, sampler: LengthGroupedSampler) -> str:
        """Say how much is trained on in which batches, and how much of them is padding."""
        hours = self.lengths[self.has_sound].sum() / 3600
        texts = f" and {written:,} texts" if (written := int((~self.has_sound).sum())) else ""
        order = np.random.default_rng(sampler.seed).permutation(len(self))
        random_waste = padding_waste(self.lengths, order, sampler.batch_size)
        return (
            f"{len(self) - written:,} utterances, {hours:,.1f} h{texts}, in batches of {sampler.batch_size} "
            f"of like length: {sampler.padding_waste():.1%} is padding ({random_waste:.1%} in random order)"
        )

    @property
    def sources(self) -> np.ndarray:
        """Number of the manifest that every item is from: groups to weigh in a sampler. int64 (n,)."""
        return np.searchsorted(self._ends, self._rows, side="right")

    @cached_property
    def _by_length(self) -> tuple[np.ndarray, np.ndarray]:
        """The items from short to long, and the place of each among them."""
        order = np.argsort(self.lengths, kind="stable")
        return order, np.argsort(order, kind="stable")

    def subset(self, indices: Iterable[int] | np.ndarray) -> SpeechDataset:
        """Return a dataset of these items, in this order."""
        other = object.__new__(SpeechDataset)
        other.__dict__.update(self.__dict__)
        chosen = np.fromiter(indices, dtype=np.int64)
        other._take(self._rows[chosen], self._pieces[chosen])
        return other

    def use_features(self, store: FeatureStore) -> None:
        """Give cached features in place of samples from now on."""
        self.features, self.sounds = store, SoundNames(store.directory)

    def clips(self) -> SpeechDataset:
        """Return a dataset that holds every clip once, however many rows share it, and no text."""
        return self.without(())

    def without(self, keys: Container[str]) -> SpeechDataset:
        """Return a dataset of the distinct clips whose feature key is not among ``keys``.

        Names of sounds that were not known before are remembered beside the features.
        """
        seen: set[str] = set()
        chosen = []
        for index, utterance in enumerate(self.utterances()):
            if utterance.audio is None:
                continue
            try:
                key = self.feature_key(utterance)
            except AudioError:  # encoding it will say what is wrong with it
                key = f"{utterance.audio}{_span(utterance)}"
            if key not in seen and key not in keys:
                seen.add(key)
                chosen.append(index)
        self.sounds.save()
        return self.subset(chosen)

    def feature_key(self, utterance: Utterance) -> str:
        """Return the name of an utterance's sound in a feature store: its file's content and its span.

        Rows that share a clip (one recording, two target languages) share its features, and a corpus that was
        moved or renamed keeps them.

        Args:
            utterance: One of this dataset, which made its path absolute.

        Raises:
            AudioError: The file cannot be read.
        """
        return self.sounds[utterance.audio or ""] + _span(utterance)


def _span(utterance: Utterance) -> str:
    channel = "" if utterance.channel is None else f"#{utterance.channel}"
    return f"@{utterance.offset!r}+{utterance.duration!r}{channel}"


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
    """Hands the rows of a batch to a model's batcher; may be sent to worker processes.

    Args:
        batcher: Of the model, see ``aista.speech_llm.Batcher``.
        transcripts: Also encode the transcripts, for the text branch of an alignment loss.
        transcript_answers: Let the transcripts be followed by question and answer, as the speech is.
        targets: Encode what should be answered; without it the batch is a question only.
        prompt_pool: Draw one of a task's wordings for every row and epoch, by hash of (seed, epoch, id).
            Without it every row gets the wording that evaluation uses.
        seed: Seed of the draw.
    """

    def __init__(
        self,
        batcher: Any,
        *,
        transcripts: bool = False,
        transcript_answers: bool = False,
        targets: bool = True,
        prompt_pool: bool = False,
        seed: int = 0,
    ) -> None:
        self.batcher = batcher
        self.transcripts, self.transcript_answers, self.targets = transcripts, transcript_answers, targets
        self.prompt_pool, self.seed = prompt_pool, seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # seen by living workers too

    def set_epoch(self, epoch: int) -> None:
        """Draw the prompts of this epoch from now on."""
        self._epoch[0] = epoch

    def in_one_wording(self) -> Collator:
        """Return one that asks every row as evaluation does."""
        other = copy.copy(self)
        other.prompt_pool = False
        return other

    def instruction(self, utterance: Utterance) -> str:
        """Return what is asked of a row: its own prompt, or a wording of its task."""
        if utterance.prompt is not None:
            return utterance.prompt
        draw = f"{self.seed}-{int(self._epoch)}-{utterance.id}" if self.prompt_pool else None
        return instruction(utterance.task, utterance.answer_lang, draw=draw)

    def check(self, *datasets: SpeechDataset) -> None:
        """Demand of every row what a batch will ask of it: a run must not end at a row in its middle.

        Raises:
            ManifestError: Rows lack their target or transcript, their language is unknown, or their prompt
                holds the speech slot; the message names the first.

        Cost:
            A pass over the manifests: no sound is read.
        """
        faults: list[str] = []
        for row in chain.from_iterable(dataset.utterances() for dataset in datasets):
            try:
                if SPEECH_SLOT in self.instruction(row).removeprefix(SPEECH_SLOT):
                    raise ManifestError("The prompt holds the speech slot inside its text.")
                if self.targets:
                    _ = row.target
                if self.transcripts and row.audio is not None:
                    _transcript(row)
            except (ConfigError, ManifestError) as error:
                faults.append(f"{row.id}: {error.what}")
        if faults:
            more = f", ... ({len(faults)} rows in all)" if len(faults) > 5 else ""
            raise ManifestError(
                "Rows cannot be trained on.",
                got="; ".join(faults[:5]) + more,
                advice="Mend them or leave them out: aista data check names each.",
            )

    def __call__(self, items: Sequence[tuple[Utterance, Content]]) -> dict[str, Any]:
        """Return a batch of the rows, and what goes with it.

        Returns:
            ``speech``, the rows, whether sound or a text stands in their slot; ``text``, its rows with sound
            again, with transcripts in the place of sound, or None; ``labels`` of ``speech`` (trainers count
            them); and ``ids``.

        Raises:
            ManifestError: A row lacks its target or its transcript.
        """
        rows, contents = [row for row, _ in items], [content for _, content in items]
        instructions = [self.instruction(row) for row in rows]
        if self.targets:
            speech = self.batcher.training(contents, instructions, [row.target for row in rows])
        else:
            speech = self.batcher.translation(contents, instructions)
        text = None
        spoken = [row for row in rows if row.audio is not None]  # a row of mt has nothing to be aligned
        if self.transcripts and spoken:
            transcripts = [_transcript(row) for row in spoken]
            text = self.batcher.written(speech, transcripts, whole=self.transcript_answers)
        return {"speech": speech, "text": text, "labels": speech.labels, "ids": [row.id for row in rows]}


def _transcript(utterance: Utterance) -> str:
    if not utterance.text:
        raise ManifestError(
            f"Utterance {utterance.id!r} has no transcript.", advice="Aligning speech with text needs both."
        )
    return utterance.text
