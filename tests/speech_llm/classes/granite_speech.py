"""Granite Speech: windows of 15 frames become 3 embeddings; those of padding are masked away."""

from __future__ import annotations

from typing import Any

import torch

from tests.speech_llm.classes import MEL, QWEN_TEXT, VOCABULARY, Tiny, mel


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, _ = mel(frames)
    features = drawn.transpose(1, 2)[:, : max(frames)].repeat(1, 1, 2)
    counts = torch.tensor([_tokens(None, n) for n in frames])
    real = torch.arange(_tokens(None, max(frames)))[None] < counts[:, None]
    return {"input_features": features, "input_features_mask": real}


def _tokens(model: Any, frames: int) -> int:
    return -(-frames // 15) * 3


TINY = Tiny(
    config={
        "encoder_config": {
            "input_dim": 2 * MEL,
            "num_layers": 1,
            "hidden_dim": 16,
            "num_heads": 2,
            "output_dim": 10,
            "context_size": 20,
            "max_pos_emb": 32,
            "conv_kernel_size": 3,
        },
        "projector_config": {
            "model_type": "blip_2_qformer",
            "hidden_size": 16,
            "encoder_hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        },
        "text_config": {"model_type": "granite", **QWEN_TEXT},
        "audio_token_index": VOCABULARY + 3,  # beyond the vocabulary
        "has_lora_adapter": False,
    },
    sound=_sound,
    tokens=_tokens,
)
