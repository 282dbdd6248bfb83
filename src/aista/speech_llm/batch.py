"""Batches of prompts in which speech, or a text in its place, stands, through a model's own processor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import ConfigError, ModelInputError
from aista.model.processing import numbers
from aista.speech_llm.classes import speech_class
from aista.text.prompts import broken_up, control_tokens, plain_ids

IGNORED = -100  # a label that the loss skips
Content = np.ndarray | str
"""What stands in a prompt's speech slot: samples (n,) at 16 kHz, cached features (frames, D), or text."""
# What processors give of the text beside its ids; models of speech alone do without.
_OF_TEXT = ("token_type_ids", "mm_token_type_ids")
_MOST_SLOTS = 1_000  # instructions whose prompt is kept; a corpus may have one of its own in every row


@dataclass(frozen=True)
class Row:
    """One sequence: prompt ids, the span in them (``start`` to ``stop - 1``), and the target ids.

    Attributes:
        holes: Places inside the span that are no speech: a class may put time stamps there.
    """

    prompt: list[int]
    start: int
    stop: int
    target: list[int]
    holes: tuple[int, ...] = ()

    @property
    def span(self) -> list[bool]:
        """Of every place of the prompt, whether speech stands there, or the text in its place."""
        inside = range(self.start, self.stop)
        return [place in inside and place not in self.holes for place in range(len(self.prompt))]


