"""Qwen3-Omni's thinker."""

from tests.speech_llm.classes import AUDIO, TEXT, VISION, WHISPER, Tiny, chunked, mel_with

ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}


TINY = Tiny(
    config={
        "audio_config": {
            **WHISPER,
            "n_window": 50,
            "n_window_infer": 100,
            "output_dim": 24,
            "downsample_hidden_size": 4,
        },
        "vision_config": {**VISION, "deepstack_visual_indexes": []},
        "text_config": {**TEXT, **EXPERTS, "rope_parameters": ROPE},
        "audio_token_id": AUDIO,
        "image_token_id": 58,
        "video_token_id": 57,
        "audio_start_token_id": 56,
        "vision_start_token_id": 55,
    },
    sound=mel_with("feature_attention_mask"),
    tokens=chunked,
)
