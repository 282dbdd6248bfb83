"""GLM-ASR: four frames of its encoder become one embedding."""

from tests.speech_llm.classes import AUDIO, ENCODER, TEXT, Tiny, mel_with

TINY = Tiny(
    config={
        "audio_config": {"model_type": "glmasr_encoder", **ENCODER, "intermediate_size": 64},
        "text_config": {"model_type": "llama", **TEXT},
        "audio_token_id": AUDIO,
    },
    sound=mel_with("input_features_mask"),
    tokens=lambda model, frames: ((frames - 1) // 2 + 1 - 4) // 4 + 1,
)
