"""Gemma 4: two convolutions of stride 2 before its conformer; inputs of every layer come from the ids."""

from __future__ import annotations

from typing import Any

from tests.speech_llm.classes import AUDIO, MEL, TEXT, Tiny, mel


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, mask = mel(frames)
    return {"input_features": drawn.transpose(1, 2), "input_features_mask": mask.bool()}


TINY = Tiny(
    config={
        "audio_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [MEL, 2],  # it takes the first for the number of mel bins
            "output_proj_dims": 16,
        },
        "vision_config": None,
        "text_config": {
            **TEXT,
            "vocab_size_per_layer_input": TEXT["vocab_size"],
            "hidden_size_per_layer_input": 4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "global_head_dim": 12,
        },
        "audio_token_id": AUDIO,
        "image_token_id": 58,
        "video_token_id": 57,
    },
    sound=_sound,
    tokens=lambda model, frames: ((frames - 1) // 2 + 1 - 1) // 2 + 1,
)
