"""VibeVoice: samples in, one embedding of every 160; its encoder's noise has to be off."""

from __future__ import annotations

from typing import Any

import torch

from tests.speech_llm.classes import AUDIO, QWEN_TEXT, Tiny

HOP = 160
ENCODER = {"num_filters": 4, "downsampling_ratios": [4, 5, 8], "depths": [1, 1, 1, 1], "ffn_expansion": 2}


def _sound(frames: list[int]) -> dict[str, Any]:
    width = max(frames) * HOP
    drawn = torch.randn(2, 1, width, generator=torch.Generator().manual_seed(1))[: len(frames)]
    mask = torch.arange(width)[None] < HOP * torch.tensor(frames)[:, None]
    return {"input_values": drawn * mask[:, None], "padding_mask": mask}


TINY = Tiny(
    config={
        "acoustic_tokenizer_encoder_config": {**ENCODER, "hidden_size": 8},
        "semantic_tokenizer_encoder_config": {**ENCODER, "hidden_size": 12},
        "text_config": {"model_type": "qwen2", **QWEN_TEXT},
        "audio_token_id": AUDIO,
        "acoustic_tokenizer_chunk_size": HOP * 512,
    },
    sound=_sound,
    tokens=lambda model, frames: frames,
    frames=(5, 47),
)
