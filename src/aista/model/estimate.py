"""What a model costs before it exists: parameters and tokens exactly (on the meta device), memory roughly."""

from __future__ import annotations

from collections.abc import Callable
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
    part = {"layers": 32, "attention_heads": 20, "ffn_dim": 5120}
    both: Any = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in part.items()}
    return WhisperConfig(d_model=1280, vocab_size=51865, **both)


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


PRESETS: dict[str, tuple[Callable[[], PreTrainedConfig], str]] = {
    "vicuna-13b": (lambda: vicuna("13b"), "vicuna"),
    "vicuna-7b": (lambda: vicuna("7b"), "vicuna"),
    "qwen2-7b": (qwen2_7b, "qwen_flat"),
}


def preset(name: str) -> AistaConfig:
    """Return one of the paper's set-ups by name.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError("Unknown preset.", got=name, expected=", ".join(PRESETS))
    backbone, template = PRESETS[name]
    return preset_config(backbone(), template)


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
    count = dict.fromkeys(("speech_encoder", "audio_encoder", "window_qformer", "backbone"), 0)
    for name, parameter in model.named_parameters():
        count[name.partition(".")[0]] += parameter.numel()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lora = trainable - count["window_qformer"]
    speech = config.tokens_for(min(round(seconds * SAMPLE_RATE_HZ), config.max_samples))
    length = speech + PROMPT_TOKENS + TARGET_TOKENS
    weights = (
        count["speech_encoder"] * _BYTES[dtype]
        + (count["backbone"] - lora) * _BYTES[quantization or dtype]
        + 4 * (count["audio_encoder"] + trainable)
    )
    text, tokens, beams = config.text_config, batch_size * length, batch_size * num_beams
    # A 16-bit decoder keeps 34 h bytes for a token and layer until its backward pass, or its input alone.
    per_layer, layers = 34.0 * text.hidden_size, text.num_hidden_layers
    kept = 2.0 * text.hidden_size * layers + per_layer if checkpointing else per_layer * layers
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    training = {
        "weights": weights,
        "gradients and optimiser": 12.0 * trainable,
        "activations": kept * tokens,
        "logits": 10.0 * tokens * text.vocab_size,
    }
    inference = {
        "weights": weights,
        "keys and values": 4.0 * beams * (length + NEW_TOKENS) * layers * heads * head,
        "logits": 8.0 * beams * text.vocab_size,
    }
    return Estimate(
        parameters={**count, "total": sum(count.values()), "trainable": trainable, "lora": lora},
        speech_tokens=speech,
        tokens_per_utterance=length,
        training_gib=_gib(training),
        inference_gib=_gib(inference),
    )


def _gib(terms: dict[str, float]) -> dict[str, float]:
    rounded = {name: round(size / GIB, 2) for name, size in terms.items()}
    return {**rounded, "total": round(sum(terms.values()) / GIB, 2)}
