"""Recordings of any length through anything that turns a few seconds of speech into text.

A :class:`SpeechTranslator` says how much it hears at once and answers pieces of sound; reading files,
cutting, batching, joining and warning are the same for all: our models, SALMONN, Qwen2-Audio, a cascade.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from aista.audio.files import MAX_MINUTES, AudioSource, Recording, read_audio
from aista.audio.offset import offset_of, told_offset, without_offset
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.audio.segments import Segment, segment
from aista.errors import AistaError, AudioError, ConfigError, ModelInputError
from aista.inference.answering import Answer, GenerationSettings
from aista.text.languages import language

Sound = AudioSource | np.ndarray | Recording
"""What can be translated: a path, the bytes of a file, a stream, float samples (n,) at 16 kHz, or a recording
that was read before (:func:`aista.audio.files.read_audio`)."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        task: ``st`` translation, ``asr`` transcription, ``aac`` a caption.
        source: ISO code of the spoken language.
        target: ISO code of the language of the answer.
        prompt: An instruction in place of the system's own, for systems that take one (our models do).
    """

    task: str
    source: str
    target: str
    prompt: str | None = None


@dataclass(frozen=True)
class TranslatedSegment:
    """A stretch of the recording and its text.

    Attributes:
        start_seconds, end_seconds: Where it lies in the recording.
        text: Its translation; empty where it is silent.
        silent: Whether nothing in it reaches -60 dBFS.
    """

    start_seconds: float
    end_seconds: float
    text: str
    silent: bool = False


@dataclass(frozen=True)
class Translation:
    """What a model made of one recording.

    Attributes:
        text: The whole text.
        segments: Its pieces, in order; together they cover the recording. Times are those of the file: the
            sound of a video may begin later than its picture.
        source: Where the sound came from.
        language: ISO code of the text.
        task: ``st`` or ``asr``.
        duration_seconds: Length of the recording.
        model: Which model translated.
        settings: How it searched.
        warnings: What a reader of the text should know: silence, an answer that was cut, a clip too short.
    """

    text: str
    segments: tuple[TranslatedSegment, ...]
    source: str
    language: str
    task: str
    duration_seconds: float
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass
class _Recording:
    """A recording on its way through the model."""

    source: str
    heard: Recording
    segments: list[Segment]
    answers: list[Answer | None]

    @property
    def is_complete(self) -> bool:
        return all(a is not None or s.silent for a, s in zip(self.answers, self.segments, strict=True))

    @property
    def error(self) -> str | None:
        return next((answer.error for answer in self.answers if answer and answer.error), None)


class SpeechTranslator(ABC):
    """Anything that turns sound into text.

    A subclass answers pieces of at most ``longest_seconds``; everything else is here.

    Attributes:
        name: What to call it in results.
        generation: How it searches.
        tasks: What it can be asked for.
        reads_text: Whether :meth:`answer_texts` is there.
        zero_shot: Whether it is evaluated beyond its directions too, with a warning.
        max_minutes: Longest recording that is read.
        shortest_samples: A recording with fewer is warned of; 0: none is too short.
    """

    name: str = ""
    generation: GenerationSettings = GenerationSettings()
    tasks: frozenset[str] = frozenset({"st", "asr"})
    reads_text: bool = False
    zero_shot: bool = False
    max_minutes: float = MAX_MINUTES
    shortest_samples: int = 0

    @property
    @abstractmethod
    def longest_seconds(self) -> float:
        """How much it hears at once, in seconds."""

    def pieces(self, samples: np.ndarray) -> list[Segment]:
        """Cut a recording (n,) into what it hears at once, at quiet places; nothing is left out."""
        return segment(samples, max_seconds=self.longest_seconds)

    @abstractmethod
    def answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        """Answer pieces of sound, one text each, in order.

        Args:
            pieces: float32 (n,) each, 16 kHz, none longer than ``longest_seconds``.
            request: What is asked of all of them.
        """

    def answer_texts(self, texts: Sequence[str], request: Request) -> list[Answer]:
        """Answer texts in place of sound, where ``reads_text``.

        Raises:
            ModelInputError: It takes only sound.
        """
        raise ModelInputError(f"{self.name} takes only sound.")

    @property
    def directions(self) -> tuple[str, ...]:
        """What it was made for, e.g. ``("en-zh", "en-en")``; empty where it does not say."""
        return ()

    def check(self, request: Request) -> None:
        """Refuse what this cannot answer.

        Raises:
            ConfigError: It was not made for this task or direction, or a language is unknown.
        """
        language(request.source), language(request.target)
        known = self.directions
        source, target = request.source, request.target
        if request.task not in self.tasks or (known and f"{source}-{target}" not in known):
            asked = f"{source}-{target}" if request.task == "st" else f"{request.task} of {source}"
            asked = f"transcription of {source}" if request.task == "asr" else asked
            raise ConfigError(
                f"The model {self.name} was not trained for {asked}.",
                got=f"{source} -> {target}",
                expected=", ".join(known or sorted(self.tasks)),
                advice="Choose one of these, or a model that knows the language.",
            )

    @overload
    def translate(self, audio: Sound, target: str, *, source: str = "en") -> Translation: ...
    @overload
    def translate(
        self, audio: list[Sound] | tuple[Sound, ...], target: str, *, source: str = "en"
    ) -> list[Translation]: ...
    def translate(self, audio, target, *, source="en"):
        """Translate one recording or several.

        Args:
            audio: A path, bytes, stream or 16 kHz samples (n,) - or a list of these. Any length: what is
                longer than the model hears at once is cut at quiet places and nothing is left out.
            target: ISO code of the language to translate into; the source language itself transcribes.
            source: ISO code of the spoken language.

        Returns:
            A translation, or a list of them for a list.

        Raises:
            AudioError: A recording cannot be read.
            ConfigError: The model was not trained for this direction.
            ModelInputError: The model failed on a recording.
        """
        several = isinstance(audio, list | tuple)
        results = []
        for result in self.stream(audio if several else [audio], target, source=source):
            if isinstance(result, AistaError):
                raise result
            results.append(result)
        return results if several else results[0]

    def transcribe(self, audio: Any, *, source: str = "en") -> Any:
        """Write down what is said, in its own language; arguments and results as of :meth:`translate`."""
        return self.translate(audio, source, source=source)

    def stream(
        self, sounds: Iterable[Sound], target: str, *, source: str = "en"
    ) -> Iterator[Translation | AistaError]:
        """Translate many recordings; each result, or the error that stands for it, comes in order.

        Segments of neighbouring recordings share batches; no more than a batch of them is held.

        Raises:
            ConfigError: The model was not trained for this direction.
        """
        request = Request("asr" if target == source else "st", source, target)
        self.check(request)
        waiting: list[_Recording | AistaError] = []
        batch: list[tuple[_Recording, int, np.ndarray]] = []
        for sound in sounds:
            try:
                heard, name = listen(sound, max_minutes=self.max_minutes)
            except AudioError as error:
                waiting.append(error)
                yield from self._completed(waiting, request)
                continue
            samples = heard.samples
            pieces = self.pieces(samples)
            recording = _Recording(name, heard, pieces, [None] * len(pieces))
            waiting.append(recording)
            for index, piece in enumerate(pieces):
                if not piece.silent:
                    batch.append((recording, index, samples[piece.start_sample : piece.end_sample]))
                if len(batch) == self.generation.batch_size:
                    self._ask(batch, request)
            yield from self._completed(waiting, request)
        self._ask(batch, request)
        yield from self._completed(waiting, request)

    def _ask(self, batch: list[tuple[_Recording, int, np.ndarray]], request: Request) -> None:
        """Answer the gathered segments and empty the batch."""
        answers = self.answer([samples for _, _, samples in batch], request) if batch else []
        for (recording, index, _), result in zip(batch, answers, strict=True):
            recording.answers[index] = result
        batch.clear()

    def _completed(
        self, waiting: list[_Recording | AistaError], request: Request
    ) -> Iterator[Translation | AistaError]:
        """Hand out what is complete, never past a recording that is not."""
        while waiting and (isinstance(waiting[0], AistaError) or waiting[0].is_complete):
            first = waiting.pop(0)
            if isinstance(first, _Recording) and first.error:
                first = ModelInputError(f"{first.source}: {self.name} failed on it.", got=first.error)
            yield first if isinstance(first, AistaError) else self._translation(first, request)

    def _translation(self, recording: _Recording, request: Request) -> Translation:
        pairs = list(zip(recording.segments, recording.answers, strict=True))
        late = recording.heard.start_seconds
        segments = tuple(
            TranslatedSegment(late + s.start_seconds, late + s.end_seconds, a.text if a else "", s.silent)
            for s, a in pairs
        )
        return Translation(
            text=joined((row.text for row in segments), request.target),
            segments=segments,
            source=recording.source,
            language=request.target,
            task=request.task,
            duration_seconds=len(recording.heard.samples) / SAMPLE_RATE_HZ,
            model=self.name,
            settings=self.generation.model_dump(),
            warnings=tuple(_warnings(recording, self.generation.max_new_tokens, self.shortest_samples)),
        )


def _warnings(recording: _Recording, max_new_tokens: int, shortest_samples: int) -> Iterator[str]:
    yield from recording.heard.remarks
    num_samples = len(recording.heard.samples)
    if all(piece.silent for piece in recording.segments):
        yield "the recording is silent (nothing reaches -60 dBFS): there is nothing to translate"
        return
    if num_samples < shortest_samples:
        seconds, window = num_samples / SAMPLE_RATE_HZ, shortest_samples / SAMPLE_RATE_HZ
        yield f"{seconds:.2f} s is less than one speech token ({window:.2f} s): too short to hold words"
    places: dict[str, list[str]] = {}
    for piece, result in zip(recording.segments, recording.answers, strict=True):
        trouble = _trouble(piece, result, max_new_tokens)
        if trouble:
            places.setdefault(trouble, []).append(f"{piece.start_seconds:.1f}-{piece.end_seconds:.1f} s")
    for trouble, spans in places.items():
        more = f" and {len(spans) - 3} more segments" if len(spans) > 3 else ""
        yield f"{', '.join(spans[:3])}{more}: {trouble}"


def _trouble(piece: Segment, result: Answer | None, max_new_tokens: int) -> str:
    """Return what a reader should know about one segment, or nothing."""
    if piece.silent:
        return "silent"
    if result is not None and not result.finished:
        return f"the answer reached max_new_tokens = {max_new_tokens} and may be cut"
    return "the model answered nothing" if result is not None and not result.text else ""


def read(sound: Sound) -> tuple[np.ndarray, str]:
    """Return 16 kHz samples and a name for them; errors as of :func:`listen`."""
    heard, name = listen(sound)
    return heard.samples, name


def listen(sound: Sound, *, max_minutes: float = MAX_MINUTES) -> tuple[Recording, str]:
    """Return what is heard in a sound, and a name for it.

    Raises:
        AudioError: The sound cannot be read, or is longer than ``max_minutes``; samples must be a
            one-dimensional array of finite floats.
    """
    if isinstance(sound, Recording):
        return sound, "<recording>"
    if not isinstance(sound, np.ndarray):
        name = os.fspath(sound) if isinstance(sound, str | os.PathLike) else getattr(sound, "name", "<bytes>")
        return read_audio(sound, max_minutes=max_minutes), str(name)
    if sound.ndim != 1 or sound.size == 0 or not np.issubdtype(sound.dtype, np.floating):
        raise AudioError(
            "These samples cannot be translated.",
            got=f"{sound.dtype} array of shape {sound.shape}",
            expected="a non-empty one-dimensional float array, mono, 16 kHz",
            advice="Pass the file itself (any rate, any channels), or convert first.",
        )
    if not np.isfinite(sound).all():
        raise AudioError("The samples hold something that is no number.", got="NaN or infinity")
    samples = sound.astype(np.float32, copy=False)
    remarks = (told_offset(offset),) if (offset := offset_of(samples)) else ()
    return Recording(without_offset(samples), remarks=remarks), "<samples>"


def joined(texts: Iterable[str], code: str) -> str:
    """Join the texts of adjoining segments as their language does: with spaces, or without."""
    return (" " if language(code).spaces else "").join(text for text in texts if text)
