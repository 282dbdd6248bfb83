"""Gemma 4 without an encoder: frames of samples, each an embedding."""

from __future__ import annotations

from typing import Any

from tests.speech_llm.classes import MEL, Tiny, mel
from tests.speech_llm.classes.gemma4 import TINY as GEMMA4

_PER_LAYER = ("vocab_size_per_layer_input", "hidden_size_per_layer_input")


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, mask = mel([n // 4 for n in frames])
    return {"input_features": drawn.transpose(1, 2), "input_features_mask": mask.bool()}


TINY = Tiny(
    config={
        **GEMMA4.config,
        "audio_config": {"audio_embed_dim": MEL},
        "text_config": {k: v for k, v in GEMMA4.config["text_config"].items() if k not in _PER_LAYER},
    },
    sound=_sound,
    tokens=lambda model, frames: frames // 4,
)
