"""What a model costs before it exists: parameters and tokens exactly (on the meta device), memory roughly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config, WhisperConfig

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import ConfigError
from aista.model.configuration import AistaConfig, BeatsConfig
from aista.model.loading import qformer_config
from aista.model.speech_lm import AistaForConditionalGeneration

GIB = 2**30
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.0, "4bit": 0.56}
# The texts around speech and target: a prompt of the templates, and a sentence.
PROMPT_TOKENS, TARGET_TOKENS = 32, 40
NEW_TOKENS = 200  # the longest answer at inference


def whisper_large_v2() -> WhisperConfig:
    """Return the configuration of openai/whisper-large-v2."""
    size: dict[str, Any] = {"d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "vocab_size": 51865}
    heads: dict[str, Any] = {"encoder_attention_heads": 20, "decoder_attention_heads": 20}
    return WhisperConfig(**size, **heads, encoder_ffn_dim=5120, decoder_ffn_dim=5120)


def vicuna(size: str) -> LlamaConfig:
    """Return the configuration of Vicuna ``7b`` or ``13b``."""
    width, layers, inner = {"7b": (4096, 32, 11008), "13b": (5120, 40, 13824)}[size]
    heads = width // 128
    return LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=heads
    )


def qwen2_7b() -> Qwen2Config:
    """Return the configuration of Qwen/Qwen2-7B."""
    heads: dict[str, Any] = {"num_attention_heads": 28, "num_key_value_heads": 4}
    size: dict[str, Any] = {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944}
    return Qwen2Config(**size, **heads, vocab_size=152064)


PRESETS = {
    "vicuna-13b": lambda: preset_config(vicuna("13b"), "vicuna"),
    "vicuna-7b": lambda: preset_config(vicuna("7b"), "vicuna"),
    "qwen2-7b": lambda: preset_config(qwen2_7b(), "qwen_flat"),
}


def preset_config(backbone: PreTrainedConfig, template: str) -> AistaConfig:
    """Return the paper's set-up on a backbone: Whisper-large-v2, BEATs, SALMONN's Q-Former, LoRA on q, v."""
    speech, audio = whisper_large_v2(), BeatsConfig()
    return AistaConfig(
        speech_config=speech,
        audio_config=audio,
        qformer_config=qformer_config({}, speech, audio),
        text_config=backbone,
        speech_tokens="padded",
        template=template,
    )


def preset(name: str) -> AistaConfig:
    """Return one of the paper's set-ups by name.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError("Unknown preset.", got=name, expected=", ".join(PRESETS))
    return PRESETS[name]()


def on_meta(config: AistaConfig) -> AistaForConditionalGeneration:
    """Build a model without memory for its weights."""
    with torch.device("meta"):
        return AistaForConditionalGeneration(config)


@dataclass(frozen=True)
class Estimate:
    """Sizes of a model and of working with it.

    Attributes:
        parameters: {part: number of parameters}; ``trainable`` is a part of the others.
        speech_tokens, tokens_per_utterance: For one utterance of the given length.
        training_gib, inference_gib: {what: GiB}, ``total`` included.
    """

    parameters: dict[str, int]
    speech_tokens: int
    tokens_per_utterance: int
    training_gib: dict[str, float]
    inference_gib: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def estimate(
    config: AistaConfig,
    *,
    batch_size: int = 8,
    seconds: float = 30.0,
    dtype: str = "bfloat16",
    quantization: str | None = None,
    num_beams: int = 4,
    checkpointing: bool = False,
) -> Estimate:
    """Estimate a model's size and memory.

    Args:
        config: Of the model; no weights are needed.
        batch_size: Utterances per step.
        seconds: Length of an utterance.
        dtype, quantization: Of the frozen bases; BEATs and everything trained are float32.
        num_beams: At inference, of answers of 200 tokens.
        checkpointing: Activations are computed again in the backward pass.

    Memory is a model of the main terms (weights, gradients and two Adam moments, activations of the backbone,
    logits, keys and values), right to perhaps a quarter; frameworks take 1-2 GiB more.
    """
    model = on_meta(config)
    count = {
        "speech_encoder": _count(model.speech_encoder),
        "audio_encoder": _count(model.audio_encoder) if model.audio_encoder is not None else 0,
        "window_qformer": _count(model.window_qformer),
        "backbone": _count(model.backbone),
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lora = trainable - count["window_qformer"]
    speech = config.tokens_for(min(round(seconds * SAMPLE_RATE_HZ), config.max_samples))
    length = speech + PROMPT_TOKENS + TARGET_TOKENS
    width = _BYTES[quantization or dtype]
    weights = (
        count["speech_encoder"] * _BYTES[dtype]
        + (count["backbone"] - lora) * width
        + 4 * (count["audio_encoder"] + trainable)
    )
    training = {
        "weights": weights,
        "gradients and optimiser": 12.0 * trainable,
        "activations": _activations(config.text_config, batch_size, length, checkpointing),
        "logits": 10.0 * batch_size * length * config.text_config.vocab_size,
    }
    inference = {
        "weights": weights,
        "keys and values": _cache(config.text_config, batch_size * num_beams, length + NEW_TOKENS),
        "logits": 8.0 * batch_size * num_beams * config.text_config.vocab_size,
    }
    return Estimate(
        parameters={**count, "total": sum(count.values()), "trainable": trainable, "lora": lora},
        speech_tokens=speech,
        tokens_per_utterance=length,
        training_gib=_gib(training),
        inference_gib=_gib(inference),
    )


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _gib(terms: dict[str, float]) -> dict[str, float]:
    rounded = {name: round(size / GIB, 2) for name, size in terms.items()}
    return {**rounded, "total": round(sum(terms.values()) / GIB, 2)}


def _activations(text: Any, batch: int, length: int, checkpointing: bool) -> float:
    """Bytes a 16-bit decoder keeps for its backward pass: 34 h per token and layer, or its input alone."""
    per_layer = 34.0 * text.hidden_size
    if checkpointing:
        return batch * length * (2.0 * text.hidden_size * text.num_hidden_layers + per_layer)
    return batch * length * per_layer * text.num_hidden_layers


def _cache(text: Any, rows: int, length: int) -> float:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2.0 * 2.0 * rows * length * text.num_hidden_layers * heads * size
