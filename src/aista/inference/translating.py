"""Recordings of any length through anything that turns a few seconds of speech into text.

A :class:`SpeechTranslator` says how much it hears at once and answers pieces of sound; reading files,
cutting, batching, joining and warning are the same for all: our models, SALMONN, Qwen2-Audio, a cascade.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from pydantic import Field

from aista.audio import speech
from aista.audio.files import MAX_MINUTES, AudioSource, Recording, read_audio, recording_of
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.audio.speech import Segment, segment, without_idle_edges
from aista.config import Count, Settings
from aista.errors import AistaError, AudioError, ConfigError, ModelInputError
from aista.inference.coverage import (
    AGAINST_THE_ANSWER,
    Policy,
    TranslationWarning,
    complaint,
    holds,
    pause_in,
    pauses,
)
from aista.inference.words import Word, out_of_pauses, words_at
from aista.speech_llm import Content
from aista.text.prompts import language

_NOT_SPEECH = {
    "silence": "silent (nothing reaches -60 dBFS)",
    "tone": "a steady tone, without speech",
    "noise": "noise or music, without speech",
}
_TOLD_SECONDS = 1.0  # shorter places without speech are pauses, which nobody needs to be told of

Sound = AudioSource | np.ndarray | Recording
"""What can be translated: a path, the bytes of a file, a stream, float samples (n,) at 16 kHz, or a recording
that was read before (:func:`aista.audio.files.read_audio`)."""


class GenerationSettings(Settings):
    """How an answer is searched for.

    Attributes:
        num_beams: 1 is greedy search. The paper names none; SALMONN, its base, uses 4.
        max_new_tokens: Longest answer to one segment of audio, in tokens.
        batch_size: Segments decoded at once; it does not change the answers.
        length_penalty, repetition_penalty: As in transformers; they matter with beams only and always.
    """

    harmless = frozenset({"batch_size"})

    num_beams: Count = 1
    max_new_tokens: Count = 200
    batch_size: Count = 16
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)


@dataclass(frozen=True)
class Answer:
    """The text of one answer.

    Attributes:
        text: What was answered.
        finished: Whether the model came to its end before ``max_new_tokens``.
        error: Why there is no answer, where something outside this process failed to give one.
    """

    text: str
    finished: bool = True
    error: str | None = None


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
        silent: Whether there is nothing to translate: silence, noise, a tone.
        words: When each word is heard, where it was asked for and the system can tell (``word_times``).
    """

    start_seconds: float
    end_seconds: float
    text: str
    silent: bool = False
    words: tuple[Word, ...] = ()


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
        warnings: What a reader of the text should know: noise, an answer that was cut, a clip too short.
    """

    text: str
    segments: tuple[TranslatedSegment, ...]
    source: str
    language: str
    task: str
    duration_seconds: float
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[TranslationWarning, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass
class Answered:
    """What was answered to one recording, cut into segments, or to one text.

    Attributes:
        segments: The pieces of sound in order; of a text, or of cached features, one of no length.
        answers: Number of a piece -> its answer. Nothing is asked about silent pieces.
        doubts: Number of a piece -> what speaks against its answer: kind and description.
        letter_times: Number of a piece -> when each letter of its answer is heard, (letters, 2) seconds.
    """

    segments: list[Segment]
    answers: dict[int, Answer] = field(default_factory=dict)
    doubts: dict[int, tuple[str, str]] = field(default_factory=dict)
    letter_times: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every piece with sound is answered."""
        return len(self.answers) == sum(not piece.silent for piece in self.segments)

    @property
    def error(self) -> str | None:
        """Why a piece has no answer, where one has none."""
        return next((answer.error for answer in self.answers.values() if answer.error), None)

    @property
    def finished(self) -> bool:
        """Whether no answer was cut."""
        return all(answer.finished for answer in self.answers.values())

    @property
    def texts(self) -> list[str]:
        """The text of every piece; of a silent one nothing."""
        return [self.answers[i].text if i in self.answers else "" for i in range(len(self.segments))]


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
        channel: Which channel of recordings is heard, counted from 0; None: the mean of all.
        shortest_samples: A recording with fewer is warned of; 0: none is too short.
        vad: Whether ``translate`` and ``stream`` look for speech first and ask about nothing else; where no
            detector is installed, and without it, what is steady at the ends of a piece is left out.
        pause_seconds: A pause of this length ends what is heard at once, where speech is looked for.
        coverage: What happens when an answer cannot be right (``aista.inference.coverage``): a warning; a
            second answer, in smaller pieces, where that is better; or an error in place of the translation.
        word_times: Whether words get their times, where the system can tell them.
    """

    name: str = ""
    generation: GenerationSettings = GenerationSettings()
    tasks: frozenset[str] = frozenset({"st", "asr"})
    reads_text: bool = False
    zero_shot: bool = False
    max_minutes: float = MAX_MINUTES
    channel: int | None = None
    shortest_samples: int = 0
    vad: bool = False
    pause_seconds: float = speech.PAUSE_SECONDS
    coverage: Policy = "warn"
    word_times: bool = False

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

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what it holds outside this process: here nothing."""

    def time_words(
        self, pieces: Sequence[np.ndarray], texts: Sequence[str], request: Request
    ) -> list[np.ndarray] | None:
        """Return when each letter of answers is heard, (letters, 2) seconds a piece; None: it cannot tell."""
        return None

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

        Raises:
            ConfigError: The model was not trained for this direction.
        """
        request = Request("asr" if target == source else "st", source, target)
        self.check(request)
        heard: deque[tuple[Recording, str]] = deque()

        def contents() -> Iterator[np.ndarray | AistaError]:
            for sound in sounds:
                try:
                    heard.append(listen(sound, max_minutes=self.max_minutes, channel=self.channel))
                    yield heard[-1][0].samples
                except AudioError as error:
                    yield error

        for answered in self.answer_all(contents(), request, whole=False):
            if isinstance(answered, AistaError):
                yield answered
                continue
            recording, name = heard.popleft()
            if answered.error:
                yield ModelInputError(f"{name}: {self.name} failed on it.", got=answered.error)
                continue
            result = self._translation(recording, name, answered, request)
            yield self._failure(result) or result

    def by_segment(
        self, audio: Sound, target: str, *, source: str = "en", name: str | None = None
    ) -> Iterator[TranslatedSegment | Translation]:
        """Translate one recording; its segments come in order as they are answered, and last the whole.

        Args:
            audio, target, source: As of :meth:`translate`.
            name: What to call it in results and messages; left out: as its file is called.

        Raises:
            AudioError, ConfigError, ModelInputError: As :meth:`translate`.
        """
        request = Request("asr" if target == source else "st", source, target)
        self.check(request)
        recording, known_as = listen(audio, max_minutes=self.max_minutes, channel=self.channel)
        name = name or known_as
        answered = Answered(self._cut(recording.samples, request.task, whole=False))
        spoken = [
            (answered, number, _part(recording.samples, piece))
            for number, piece in enumerate(answered.segments)
            if not piece.silent
        ]
        told = 0
        for start in range(0, len(spoken), self.generation.batch_size):
            self._ask(spoken[start : start + self.generation.batch_size], request, whole=False)
            if answered.error:
                raise ModelInputError(f"{name}: {self.name} failed on it.", got=answered.error)
            for row in self._segments(recording, answered, request.target, first=told):
                told += 1
                yield row
        result = self._translation(recording, name, answered, request)
        if failure := self._failure(result):
            raise failure
        yield result

    def answer_all(
        self, contents: Iterable[Content | AistaError], request: Request, *, whole: bool = True
    ) -> Iterator[Answered | AistaError]:
        """Cut, batch and answer many recordings, or texts; the answers to each come in order.

        Pieces of neighbouring recordings share batches; no more than a batch of them is held.

        Args:
            contents: Samples (n,) at 16 kHz of any length, cached features (frames, D), or texts: all of one
                kind. An error is handed on in its place.
            request: What is asked of all of them.
            whole: Take each as one utterance, as test sets have them, without two seconds and more at its
                ends in which nobody speaks; else speech is looked for in it, and the answers are looked at.
        """
        waiting: deque[Answered | AistaError] = deque()
        batch: list[tuple[Answered, int, Any]] = []
        for content in contents:
            if isinstance(content, AistaError):
                waiting.append(content)
            else:
                waiting.append(answered := Answered(self._cut(content, request.task, whole)))
                for number, piece in enumerate(answered.segments):
                    if not piece.silent:
                        batch.append((answered, number, _part(content, piece)))
                    if len(batch) == self.generation.batch_size:
                        self._ask(batch, request, whole)
            yield from _complete(waiting)
        self._ask(batch, request, whole)
        yield from _complete(waiting)

    def hears_whole(self, samples: np.ndarray, task: str) -> bool:
        """Whether an utterance is heard at once and from edge to edge, as its cached features are."""
        pieces = self._cut(samples, task, whole=True)
        return len(pieces) == 1 and not pieces[0].silent

    def _cut(self, content: Content, task: str, whole: bool) -> list[Segment]:
        """Cut samples into what is heard at once; texts and cached features are whole.

        Where speech is asked for, a model is not asked about what holds none: it would invent some.
        """
        if isinstance(content, str) or content.ndim == 2:
            return [Segment(0, 0, False)]
        if task == "aac":
            return self.pieces(content)
        if whole or not self.vad or not speech.is_installed():
            return without_idle_edges(content, self.pieces(content))
        found: list[Segment] = []
        for stretch in speech.find_speech(content, pause_seconds=self.pause_seconds):
            first, end = stretch.start_sample, stretch.end_sample
            pieces = [stretch] if stretch.silent else self.pieces(content[first:end])
            late = 0 if stretch.silent else first
            found += [Segment(late + p.start_sample, late + p.end_sample, p.silent) for p in pieces]
        return found

    def _ask(self, batch: list[tuple[Answered, int, Any]], request: Request, whole: bool) -> None:
        """Answer the gathered pieces and empty the batch."""
        if not batch:
            return
        parts = [part for *_, part in batch]
        results = (self.answer_texts if isinstance(parts[0], str) else self.answer)(parts, request)
        doubts = {} if whole or request.task == "aac" else self._doubts(parts, results, request)
        if self.coverage == "retry":
            self._ask_again(parts, results, doubts, request)
        texts = [result.text for result in results]
        times = self.time_words(parts, texts, request) if self.word_times and not whole else None
        for index, ((answered, number, _), result) in enumerate(zip(batch, results, strict=True)):
            answered.answers[number] = result
            if times is not None and result.text:
                answered.letter_times[number] = times[index]
            if index in doubts:
                answered.doubts[number] = doubts[index]
        batch.clear()

    def _doubts(
        self, parts: Sequence[np.ndarray], results: Sequence[Answer], request: Request
    ) -> dict[int, tuple[str, str]]:
        """Return what speaks against answers: number -> kind and description.

        Where an answer by itself is in order and its sound holds a pause, what follows the pause is asked
        about once more, alone: an answer that does not hold that either stopped before the sound did.
        """
        doubts = {}
        tails: dict[int, np.ndarray] = {}
        for index, (part, result) in enumerate(zip(parts, results, strict=True)):
            if result.error:
                continue
            if not result.finished:
                most = f"max_new_tokens = {self.generation.max_new_tokens}"
                doubts[index] = ("cut", f"the answer reached {most} and may be cut")
            elif found := complaint(result.text, request.target, len(part) / SAMPLE_RATE_HZ):
                doubts[index] = found
            elif (pause := pause_in(part)) is not None:
                tails[index] = part[pause:]
        answers = self.answer(list(tails.values()), request) if tails else []
        for index, tail in zip(tails, answers, strict=True):
            if not tail.error and not holds(results[index].text, tail.text):
                doubts[index] = ("stops_early", "the answer leaves out what follows a pause in the sound")
        return doubts

    def _ask_again(
        self,
        parts: Sequence[np.ndarray],
        results: list[Answer],
        doubts: dict[int, tuple[str, str]],
        request: Request,
    ) -> None:
        """Ask about doubtful pieces in two halves each, and take what is then in order."""
        for index, (_, told) in list(doubts.items()):
            part = parts[index]
            pause = pause_in(part)
            half = 0.6 * len(part) / SAMPLE_RATE_HZ
            edges = [(0, pause), (pause, len(part))] if pause is not None else []
            if not edges and half >= 1.0:
                edges = [(p.start_sample, p.end_sample) for p in segment(part, max_seconds=half)]
            if not edges:
                continue
            answers = self.answer([part[a:b] for a, b in edges], request)
            text = joined((answer.text for answer in answers), request.target)
            finished = all(answer.finished and answer.text and not answer.error for answer in answers)
            if finished and complaint(text, request.target, len(part) / SAMPLE_RATE_HZ) is None:
                results[index] = Answer(text)
                doubts[index] = ("retried", f"asked again in {len(edges)} pieces, because {told}")

    def _translation(
        self, recording: Recording, name: str, answered: Answered, request: Request
    ) -> Translation:
        return Translation(
            text=joined(answered.texts, request.target),
            segments=tuple(self._segments(recording, answered, request.target)),
            source=name,
            language=request.target,
            task=request.task,
            duration_seconds=len(recording.samples) / SAMPLE_RATE_HZ,
            model=self.name,
            settings=self.generation.model_dump(),
            warnings=tuple(self._warnings(recording, answered)),
        )

    def _failure(self, result: Translation) -> ModelInputError | None:
        """Return the error that stands for a translation that cannot be right, where it may not be told."""
        against = [row for row in result.warnings if row.kind in AGAINST_THE_ANSWER]
        if self.coverage != "fail" or not against:
            return None
        return ModelInputError(f"{result.source}: an answer cannot be right.", got=against[0])

    def _segments(
        self, recording: Recording, answered: Answered, code: str, first: int = 0
    ) -> Iterator[TranslatedSegment]:
        """Return the segments of a recording from a number on, up to the first that has no answer yet."""
        late = recording.start_seconds
        for number, (piece, text) in enumerate(zip(answered.segments, answered.texts, strict=True)):
            if number < first:
                continue
            if not piece.silent and number not in answered.answers:
                return
            start, times = late + piece.start_seconds, answered.letter_times.get(number)
            words: tuple[Word, ...] = ()
            if times is not None:
                quiet = pauses(recording.samples[piece.start_sample : piece.end_sample])
                spans = [(start + a / SAMPLE_RATE_HZ, start + b / SAMPLE_RATE_HZ) for a, b in quiet]
                words = out_of_pauses(words_at(text, code, times, start), spans)
            yield TranslatedSegment(start, late + piece.end_seconds, text, piece.silent, words)

    def _warnings(self, recording: Recording, answered: Answered) -> Iterator[TranslationWarning]:
        for remark in recording.remarks:
            yield TranslationWarning("recording", remark)
        num_samples = len(recording.samples)
        if all(piece.silent for piece in answered.segments):
            kind = speech.sounding(recording.samples)
            yield TranslationWarning(
                kind, f"the recording is {_NOT_SPEECH[kind]}: there is nothing to translate"
            )
            return
        if num_samples < self.shortest_samples:
            seconds, window = num_samples / SAMPLE_RATE_HZ, self.shortest_samples / SAMPLE_RATE_HZ
            told = f"{seconds:.2f} s is less than one speech token ({window:.2f} s): too short to hold words"
            yield TranslationWarning("too_short", told)
        places: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for number, piece in enumerate(answered.segments):
            if piece.silent:
                found = speech.sounding(recording.samples[piece.start_sample : piece.end_sample])
                if piece.end_seconds - piece.start_seconds < _TOLD_SECONDS:
                    continue
                trouble: tuple[str, str] = (found, f"{_NOT_SPEECH[found]}: not translated")
            elif number in answered.doubts:
                trouble = answered.doubts[number]
            else:
                continue
            late = recording.start_seconds
            places[trouble].append((late + piece.start_seconds, late + piece.end_seconds))
        for (kind_, told), spans in places.items():
            yield TranslationWarning(kind_, told, tuple(spans))


def _part(content: Content, piece: Segment) -> Content:
    return content[piece.start_sample : piece.end_sample] if piece.end_sample else content


def _complete(waiting: deque[Answered | AistaError]) -> Iterator[Answered | AistaError]:
    """Hand out what is complete, never past what is not."""
    while waiting and (isinstance(waiting[0], AistaError) or waiting[0].is_complete):
        yield waiting.popleft()


def listen(
    sound: Sound, *, max_minutes: float = MAX_MINUTES, channel: int | None = None
) -> tuple[Recording, str]:
    """Return what is heard in a sound (of a file: one channel, or the mean of all), and a name for it.

    Raises:
        AudioError: The sound cannot be read, or is longer than ``max_minutes``; samples must be a
            one-dimensional array of finite floats, full scale 1.0.
    """
    if isinstance(sound, Recording):
        return sound, "<recording>"
    if not isinstance(sound, np.ndarray):
        name = os.fspath(sound) if isinstance(sound, str | os.PathLike) else getattr(sound, "name", "<bytes>")
        return read_audio(sound, max_minutes=max_minutes, channel=channel), str(name)
    return recording_of(sound, "<samples>"), "<samples>"


def joined(texts: Iterable[str], code: str) -> str:
    """Join the texts of adjoining segments as their language does: with spaces, or without."""
    return (" " if language(code).spaces else "").join(text for text in texts if text)
