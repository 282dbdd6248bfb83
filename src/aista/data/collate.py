"""From utterances and their sound to batches: what a processor is handed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.data.dataset import Content, SpeechDataset
from aista.data.manifest import Utterance
from aista.errors import ManifestError, ModelInputError
from aista.text.prompts import instruction

__all__ = ["Collator", "Content", "SpeechDataset"]


class Collator:
    """Hands the rows of a batch to the processor; may be sent to worker processes.

    Args:
        processor: Called as ``AistaProcessor`` is.
        transcripts: Also encode the transcripts, for the text branch of an alignment loss.
        transcript_answers: Let the transcripts be followed by question and answer, as the speech is.
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
        transcript_answers: bool = False,
        targets: bool = True,
        prompt_pool: bool = False,
        seed: int = 0,
    ) -> None:
        self.processor = processor
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
            transcript_answers=self.transcript_answers,
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
