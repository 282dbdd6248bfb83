"""Fun-ASR-Nano: every frame becomes one embedding; seven of the sound's are stacked before."""

from __future__ import annotations

from typing import Any

from tests.speech_llm.classes import AUDIO, ENCODER, TEXT, Tiny, mel


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, mask = mel(frames, width=max(frames))
    return {"input_features": drawn.transpose(1, 2), "input_features_mask": mask}


TINY = Tiny(
    config={
        "audio_config": {
            **{name: value for name, value in ENCODER.items() if name != "max_source_positions"},
            "num_hidden_layers": 2,
            "num_stacked_frames": 1,
            "num_timestamp_prediction_layers": 1,
        },
        "adaptor_config": {
            "hidden_size": 24,
            "num_attention_heads": 2,
            "intermediate_size": 6,
            "num_hidden_layers": 1,
            "projector_hidden_size": 16,
        },
        "text_config": {"model_type": "qwen3", **TEXT},
        "audio_token_id": AUDIO,
        "tie_word_embeddings": False,
    },
    sound=_sound,
    tokens=lambda model, frames: frames,
    frames=(9, 78),
)