@dataclass(frozen=True)
class Batch:
    """B sequences of at most T positions.

    The numbers are the host's: with them a training step never asks an accelerator for one.

    Attributes:
        input_ids: (B, T) int64, with the model's placeholder at every speech token.
        attention_mask: (B, T) int64, 1 where real.
        span: (B, T) bool, where speech stands, or the text in its place.
        widest_span: Most positions of a span.
        labels: (B, T) int64, -100 outside the targets; None: nothing is to be predicted.
        num_targets: Labels that are predicted, in the whole batch.
        right_padded: No real token follows a pad, so causal attention needs no mask.
        sound: What else the model's ``forward`` takes, by name.
        heard: The rows that the sound belongs to, in its order; in the others a text stands in the slot.
    """

    input_ids: Tensor
    attention_mask: Tensor
    span: Tensor
    widest_span: int
    labels: Tensor | None
    num_targets: int
    right_padded: bool
    sound: dict[str, Any]
    heard: tuple[int, ...]

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Row],
        pad: int,
        side: str,
        sound: dict[str, Any] | None = None,
        heard: Sequence[int] | None = None,
    ) -> Batch:
        """Pad sequences.

        Args:
            pad: Id that fills rows.
            side: ``right`` or ``left``, or ``between``: pads stand between prompt and target, as SALMONN
                trains.
            sound: The rest of what the model takes.
            heard: The rows it belongs to; None: all of them.

        Raises:
            ModelInputError: There is no such side.
        """
        if side not in ("right", "left", "between"):
            raise ModelInputError("Unknown padding_side.", got=side, expected="left, right or between")
        spans = [(row.span, [False] * len(row.target)) for row in rows]
        labels = [([IGNORED] * len(row.prompt), row.target) for row in rows]
        real = [([1] * len(row.prompt), [1] * len(row.target)) for row in rows]
        return cls(
            input_ids=_stack([(row.prompt, row.target) for row in rows], pad, side),
            attention_mask=_stack(real, 0, side),
            span=_stack(spans, 0, side).bool(),
            widest_span=max(sum(span) for span, _ in spans),
            labels=_stack(labels, IGNORED, side) if any(row.target for row in rows) else None,
            num_targets=sum(len(row.target) for row in rows),
            right_padded=side == "right",
            sound=sound or {},
            heard=tuple(range(len(rows)) if heard is None else heard) if sound else (),
        )

    @classmethod
    def of_inputs(cls, inputs: dict[str, Any], audio_token_id: int, labels: Tensor | None = None) -> Batch:
        """Make a batch of what any processor gave; the numbers are read from the tensors.

        Args:
            inputs: ``input_ids``, ``attention_mask``, and the sound.
            audio_token_id: The model's placeholder.
            labels: (B, T), if something is to be predicted.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        span = ids == audio_token_id
        sound = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        return cls(
            input_ids=ids,
            attention_mask=mask,
            span=span,
            widest_span=int(span.sum(1).max()),
            labels=labels,
            num_targets=0 if labels is None else int((labels[:, 1:] != IGNORED).sum()),
            right_padded=bool((mask[:, 1:] <= mask[:, :-1]).all()),
            sound=sound,
            heard=tuple(span.any(1).nonzero()[:, 0].tolist()) if sound else (),
        )

    def rows(self) -> list[Row]:
        """Return the sequences without their pads."""
        rows = []
        labels = torch.full_like(self.input_ids, IGNORED) if self.labels is None else self.labels
        masks = self.attention_mask.bool()
        for ids, real, span, label in zip(self.input_ids, masks, self.span, labels, strict=True):
            asked = label[real] != IGNORED
            places = span[real].nonzero()[:, 0].tolist()
            start, stop = (places[0], places[-1] + 1) if places else (0, 0)
            holes = tuple(sorted({*range(start, stop)} - {*places}))
            rows.append(Row(ids[real][~asked].tolist(), start, stop, ids[real][asked].tolist(), holes))
        return rows

    def inputs(self) -> dict[str, Any]:
        """Return what the model's ``forward`` takes; the mask only where a pad precedes a real token."""
        mask = None if self.right_padded else self.attention_mask
        return {"input_ids": self.input_ids, "attention_mask": mask, **self.sound}

    def of_heard(self, values: Tensor) -> Tensor:
        """Return those of B values (B, ...) whose rows have sound, in their order."""
        if len(self.heard) == self.size:
            return values
        return values.index_select(0, numbers(self.heard, values.device))

    @property
    def size(self) -> int:
        """B."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the same batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in memory that an accelerator copies from; data loaders ask for it."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        sound = {k: function(v) if isinstance(v, Tensor) else v for k, v in self.sound.items()}
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {k: function(v) for k, v in named.items() if isinstance(v, Tensor)}
        return replace(self, **moved, sound=sound)


def _stack(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], fill: int, side: str) -> Tensor:
    """Pad pairs of sequences, joined or (``between``) each to its own width: (B, T) int64."""
    if side == "between":
        halves: list[Any] = [[(one, []) for one in column] for column in zip(*pairs, strict=True)]
        return torch.cat([_stack(half, fill, "right") for half in halves], 1)
    rows = [torch.tensor([*first, *second], dtype=torch.int64) for first, second in pairs]
    return pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)


def take_span(states: Tensor, mask: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Take the marked positions out of a batch, moved to the front of each row.

    Args:
        states: (B, T, ...) anything by position: hidden states, token ids.
        mask: (B, T) bool, true at the positions to take.
        width: N, if the host knows it; else the device is asked.

    Returns:
        (B, N, ...) with N the most positions any row has, and its mask (B, N) bool; what is masked is
        arbitrary.
    """
    counts = mask.sum(1)
    width = int(counts.max()) if width is None else width
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    index = order.reshape(*order.shape, *[1] * (states.dim() - 2)).expand(-1, -1, *states.shape[2:])
    taken = torch.arange(width, device=mask.device)[None] < counts[:, None]
    return states.gather(1, index), taken


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
        self._of_transformers = type(processor).__module__.startswith("transformers.")
        self._slot_of: dict[str, Row] = {}  # by instruction
        self.kind, self.form = speech_class(config.model_type), form
        if form is not None:
            try:
                form.format(audio="", instruction="")
            except (KeyError, IndexError, ValueError) as error:
                raise ConfigError(
                    "A form has a field of its own.",
                    got=f"{form!r}: {error}",
                    expected="{audio} and {instruction}, and no other field",
                ) from None
        self.audio_token_id: Any = placeholder(config)
        self.end: Any = getattr(config, "end_token_id", self.tokenizer.eos_token_id) if end is None else end
        own_pad = self.tokenizer.pad_token_id
        self.pad: Any = getattr(config, "pad_token_id", None) or (self.end if own_pad is None else own_pad)
        extractor = getattr(processor, "feature_extractor", None)
        self.rate: int = getattr(extractor, "sampling_rate", SAMPLE_RATE_HZ)
        if hasattr(config, "max_samples"):  # ours, whose processor refuses what is longer
            self.longest_seconds = config.max_samples / SAMPLE_RATE_HZ
        else:
            most = getattr(extractor, "n_samples", None)
            self.longest_seconds = min(self.kind.longest_seconds, most / self.rate if most else math.inf)
        audio = getattr(processor, "audio_token", None)
        self._control = {*control_tokens(self.tokenizer), *([audio] if audio else [])}

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
            seconds = [len(clip) / SAMPLE_RATE_HZ if np.ndim(clip) == 1 else 0.0 for clip in clips]
            if max(seconds) > self.longest_seconds + 1e-9:  # feature extractors would cut it without a word
                raise ModelInputError(
                    f"Item {seconds.index(max(seconds))} is longer than the model hears at once.",
                    got=f"{max(seconds):.2f} s",
                    expected=f"at most {self.longest_seconds:.2f} s",
                    advice="Cut it at pauses with aista.audio.segment, or use 'aista translate', which does.",
                )
            batch = self._read(self._with_sound(clips, [instructions[i] for i in heard]), spoken=True)
            sound = batch.sound
            found = batch.rows()
            if self.kind.padded_seconds:
                found = [self._unpadded(row, clip) for row, clip in zip(found, clips, strict=True)]
            rows |= zip(heard, found, strict=True)
        if written:
            slots = self._slots([instructions[i] for i in written])
            texts = (str(contents[i]) for i in written)
            found = [self._replaced(row, text) for row, text in zip(slots, texts, strict=True)]
            rows |= zip(written, found, strict=True)
        return [rows[i] for i in range(len(contents))], sound, heard

    def _slots(self, instructions: Sequence[str]) -> list[Row]:
        """Return the rows of prompts in which a text is to stand where speech would."""
        if not (self.kind.takes_files or self._of_transformers):
            return self._read(self._processed(list(map(self.prompt, instructions))), spoken=False).rows()
        # transformers' refuse a placeholder without sound, and some put tokens of their own around the sound
        if len(self._slot_of) > _MOST_SLOTS:
            self._slot_of.clear()
        if new := [text for text in dict.fromkeys(instructions) if text not in self._slot_of]:
            batch = self._read(self._with_sound([_some_noise(0.5)] * len(new), new), spoken=True)
            self._slot_of |= zip(new, batch.rows(), strict=True)
        return [self._slot_of[instruction] for instruction in instructions]

    def _read(self, inputs: Any, *, spoken: bool) -> Batch:
        batch = Batch.of_inputs({k: v for k, v in inputs.items() if k not in _OF_TEXT}, self.audio_token_id)
        if not batch.widest_span or (spoken and not batch.sound):
            raise ModelInputError(
                "The processor left no place for the speech, or left the sound out.",
                got=f"{type(self.processor).__name__}: {', '.join(inputs)}",
                advice="Choose another form, or write a file for its class.",
            )
        return batch

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
        of_text: dict[str, Any] = {"padding": True}
        bos = getattr(self.tokenizer, "bos_token", None)
        if self._of_transformers and bos and texts[0].startswith(bos):
            of_text["add_special_tokens"] = False  # the template wrote it: no second one
        return self.processor(text=texts, text_kwargs=of_text, return_tensors="pt", **sound)

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
        inputs = self._with_sound([_some_noise(seconds)], ["Translate."])
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


def _some_noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.1, 0.1, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def _require_as_many(name: str, things: Sequence[Any], rows: Sequence[Any]) -> None:
    if isinstance(things, str) or len(things) != len(rows):
        raise ModelInputError(f"There are {len(things)} {name} for a batch of {len(rows)}.")
