"""Other people's systems as tiny random models of their real classes, saved as their folders are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tests import tiny

SECONDS = 2
AUDIO = "<|AUDIO|>"
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 512,
}  # fmt: skip


def loud(model: Any) -> Any:
    """Make what a random model hears matter to what it says."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "projector" in name or "conv" in name:
                weight.mul_(30.0)
    return model


def tokenizer(folder: Path, audio: str = AUDIO) -> Any:
    """The byte tokenizer with an audio token."""
    tokens = AutoTokenizer.from_pretrained(tiny.tokenizer(folder))
    tokens.add_special_tokens({"additional_special_tokens": [audio]}, replace_extra_special_tokens=False)
    return tokens


def extractor(mels: int = 16, seconds: int = SECONDS) -> WhisperFeatureExtractor:
    """Whisper's features for two seconds."""
    return WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)


def whisper(folder: Path) -> Path:
    """A Whisper with its decoder and the byte tokenizer."""
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    config = WhisperConfig(
        vocab_size=len(tokens), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16,
        max_source_positions=50 * SECONDS, max_target_positions=12, pad_token_id=tokens.pad_token_id,
        bos_token_id=0, eos_token_id=tokens.eos_token_id, decoder_start_token_id=0, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    model = loud(WhisperForConditionalGeneration(config))
    model.generation_config.max_length = 12
    model.save_pretrained(folder)
    extractor().save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def qwen2_audio(folder: Path, seconds: int = SECONDS) -> Path:
    """A Qwen2-Audio that hears so many seconds."""
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    heard = {
        "num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "d_model": 16, "max_source_positions": 50 * seconds,
    }  # fmt: skip
    config = Qwen2AudioConfig(
        audio_config=heard,
        text_config={"model_type": "qwen2", "vocab_size": len(tokens), **TEXT},
        audio_token_index=tokens.convert_tokens_to_ids(AUDIO),
    )
    loud(Qwen2AudioForConditionalGeneration(config)).save_pretrained(folder)
    Qwen2AudioProcessor(extractor(seconds=seconds), tokens).save_pretrained(folder)
    return folder


def glm_asr(folder: Path) -> Path:
    """A GLM-ASR, which has a chat template of its own kind and no fixed span."""
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    heard = {
        "num_mel_bins": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16,
        "intermediate_size": 64, "max_position_embeddings": 50 * SECONDS,
    }  # fmt: skip
    config = GlmAsrConfig(
        audio_config=heard,
        text_config={"vocab_size": len(tokens), "eos_token_id": tokens.eos_token_id, **TEXT},
        audio_token_id=tokens.convert_tokens_to_ids(AUDIO),
    )
    loud(GlmAsrForConditionalGeneration(config)).save_pretrained(folder)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'audio' %}" + AUDIO + "{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    GlmAsrProcessor(extractor(), tokens, chat_template=template, audio_token=AUDIO).save_pretrained(folder)
    return folder
