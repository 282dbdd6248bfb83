"""Music Flamingo: Audio Flamingo 3 whose embeddings are turned by their time."""

from tests.speech_llm.classes import AUDIO, ENCODER, TEXT, Tiny, mel_with, pooled

TINY = Tiny(
    config={
        "audio_config": {"model_type": "audioflamingo3_encoder", **ENCODER},
        "text_config": {"model_type": "qwen2", **TEXT},
        "audio_token_id": AUDIO,
    },
    sound=mel_with("input_features_mask"),
    tokens=pooled,
)
