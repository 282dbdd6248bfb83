"""Voxtral: as many positions as the longest clip takes, whatever the length."""

from tests.speech_llm.classes import AUDIO, ENCODER, POSITIONS, TEXT, Tiny, mel

TINY = Tiny(
    config={
        "audio_config": {"model_type": "voxtral_encoder", **ENCODER, "intermediate_size": 64},
        "text_config": {"model_type": "llama", **TEXT},
        "audio_token_id": AUDIO,
    },
    sound=lambda frames: {"input_features": mel(frames)[0]},
    tokens=lambda model, frames: POSITIONS // 4,
)
