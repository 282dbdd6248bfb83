"""Qwen2.5-Omni's thinker."""

from tests.speech_llm.classes import AUDIO, QWEN_TEXT, VISION, WHISPER, Tiny, mel_with, pooled

ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2]}
TINY = Tiny(
    config={
        "audio_config": {**WHISPER, "n_window": 20, "output_dim": 24},
        "vision_config": VISION,
        "text_config": {**QWEN_TEXT, "rope_parameters": ROPE, "tie_word_embeddings": False},
        "audio_token_index": AUDIO,
        "image_token_index": 58,
        "video_token_index": 57,
        "audio_start_token_id": 56,
        "vision_start_token_id": 55,
        "pad_token_id": 0,
    },
    sound=mel_with("feature_attention_mask"),
    tokens=pooled,
)
