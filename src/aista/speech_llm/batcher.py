"""From recordings, instructions and texts to batches, through a model's own processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import soxr

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import ConfigError, ModelInputError
from aista.speech_llm.batch import Batch, Row
from aista.speech_llm.classes import speech_class
from aista.text.prompts import broken_up, control_tokens, plain_ids

Content = np.ndarray | str
"""What stands in a prompt's speech slot: samples (n,) at 16 kHz, cached features (frames, D), or text."""


# What processors give of the text beside its ids; models of speech alone do without.
_OF_TEXT = ("token_type_ids", "mm_token_type_ids")


def placeholder(config: Any) -> int | None:
    """Return the id that stands for speech in ``input_ids``; None: there is none."""
    for place in (config, getattr(config, "audio_config", None)):
        if isinstance(found := getattr(place, "audio_token_id", None), int):
            return found
    return None


class Batcher:
    """Makes batches for one model; may be sent to worker processes.

    Args:
        processor: A processor of transformers' contract: called with text and audio, it expands one
            placeholder to as many as there are speech embeddings.
        config: The model's configuration.
        end: Token that closes an answer; None: the configuration's, or the tokenizer's.
        form: How a request is written, a text with ``{audio}`` and ``{instruction}`` in it; None: as the
            model's class says. In a form of one's own an instruction may hold control tokens.

    Attributes:
        longest_seconds: What is heard at once.
    """

    def __init__(
        self, processor: Any, config: Any, *, end: int | None = None, form: str | None = None
    ) -> None:
        self.processor, self.tokenizer = processor, getattr(processor, "tokenizer", processor)
        self.kind, self.form = speech_class(config.model_type), form
        self.audio_token_id: Any = placeholder(config)
        if end is None:
            end = getattr(config, "end_token_id", self.tokenizer.eos_token_id)
        self.end: Any = end
        own_pad = self.tokenizer.pad_token_id
        self.pad: Any = getattr(config, "pad_token_id", None) or (self.end if own_pad is None else own_pad)
        extractor = getattr(processor, "feature_extractor", None)
        self.rate: int = getattr(extractor, "sampling_rate", SAMPLE_RATE_HZ)
        if hasattr(config, "max_samples"):  # ours, whose processor refuses what is longer
            self.longest_seconds = config.max_samples / SAMPLE_RATE_HZ
        else:
            most = getattr(extractor, "n_samples", None)
            self.longest_seconds = min(self.kind.longest_seconds, most / self.rate if most else math.inf)
        self._control = {
            *control_tokens(self.tokenizer),
            *filter(None, [getattr(processor, "audio_token", "")]),
        }

    def translation(
        self, contents: Sequence[Content], instructions: Sequence[str], *, padding_side: str = "left"
    ) -> Batch:
        """Prepare prompts that are to be answered.

        Args:
            contents: B recordings or cached features; or, for some or all of them, texts that stand where
                speech would.
            instructions: What the model is asked to do with each.
            padding_side: ``left``, to generate; ``right``: SALMONN's habit.

        Raises:
            ModelInputError: The numbers of things differ, or the sound is unusable.
        """
        rows, sound, heard = self._prompts(contents, instructions)
        return Batch.of_rows(rows, self.pad, padding_side, sound, heard)

    def training(
        self,
        contents: Sequence[Content],
        instructions: Sequence[str],
        targets: Sequence[str],
        *,
        padding_side: str = "right",
        max_target_tokens: int | None = None,
    ) -> Batch:
        """Prepare prompts and what should be answered to them.

        Args:
            contents, instructions: As for ``translation``.
            targets: B answers. Each is closed by the end token.
            padding_side: ``right``, ``left``, or ``between`` prompt and target (SALMONN's habit).
            max_target_tokens: Cut answers to so many tokens, end included (a cut answer has no end).
        """
        rows, sound, heard = self._prompts(contents, instructions)
        _require_as_many("targets", targets, rows)
        answered = []
        for row, target in zip(rows, targets, strict=True):
            ids = [*plain_ids(self.tokenizer, target), self.end][:max_target_tokens]
            answered.append(replace(row, target=ids))
        return Batch.of_rows(answered, self.pad, padding_side, sound, heard)

    def written(
        self, batch: Batch, transcripts: Sequence[str], *, whole: bool = False, padding_side: str = "right"
    ) -> Batch:
        """Put transcripts in the place of a batch's speech: the text branch (Section 4.3).

        Args:
            batch: On the CPU; of its rows with sound the span is replaced, from the first to the last
                placeholder. The others have no text branch: they are left out.
            transcripts: One for each row with sound.
            whole: Also what follows the speech; without it rows end with the transcript, whose hidden states
                cannot depend on what follows (causal attention).

        Returns:
            A batch without sound, its span over the transcripts.
        """
        rows = batch.rows()
        spoken = [rows[i] for i in batch.heard]
        _require_as_many("transcripts", transcripts, spoken)
        written = [self._replaced(row, text, whole) for row, text in zip(spoken, transcripts, strict=True)]
        return Batch.of_rows(written, self.pad, padding_side)

    def up_to_speech(self, batch: Batch, before: Sequence[int] | None = None) -> Batch:
        """Let a batch end with its speech, behind other tokens than its own prompt's where they are given.

        Args:
            batch: On the CPU.
            before: Ids that stand before the speech. None: those of the prompt.
        """
        rows = []
        for row in batch.rows():
            first = row.prompt[: row.start] if before is None else list(before)
            # Placeholders of padding may follow the span: every embedding needs its place.
            last = max((i for i, token in enumerate(row.prompt) if token == self.audio_token_id), default=0)
            ids = first + row.prompt[row.start : max(row.stop, last + 1)]
            shift = len(first) - row.start
            holes = tuple(place + shift for place in row.holes)
            rows.append(Row(ids, len(first), row.stop + shift, [], holes))
        return Batch.of_rows(rows, self.pad, "right", batch.sound)

    def _replaced(self, row: Row, text: str, whole: bool = True) -> Row:
        """Put a text where speech stands: from the first to the last placeholder, silence included."""
        places = [place for place, token in enumerate(row.prompt) if token == self.audio_token_id]
        start, stop = (places[0], places[-1] + 1) if places else (row.start, row.stop)
        before = row.prompt[:start] + plain_ids(self.tokenizer, text)
        if not whole:
            return Row(before, start, len(before), [])
        return Row(before + row.prompt[stop:], start, len(before), row.target)

    def _prompts(
        self, contents: Sequence[Content], instructions: Sequence[str]
    ) -> tuple[list[Row], dict[str, Any], list[int]]:
        """Return the rows of the prompts, the rest of the model's inputs, and the rows that these are of."""
        _require_as_many("instructions", instructions, contents)
        if not len(contents):
            raise ModelInputError("An empty batch cannot be prepared.")
        rows: dict[int, Row] = {}
        sound: dict[str, Any] = {}
        heard = [i for i, content in enumerate(contents) if not isinstance(content, str)]
        written = [i for i, content in enumerate(contents) if isinstance(content, str)]
        if heard:
            clips = [contents[i] for i in heard]
            self._require_short(clips)
            batch = self._read(self._with_sound(clips, [instructions[i] for i in heard]), spoken=True)
            sound = batch.sound
            found = batch.rows()
            if self.kind.padded_seconds:
                found = [self._unpadded(row, clip) for row, clip in zip(found, clips, strict=True)]
            rows |= zip(heard, found, strict=True)
        if written:
            prompts = [self.prompt(instructions[i]) for i in written]
            batch = self._read(self._without_sound(prompts), spoken=False)
            texts = (str(contents[i]) for i in written)
            found = [self._replaced(row, text) for row, text in zip(batch.rows(), texts, strict=True)]
            rows |= zip(written, found, strict=True)
        return [rows[i] for i in range(len(contents))], sound, heard

    def _read(self, inputs: Any, *, spoken: bool) -> Batch:
        """Read what the processor gave, of sound or of texts in its place."""
        batch = Batch.of_inputs({k: v for k, v in inputs.items() if k not in _OF_TEXT}, self.audio_token_id)
        if not batch.widest_span or (spoken and not batch.sound):
            raise ModelInputError(
                "The processor left no place for the speech, or left the sound out.",
                got=f"{type(self.processor).__name__}: {', '.join(inputs)}",
                advice="Choose another form, or write a file for its class.",
            )
        return batch

    def _require_short(self, contents: Sequence[Content]) -> None:
        """Refuse sound that a feature extractor would cut without a word."""
        seconds = [len(sound) / SAMPLE_RATE_HZ if np.ndim(sound) == 1 else 0.0 for sound in contents]
        longest = max(seconds, default=0.0)
        if longest > self.longest_seconds + 1e-9:
            raise ModelInputError(
                f"Item {seconds.index(longest)} is longer than the model hears at once.",
                got=f"{longest:.2f} s",
                expected=f"at most {self.longest_seconds:.2f} s",
                advice="Cut it at pauses with aista.audio.segments, or use 'aista translate', which does.",
            )

    def _with_sound(self, contents: Sequence[Any], instructions: Sequence[str]) -> Any:
        if self.rate != SAMPLE_RATE_HZ:
            contents = [soxr.resample(sound, SAMPLE_RATE_HZ, self.rate) for sound in contents]
        if self.kind.takes_files and self.form is None:
            return self._from_files(contents, instructions)
        texts = [self.prompt(instruction) for instruction in instructions]
        # `audios` is the old name: it would be ignored without a word
        return self._processed(texts, audio=list(contents), sampling_rate=self.rate)

    def _processed(self, texts: list[str], **sound: Any) -> Any:
        # of the text alone: how sound is padded each extractor knows by itself
        return self.processor(text=texts, text_kwargs={"padding": True}, return_tensors="pt", **sound)

    def _without_sound(self, texts: list[str]) -> Any:
        """Tokenise prompts with a single placeholder each."""
        if self.kind.takes_files:
            raise ModelInputError("This model's processor writes no prompt without sound.")
        if type(self.processor).__module__.startswith("transformers."):  # which refuse a placeholder then
            return self.tokenizer(texts, padding=True, return_tensors="pt")
        return self._processed(texts)

    def _from_files(self, contents: Sequence[Any], instructions: Sequence[str]) -> Any:
        with TemporaryDirectory(prefix="aista-") as folder:
            messages = []
            for number, (samples, instruction) in enumerate(zip(contents, instructions, strict=True)):
                path = Path(folder) / f"{number}.wav"
                soundfile.write(path, samples, self.rate, subtype="FLOAT")
                asked = {"type": "text", "text": broken_up(instruction, self._control)}
                content = [{"type": "audio", "path": str(path)}, asked]
                messages.append([{"role": "user", "content": content}])
            return self.processor.apply_chat_template(messages)

    def _unpadded(self, row: Row, sound: Any) -> Row:
        """End a span where the sound ends: silence that the processor added carries no mass."""
        seconds, block = len(sound) / SAMPLE_RATE_HZ, float(self.kind.padded_seconds or 1.0)
        count = row.stop - row.start
        heard = math.ceil(seconds * count / (block * math.ceil(seconds / block)))
        return replace(row, stop=row.start + min(max(heard, 1), count))

    def prompt(self, instruction: str) -> str:
        """Return the text of one request, its speech a single placeholder.

        Control tokens in the instruction are broken up, except in a form of one's own.
        """
        if self.form is not None:
            return self.form.format(audio=self.processor.audio_token, instruction=instruction)
        return self.kind.prompt(self.processor, broken_up(instruction, self._control))

    def tokens_for(self, seconds: float) -> int:
        """Return how many speech tokens a clip of a length becomes."""
        clip = np.random.default_rng(0).uniform(-0.1, 0.1, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
        inputs = self._with_sound([clip], ["Translate."])
        return int((inputs["input_ids"] == self.audio_token_id).sum())

    def require_whole(self) -> None:
        """Demand as many speech tokens as there is sound, up to the longest clip.

        Raises:
            ConfigError: The second half of the longest clip adds next to nothing: the processor cuts it off.
        """
        if self.kind.padded_seconds or self.kind.takes_files or not math.isfinite(self.longest_seconds):
            return
        half, whole = (self.tokens_for(self.longest_seconds * part) for part in (0.5, 1.0))
        if whole < 1.8 * half:
            raise ConfigError(
                "This processor cuts sound off without a word.",
                got=f"{half} speech tokens of {self.longest_seconds / 2:g} s, {whole} of twice as much",
                expected="as many as there is sound",
                advice="Say in a file of its class how long it hears: longest_seconds.",
            )


def _require_as_many(name: str, things: Sequence[Any], rows: Sequence[Any]) -> None:
    if isinstance(things, str) or len(things) != len(rows):
        raise ModelInputError(f"There are {len(things)} {name} for a batch of {len(rows)}.")
