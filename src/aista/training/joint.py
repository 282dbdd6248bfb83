"""Stage 3 (paper 4.3): translation and alignment at the selected layers, trained together."""

from __future__ import annotations

from pathlib import Path

from aista.config import JointSettings
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.training.aligning import aligned
from aista.training.run import Run, finished, train


def joint(settings: JointSettings) -> Run:
    """Fine-tune a stage-1 model with Eq. 6; ``alignment.method: none`` trains the base of the paper's tables.

    Running it again goes on where it stopped, or returns at once when it is finished.
    """
    if done := finished(Path(settings.output), settings):
        return done
    model = AistaForConditionalGeneration.from_pretrained(settings.init)
    processor = AistaProcessor.from_pretrained(settings.init)
    objective = aligned(model, settings.alignment, seed=settings.seed)
    return train(settings, objective, processor)
