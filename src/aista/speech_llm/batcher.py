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
            contents: B recordings, B cached features, or B texts that stand where speech would.
            instructions: What the model is asked to do with each.
            padding_side: ``left``, to generate; ``right``: SALMONN's habit.

        Raises:
            ModelInputError: The numbers of things differ, kinds are mixed, or the sound is unusable.
        """
        return self._batch(*self._prompts(contents, instructions), padding_side)

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
        rows, sound = self._prompts(contents, instructions)
        _require_as_many("targets", targets, rows)
        answered = []
        for row, target in zip(rows, targets, strict=True):
            ids = [*text_ids(self.tokenizer, target), self.end][:max_target_tokens]
            answered.append(Row(row.prompt, row.start, row.stop, ids))
        return self._batch(answered, sound, padding_side)

    def written(
        self, batch: Batch, transcripts: Sequence[str], *, whole: bool = False, padding_side: str = "right"
    ) -> Batch:
        """Put transcripts in the place of a batch's speech: the text branch (Section 4.3).

        Args:
            batch: On the CPU; its span is replaced from the first to the last placeholder.
            transcripts: B texts.
            whole: Also what follows the speech; without it rows end with the transcript, whose hidden states
                cannot depend on what follows (causal attention).

        Returns:
            A batch without sound, its span over the transcripts.
        """
        rows = batch.rows()
        _require_as_many("transcripts", transcripts, rows)
        return self._batch(
            [self._replaced(row, text, whole) for row, text in zip(rows, transcripts, strict=True)],
            {},
            padding_side,
        )

    def _batch(self, rows: Sequence[Row], sound: dict[str, Any], side: str) -> Batch:
        return Batch.of_rows(rows, self.pad, side, sound)

    def _replaced(self, row: Row, text: str, whole: bool = True) -> Row:
        inside = text_ids(self.tokenizer, text)
        before = row.prompt[: row.start] + inside
        if not whole:
            return Row(before, row.start, len(before), [])
        return Row(before + row.prompt[row.stop :], row.start, len(before), row.target)

    def _prompts(
        self, contents: Sequence[Content], instructions: Sequence[str]
    ) -> tuple[list[Row], dict[str, Any]]:
        """Return the rows of the prompts, and the rest of the model's inputs."""
        _require_as_many("instructions", instructions, contents)
        texts = [self.prompt(instruction) for instruction in instructions]
        options: dict[str, Any] = {"text_kwargs": {"padding": True}, "return_tensors": "pt"}
        if not (of_text := _are_texts(contents)):  # how sound is padded each extractor knows by itself
            options |= {"audio": list(contents), "sampling_rate": SAMPLE_RATE_HZ}
        inputs = self.processor(text=texts, **options)
        batch = Batch.of_inputs(dict(inputs), self.audio_token_id)
        rows = batch.rows()
        if not batch.widest_span:
            raise ModelInputError(
                "The processor left no place for the speech.", got=type(self.processor).__name__
            )
        if of_text:
            rows = [self._replaced(row, str(text)) for row, text in zip(rows, contents, strict=True)]
        return rows, batch.sound

    def prompt(self, instruction: str) -> str:
        """Return the text of one request, its speech a single placeholder."""
        content = [{"type": "audio"}, {"type": "text", "text": instruction}]
        message = {"role": "user", "content": content}
        return self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)


def _are_texts(contents: Sequence[Content]) -> bool:
    """Say whether texts stand where speech would.

    Raises:
        ModelInputError: There is nothing, or sound and text are mixed.
    """
    kinds = {isinstance(content, str) for content in contents}
    if not kinds:
        raise ModelInputError("An empty batch cannot be prepared.")
    if len(kinds) > 1:
        raise ModelInputError(
            "A batch mixes sound and text.",
            advice="Keep rows of task mt in a manifest of their own, apart from rows with audio.",
        )
    return kinds.pop()


def _require_as_many(name: str, things: Sequence[Any], rows: Sequence[Any]) -> None:
    if isinstance(things, str) or len(things) != len(rows):
        raise ModelInputError(f"There are {len(things)} {name} for a batch of {len(rows)}.")
