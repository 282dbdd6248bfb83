"""Phi-4-multimodal: sound in ``audio_input_features``, with its sizes."""

from __future__ import annotations

from typing import Any

import torch

from tests.speech_llm.classes import AUDIO, QWEN_TEXT, Tiny, mel


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, mask = mel(frames)
    return {
        "audio_input_features": drawn.transpose(1, 2),
        "audio_embed_sizes": torch.tensor([_tokens(None, n) for n in frames]),
        "audio_attention_mask": mask.bool(),
    }


def _tokens(model: Any, frames: int) -> int:
    return -(-frames // 8)


TINY = Tiny(
    config={
        **QWEN_TEXT,
        "audio_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 8,
            "input_size": 8,
            "audio_token_id": AUDIO,
            "feature_layer": -1,
        },
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "crop_size": 28,
            "image_token_id": 58,
        },
    },
    sound=_sound,
    tokens=_tokens,
)
