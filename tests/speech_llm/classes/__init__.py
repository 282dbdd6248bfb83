"""Tiny random models of transformers' classes, each with sound of the right shape for two clips.

A class is a file here, named after its ``model_type``, that defines ``TINY``: the conformance suite takes it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import aista.model  # noqa: F401 (teaches the Auto classes about ours)
from aista.speech_llm import classes as package
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
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN_TEXT = {name: value for name, value in TEXT.items() if name != "head_dim"}
MEL, POSITIONS = 8, 300  # 6 s
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": MEL,
    "max_source_positions": POSITIONS,
}
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_mel_bins": MEL,
    "max_source_positions": POSITIONS,
}
VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 24}


@dataclass(frozen=True)
class Tiny:
    """One class.

    Attributes:
        config: Settings of its configuration.
        sound: From frames of every clip, the tensors of the sound.
        tokens: From the model and the frames of a clip, the number of its speech tokens.
        frames: Of the two clips: of 0.5 s and 4.7 s.
        around: What has to hold while a model of it is made.
        skipped: Why it cannot run here.
    """

    config: dict[str, Any]
    sound: Callable[[list[int]], dict[str, Any]]
    tokens: Callable[[Any, int], int]
    frames: tuple[int, int] = (50, 470)
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    skipped: str | None = None

    def model(self, model_type: str) -> Any:
        """Draw its weights; the same ones every time."""
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **self.config)
        with self.around():
            return auto_class(config).from_config(config).eval()


def mel(frames: list[int], width: int = 2 * POSITIONS) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw mel frames (2, MEL, width) and their mask."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(2, MEL, width, generator=generator)[: len(frames)]
    mask = torch.arange(width)[None] < torch.tensor(frames)[:, None]
    return drawn.masked_fill(~mask[:, None], 0.0), mask.long()


def mel_with(name: str) -> Callable[[list[int]], dict[str, Any]]:
    """Return how clips become ``input_features`` and a mask of this name."""

    def sound(frames: list[int]) -> dict[str, Any]:
        drawn, mask = mel(frames)
        return {"input_features": drawn, name: mask}

    return sound


def pooled(model: Any, frames: int) -> int:
    """Whisper's frames, in pairs."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def chunked(model: Any, frames: int) -> int:
    """Chunks of 100 mel frames become 13 embeddings."""
    left = (frames % 100 - 1) // 2 + 1
    return ((left - 1) // 2 + 1 - 1) // 2 + 1 + frames // 100 * 13


# Classes that the package describes, and why none of their models is drawn here.
UNDRAWN = {
    "qwen2_5_omni": "its thinker is what is loaded: qwen2_5_omni_thinker",
    "qwen3_omni_moe": "its thinker is what is loaded: qwen3_omni_moe_thinker",
}
_FILES = sorted(module.name for module in pkgutil.iter_modules(__path__))
CLASSES: dict[str, Tiny] = {name: importlib.import_module(f"{__name__}.{name}").TINY for name in _FILES}
#: Every class of the suite, those that cannot run here as skips with their reason.
PARAMS = [
    pytest.param(name, marks=pytest.mark.skip(reason=f"{name}: {tiny.skipped}")) if tiny.skipped else name
    for name, tiny in CLASSES.items()
]


def undrawn() -> list[str]:
    """Return the classes that the package describes and that neither run here nor say why."""
    refused = {name for name, known in package.CLASSES.items() if known.refusal}
    return sorted(set(package.names()) - refused - set(CLASSES) - set(UNDRAWN))
