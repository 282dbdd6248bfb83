"""Floating point operations of a training step by formula, and what a card can do at most.

Counted is what the mathematics needs, a multiplication and an addition as two: no recomputation, no padding,
no softmax, norm or activation function. Per pass of n tokens through a matrix of a x b: ``2 n a b``.

* Frozen encoders: forward alone. Whisper over all its positions (30 s, however short the clip): two
  convolutions, and per block ``2 P (4 d^2 + 2 d f) + 4 P^2 d``. BEATs over the patches of the clip.
* Window Q-Former and projection: trained, so forward and twice that backward; one query per window.
* Backbone: frozen, so the backward pass needs gradients of activations and none of weights: as much again
  for the matrices, twice as much for attention. It is causal: ``2 q T (T + 1)`` per row, half the square.
* LoRA: forward, and twice that backward.
* LM head: at the places that predict a target, forward and backward.
* Text branch (AI-STA): prefix and transcript, forward, through the blocks below the highest aligned layer.

The Wasserstein distances themselves (15 x 15 problems of width d) are left out: below a thousandth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from aista.audio.signal import num_fbank_frames
from aista.model import AistaConfig

# Dense bfloat16 tensor operations per second, float32 accumulation, from NVIDIA's data sheets.
PEAKS = (
    ("B200", 2250e12),
    ("H200", 989.4e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
)


def peak_flops(card: str) -> float | None:
    """Return a card's highest dense bfloat16 rate by its name, or None: unknown."""
    for name, rate in PEAKS:
        if re.search(rf"\b{name}\b", card, re.IGNORECASE):
            return rate
    return None


@dataclass(frozen=True)
class Lengths:
    """What a batch holds: samples of each clip, tokens of each sequence, predicted targets, and tokens of
    each row of the text branch."""

    samples: list[int]
    tokens: list[int]
    targets: int
    text_tokens: list[int]


@dataclass(frozen=True)
class StepFlops:
    """Operations of a step by part."""

    speech_encoder: float
    audio_encoder: float
    qformer: float
    backbone: float
    lora: float
    head: float
    text_branch: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))


def step_flops(
    config: AistaConfig, lengths: Lengths, layers: Iterable[int] = (), *, encoders: bool = True
) -> StepFlops:
    """Count a training step.

    Args:
        layers: Aligned layers; none: cross-entropy alone.
        encoders: False: their outputs were cached.
    """
    text, clips = config.text_config, len(lengths.samples)
    products, attention = _decoder(text, lengths.tokens, text.num_hidden_layers)
    read = sum(_decoder(text, lengths.text_tokens, max(layers, default=0)))
    rank, (q, kv) = config.lora["r"], _widths(text)
    per_token = 2 * rank * (2 * text.hidden_size + q + kv)  # beside the query and the value projection
    return StepFlops(
        speech_encoder=clips * _whisper(config.speech_config) if encoders else 0,
        audio_encoder=_beats(config.audio_config, lengths.samples) if encoders and config.audio_config else 0,
        qformer=3 * _qformer(config, lengths.samples),
        backbone=2 * products + 3 * attention,
        lora=3 * per_token * sum(lengths.tokens) * text.num_hidden_layers,
        head=4 * lengths.targets * text.hidden_size * text.vocab_size,
        text_branch=read,
    )


def _widths(text: Any) -> tuple[int, int]:
    """Return the width of all queries and of all keys."""
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return size * text.num_attention_heads, size * text.num_key_value_heads


def _decoder(text: Any, tokens: list[int], blocks: int) -> tuple[float, float]:
    """Return a forward pass's operations with weights and in attention (SwiGLU blocks, causal)."""
    q, kv = _widths(text)
    width, inner = text.hidden_size, text.intermediate_size
    weights = 2 * width * q + 2 * width * kv + 3 * width * inner
    attended = sum(length * (length + 1) for length in tokens)
    return 2.0 * sum(tokens) * weights * blocks, 2.0 * q * attended * blocks


def _encoder(width: int, inner: int, positions: int, blocks: int) -> float:
    """Return a forward pass of plain bidirectional blocks over one row."""
    return blocks * (2.0 * positions * (4 * width**2 + 2 * width * inner) + 4.0 * positions**2 * width)


def _whisper(speech: Any) -> float:
    width, positions = speech.d_model, speech.max_source_positions
    stem = 2.0 * 3 * (2 * positions * speech.num_mel_bins * width + positions * width**2)
    return stem + _encoder(width, speech.encoder_ffn_dim, positions, speech.encoder_layers)


def _beats(audio: Any, samples: list[int]) -> float:
    total, width, patch = 0.0, audio.hidden_size, audio.patch_size
    for number in samples:
        frames = num_fbank_frames(max(number, audio.min_samples))
        places = (frames // patch) * (audio.num_mel_bins // patch)
        stem = patch**2 * audio.patch_embed_dim + audio.patch_embed_dim * width
        position = audio.conv_pos * width**2 // audio.conv_pos_groups
        blocks = _encoder(width, audio.intermediate_size, places, audio.num_hidden_layers)
        total += 2.0 * places * (stem + position) + blocks
    return total


def _qformer(config: AistaConfig, samples: list[int]) -> float:
    """Return a forward pass over every window, each by itself."""
    shape, queries, frames = config.qformer_config, config.queries_per_window, config.frames_per_window
    windows = sum(config.windows_for(number) for number in samples)
    width = shape.hidden_size
    own = 4 * width**2 * queries + 2 * queries**2 * width
    crossing = 2 * width**2 * queries + 2 * frames * config.feature_dim * width + 2 * queries * frames * width
    inner = 2 * width * shape.intermediate_size * queries
    crossings = -(-shape.num_hidden_layers // shape.cross_attention_frequency)
    block = shape.num_hidden_layers * (own + inner) + crossings * crossing
    projection = queries * width * config.text_config.hidden_size
    return 2.0 * windows * (block + projection)
