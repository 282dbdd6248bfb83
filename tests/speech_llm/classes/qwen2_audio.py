"""Qwen2-Audio."""

from tests.speech_llm.classes import AUDIO, TEXT, WHISPER, Tiny, mel_with, pooled

TINY = Tiny(
    config={
        "audio_config": {"model_type": "qwen2_audio_encoder", **WHISPER},
        "text_config": {"model_type": "qwen2", **TEXT},
        "audio_token_index": AUDIO,
    },
    sound=mel_with("feature_attention_mask"),
    tokens=pooled,
)
