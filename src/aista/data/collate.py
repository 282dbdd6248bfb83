"""From utterances and their sound to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aista.data.dataset import Content, SpeechDataset
from aista.data.manifest import Utterance
from aista.errors import ManifestError
from aista.text.prompts import instruction

__all__ = ["Collator", "Content", "SpeechDataset"]


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

    def instruction(self, utterance: Utterance) -> str:
        """Return what is asked of a row: its own prompt, or a wording of its task."""
        if utterance.prompt is not None:
            return utterance.prompt
        draw = f"{self.seed}-{int(self._epoch)}-{utterance.id}" if self.prompt_pool else None
        return instruction(utterance.task, utterance.answer_lang, draw=draw)

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
