"""Ours goes through the same door."""

from tests.speech_llm.classes import TEXT, WHISPER, Tiny, mel

TINY = Tiny(
    config={
        "speech_config": {
            "model_type": "whisper",
            "vocab_size": 32,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 24,
            **{token: 0 for token in ("pad_token_id", "bos_token_id", "eos_token_id")},
            "decoder_start_token_id": 1,
            **WHISPER,
        },
        "qformer_config": {
            "hidden_size": 16,
            "encoder_hidden_size": 16,
            "num_hidden_layers": 1,
            "cross_attention_frequency": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        },
        "text_config": {"model_type": "qwen2", **TEXT},
        "end_token_id": 2,
    },
    sound=lambda frames: {"input_features": mel(frames)[0], "num_samples": [160 * n for n in frames]},
    tokens=lambda model, frames: model.config.tokens_for(160 * frames),
)
