"""Tiny random models of transformers' classes: each with sound of the right shape for two clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

import aista.model  # noqa: F401 (teaches the Auto classes about ours)
from aista.speech_llm.adapter import auto_class

VOCABULARY, AUDIO = 60, 59
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MEL, POSITIONS = 8, 40
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": MEL,
    "max_source_positions": POSITIONS,
}


@dataclass(frozen=True)
class Tiny:
    """One class.

    Attributes:
        config: Settings of its configuration.
        sound: From frames of every clip, the tensors of the sound.
        tokens: From the model and the frames of a clip, the number of its speech tokens.
        projector: What names the parts between encoder and language model.
    """

    config: dict[str, Any]
    sound: Callable[[list[int]], dict[str, Any]]
    tokens: Callable[[Any, int], int]
    projector: str = "multi_modal_projector"

    def model(self, model_type: str) -> Any:
        """Draw its weights; the same ones every time."""
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **self.config)
        return auto_class(config).from_config(config).eval()


def _mel(frames: list[int], width: int = 2 * POSITIONS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(2, MEL, width, generator=generator)[: len(frames)]
    mask = torch.arange(width)[None] < torch.tensor(frames)[:, None]
    return mel.masked_fill(~mask[:, None], 0.0), mask.long()


def _whisper_with(name: str) -> Callable[[list[int]], dict[str, Any]]:
    def sound(frames: list[int]) -> dict[str, Any]:
        mel, mask = _mel(frames)
        return {"input_features": mel, name: mask}

    return sound


def _pooled(model: Any, frames: int) -> int:
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def _granite(frames: list[int]) -> dict[str, Any]:
    """Windows of 15 frames become 3 embeddings; those of padding are masked away."""
    mel, _ = _mel(frames)
    features = mel.transpose(1, 2)[:, : max(frames)].repeat(1, 1, 2)
    counts = torch.tensor([_granite_tokens(None, n) for n in frames])
    real = torch.arange(_granite_tokens(None, max(frames)))[None] < counts[:, None]
    return {"input_features": features, "input_features_mask": real}


def _granite_tokens(model: Any, frames: int) -> int:
    return -(-frames // 15) * 3


CLASSES = {
    "aista": Tiny(  # ours goes through the same door
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
        sound=lambda frames: {"input_features": _mel(frames)[0], "num_samples": [160 * n for n in frames]},
        tokens=lambda model, frames: model.config.tokens_for(160 * frames),
        projector="window_qformer",
    ),
    "qwen2_audio": Tiny(
        config={
            "audio_config": {"model_type": "qwen2_audio_encoder", **WHISPER},
            "text_config": {"model_type": "qwen2", **TEXT},
            "audio_token_index": AUDIO,
        },
        sound=_whisper_with("feature_attention_mask"),
        tokens=_pooled,
    ),
    "audioflamingo3": Tiny(
        config={
            "audio_config": {
                "model_type": "audioflamingo3_encoder",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "num_mel_bins": MEL,
                "max_source_positions": POSITIONS,
            },
            "text_config": {"model_type": "qwen2", **TEXT},
            "audio_token_id": AUDIO,
        },
        sound=_whisper_with("input_features_mask"),
        tokens=_pooled,
    ),
    "voxtral": Tiny(
        config={
            "audio_config": {
                "model_type": "voxtral_encoder",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "num_mel_bins": MEL,
                "max_source_positions": POSITIONS,
            },
            "text_config": {"model_type": "llama", **TEXT},
            "audio_token_id": AUDIO,
        },
        sound=lambda frames: {"input_features": _mel(frames)[0]},
        tokens=lambda model, frames: POSITIONS // 4,
    ),
    "granite_speech": Tiny(
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
            "text_config": {"model_type": "granite", **{k: v for k, v in TEXT.items() if k != "head_dim"}},
            "audio_token_index": VOCABULARY + 3,  # beyond the vocabulary
            "has_lora_adapter": False,
        },
        sound=_granite,
        tokens=_granite_tokens,
        projector="projector",
    ),
}
