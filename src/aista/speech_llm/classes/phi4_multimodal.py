"""Phi-4-multimodal: query, key and value are one projection; its checkpoint brings LoRA for speech.

That LoRA lies in a folder of its own. It is merged into the decoder for good, so that speech and text run
through the same weights. The class is tested at the level of the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aista.model.lora import merge
from aista.speech_llm.classes import SpeechClass, token_in_text

SPEECH_LORA = "speech-lora"


def _one_set_of_weights(model: Any, folder: Path) -> None:
    if (folder / SPEECH_LORA).is_dir():
        model.load_adapter(str(folder / SPEECH_LORA))
        merge(model)


CLASS = SpeechClass(
    projector=("up_proj_for_speech", "down_proj_for_speech"),
    lora_targets=("qkv_proj",),
    prompt=token_in_text,
    prepare=_one_set_of_weights,
)
