"""Granite Speech: its checkpoint brings LoRA that its class switches off where there is no sound.

Speech and text would then run through different weights, so it is merged into the decoder for good. Its
feature extractor wants the package torchaudio, which this project does not take: the class is tested at the
level of the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aista.model.lora import merge
from aista.speech_llm.classes import SpeechClass, token_in_text


def _one_set_of_weights(model: Any, _: Path) -> None:
    merge(model)
    model.config.has_lora_adapter = False


CLASS = SpeechClass(projector=("projector",), prompt=token_in_text, prepare=_one_set_of_weights)
