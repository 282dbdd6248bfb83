"""MOSS-Transcribe-Diarize: four of Whisper's frames become one embedding."""

from __future__ import annotations

from typing import Any

import torch

from tests.speech_llm.classes import AUDIO, ENCODER, TEXT, Tiny, mel


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, mask = mel(frames)
    samples = torch.arange(160 * max(frames))[None] < 160 * torch.tensor(frames)[:, None]
    return {"input_features": drawn, "input_features_mask": mask, "padding_mask": samples}


TINY = Tiny(
    config={
        "audio_config": ENCODER,
        "text_config": {"model_type": "qwen3", **TEXT},
        "audio_token_id": AUDIO,
        "tie_word_embeddings": False,
    },
    sound=_sound,
    tokens=lambda model, frames: -(-((frames - 1) // 2 + 1) // 4),
)
