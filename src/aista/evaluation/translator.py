"""Any sound into text: ``aista.load().translate("talk.wav", target="zh")``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch

from aista.audio.files import AudioSource, load_audio
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_WINDOW
from aista.audio.segments import Segment, segment
from aista.errors import AistaError, AudioError, ConfigError
from aista.evaluation.decode import Answer, Question, answer, joined, longest_seconds
from aista.evaluation.settings import GenerationSettings
from aista.text.languages import language
from aista.text.prompts import instruction

SHIPPED = "aista:model"

Sound = AudioSource | np.ndarray
"""What can be translated: a path, the bytes of a file, a stream, or float samples (n,) at 16 kHz."""


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
        segments: Its pieces, in order; together they cover the recording.
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


def load(
    path: str | os.PathLike[str] | None = None, *, device: str | None = None, **options: Any
) -> Translator:
    """Load a model and its processor, ready to translate.

    Args:
        path: Folder of a model, ``aista:NAME`` for one that comes with the package, or ``None`` for the model
            the package ships.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; by default a GPU where there is one.
        options: Search settings, e.g. ``num_beams=4`` (see ``GenerationSettings``).

    Raises:
        CheckpointError: There is no such model, or its parts do not belong together.
        ConfigError: An option is unknown.
    """
    name = SHIPPED if path is None else os.fspath(path)
    generation = GenerationSettings.of(options, source="the options of load")

    from aista.model.bases import locate
    from aista.model.processing import AistaProcessor
    from aista.model.speech_lm import AistaForConditionalGeneration

    folder = locate(name)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = AistaForConditionalGeneration.from_pretrained(folder).to(place).eval()
    return Translator(model, AistaProcessor.from_pretrained(folder), name=name, generation=generation)


@dataclass
class _Recording:
    """A recording on its way through the model."""

    source: str
    num_samples: int
    segments: list[Segment]
    answers: list[Answer | None]

    @property
    def is_complete(self) -> bool:
        return all(a is not None or s.silent for a, s in zip(self.answers, self.segments, strict=True))


class Translator:
    """A model that turns sound into text.

    Args:
        model: An ``AistaForConditionalGeneration``.
        processor: Its processor.
        name: What to call it in results.
        generation: How it searches.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str = "", generation: GenerationSettings | None = None
    ) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.generation = generation or GenerationSettings()

    @property
    def directions(self) -> tuple[str, ...]:
        """What the model was trained for, e.g. ``("en-zh", "en-en")``; empty where it does not say."""
        return tuple(getattr(self.model.config, "directions", None) or ())

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
    ) -> Iterator[Translation | AudioError]:
        """Translate many recordings; each result, or the error that stands for it, comes in order.

        Segments of neighbouring recordings share batches; no more than a batch of them is held.

        Raises:
            ConfigError: The model was not trained for this direction.
        """
        wording = self._instruction(target, source)
        waiting: list[_Recording | AudioError] = []
        batch: list[tuple[_Recording, int, np.ndarray]] = []
        for sound in sounds:
            try:
                samples, name = read(sound)
            except AudioError as error:
                waiting.append(error)
                yield from self._completed(waiting, target, source)
                continue
            pieces = segment(samples, max_seconds=longest_seconds(self.model))
            recording = _Recording(name, len(samples), pieces, [None] * len(pieces))
            waiting.append(recording)
            for index, piece in enumerate(pieces):
                if not piece.silent:
                    batch.append((recording, index, samples[piece.start_sample : piece.end_sample]))
                if len(batch) == self.generation.batch_size:
                    self._ask(batch, wording)
            yield from self._completed(waiting, target, source)
        self._ask(batch, wording)
        yield from self._completed(waiting, target, source)

    def _instruction(self, target: str, source: str) -> str:
        language(source)
        known = self.directions
        if known and f"{source}-{target}" not in known:
            asked = f"{source}-{target}" if target != source else f"transcription of {source}"
            raise ConfigError(
                f"The model {self.name} was not trained for {asked}.",
                got=f"{source} -> {target}",
                expected=", ".join(known),
                advice="Choose one of these, or a model that knows the language.",
            )
        return instruction("asr" if target == source else "st", target)

    def _ask(self, batch: list[tuple[_Recording, int, np.ndarray]], wording: str) -> None:
        """Answer the gathered segments and empty the batch."""
        questions = [Question(wording, samples=samples) for _, _, samples in batch]
        answers = answer(self.model, self.processor, questions, self.generation)
        for (recording, index, _), result in zip(batch, answers, strict=True):
            recording.answers[index] = result
        batch.clear()

    def _completed(
        self, waiting: list[_Recording | AudioError], target: str, source: str
    ) -> Iterator[Translation | AudioError]:
        """Hand out what is complete, never past a recording that is not."""
        while waiting and (isinstance(waiting[0], AudioError) or waiting[0].is_complete):
            first = waiting.pop(0)
            yield first if isinstance(first, AudioError) else self._translation(first, target, source)

    def _translation(self, recording: _Recording, target: str, source: str) -> Translation:
        pairs = list(zip(recording.segments, recording.answers, strict=True))
        segments = tuple(
            TranslatedSegment(s.start_seconds, s.end_seconds, a.text if a else "", s.silent) for s, a in pairs
        )
        return Translation(
            text=joined((row.text for row in segments), target),
            segments=segments,
            source=recording.source,
            language=target,
            task="asr" if target == source else "st",
            duration_seconds=recording.num_samples / SAMPLE_RATE_HZ,
            model=self.name,
            settings=self.generation.model_dump(),
            warnings=tuple(_warnings(recording, self.generation.max_new_tokens)),
        )


def _warnings(recording: _Recording, max_new_tokens: int) -> Iterator[str]:
    if all(piece.silent for piece in recording.segments):
        yield "the recording is silent (nothing reaches -60 dBFS): there is nothing to translate"
        return
    if recording.num_samples < SAMPLES_PER_WINDOW:
        seconds, window = recording.num_samples / SAMPLE_RATE_HZ, SAMPLES_PER_WINDOW / SAMPLE_RATE_HZ
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
    """Return 16 kHz samples and a name for them.

    Raises:
        AudioError: The sound cannot be read; samples must be a one-dimensional array of finite floats.
    """
    if not isinstance(sound, np.ndarray):
        name = os.fspath(sound) if isinstance(sound, str | os.PathLike) else getattr(sound, "name", "<bytes>")
        return load_audio(sound), str(name)
    if sound.ndim != 1 or sound.size == 0 or not np.issubdtype(sound.dtype, np.floating):
        raise AudioError(
            "These samples cannot be translated.",
            got=f"{sound.dtype} array of shape {sound.shape}",
            expected="a non-empty one-dimensional float array, mono, 16 kHz",
            advice="Pass the file itself (any rate, any channels), or convert first.",
        )
    if not np.isfinite(sound).all():
        raise AudioError("The samples hold something that is no number.", got="NaN or infinity")
    return sound.astype(np.float32, copy=False), "<samples>"
