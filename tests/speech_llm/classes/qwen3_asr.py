"""Qwen3-ASR: chunks of 100 mel frames become 13 embeddings."""

from tests.speech_llm.classes import AUDIO, MEL, TEXT, Tiny, chunked, mel_with

TINY = Tiny(
    config={
        "audio_config": {
            "model_type": "qwen3_asr_encoder",
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "num_mel_bins": MEL,
            "n_window": 50,
            "n_window_infer": 100,
            "output_dim": 24,
            "downsample_hidden_size": 4,
        },
        "text_config": {"model_type": "qwen3", **TEXT},
        "audio_token_id": AUDIO,
        "pad_token_id": 0,
        "eos_token_id": 2,
    },
    sound=mel_with("input_features_mask"),
    tokens=chunked,
)
