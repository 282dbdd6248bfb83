"""Stage 3 (paper 4.3): translation and alignment at the selected layers, trained together."""

from __future__ import annotations

from pathlib import Path

from aista.config import JointSettings
from aista.run_folder import claim, inputs_of
from aista.speech_llm import SpeechLM
from aista.training.aligning import aligned
from aista.training.arguments import require_reporters
from aista.training.run import FINISHED, Run, finished_run, train


def joint(settings: JointSettings) -> Run:
    """Fine-tune a stage-1 model with Eq. 6; ``alignment.method: none`` trains the base of the paper's tables.

    Running it again goes on where it stopped, or returns at once when it is finished.
    """
    output = Path(settings.output)
    require_reporters(settings.train)  # before the folder is claimed
    with claim(output, settings, lambda: inputs_of(settings), result=FINISHED) as done:
        if done:
            return finished_run(output)
        speech_llm = SpeechLM.load(settings.init)
        objective = aligned(speech_llm.model, settings.alignment, seed=settings.seed)
        return train(settings, objective, speech_llm.processor)
