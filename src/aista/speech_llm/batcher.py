"""From recordings, instructions and texts to batches, through a model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import ModelInputError
from aista.speech_llm.batch import Batch, Row
from aista.text.prompts import text_ids

Content = np.ndarray | str
"""What stands in a prompt's speech slot: samples (n,) at 16 kHz, cached features (frames, D), or text."""


class Batcher:
    """Makes batches for one model; may be sent to worker processes.

    Args:
        processor: A processor of transformers' contract: called with text and audio, it expands one
            placeholder to as many as there are speech embeddings.
        config: The model's configuration.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.audio_token_id: int = config.audio_token_id
        self.end: int = getattr(config, "end_token_id", self.tokenizer.eos_token_id)
        own_pad = self.tokenizer.pad_token_id
        self.pad: int = getattr(config, "pad_token_id", None) or (self.end if own_pad is None else own_pad)

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
            ids = [*text_ids(self.tokenizer, target), self.end][:max_target_tokens]
            answered.append(Row(row.prompt, row.start, row.stop, ids))
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
            rows.append(Row(ids, len(first), len(first) + row.stop - row.start, []))
        return Batch.of_rows(rows, self.pad, "right", batch.sound)

    def _replaced(self, row: Row, text: str, whole: bool = True) -> Row:
        inside = text_ids(self.tokenizer, text)
        before = row.prompt[: row.start] + inside
        if not whole:
            return Row(before, row.start, len(before), [])
        return Row(before + row.prompt[row.stop :], row.start, len(before), row.target)

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
        for kind in (heard, written):
            if not kind:
                continue
            options: dict[str, Any] = {"text_kwargs": {"padding": True}, "return_tensors": "pt"}
            if kind is heard:  # how sound is padded each extractor knows by itself
                options |= {"audio": [contents[i] for i in heard], "sampling_rate": SAMPLE_RATE_HZ}
            inputs = self.processor(text=[self.prompt(instructions[i]) for i in kind], **options)
            batch = Batch.of_inputs(dict(inputs), self.audio_token_id)
            if not batch.widest_span:
                raise ModelInputError(
                    "The processor left no place for the speech.", got=type(self.processor).__name__
                )
            rows |= zip(kind, batch.rows(), strict=True)
            if kind is heard:
                sound = batch.sound
            else:
                rows |= {i: self._replaced(rows[i], str(contents[i])) for i in kind}
        return [rows[i] for i in range(len(contents))], sound, heard

    def prompt(self, instruction: str) -> str:
        """Return the text of one request, its speech a single placeholder."""
        content = [{"type": "audio"}, {"type": "text", "text": instruction}]
        message = {"role": "user", "content": content}
        return self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)


def _require_as_many(name: str, things: Sequence[Any], rows: Sequence[Any]) -> None:
    if isinstance(things, str) or len(things) != len(rows):
        raise ModelInputError(f"There are {len(things)} {name} for a batch of {len(rows)}.")
