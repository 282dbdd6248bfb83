"""Gemma 3n, an identity in place of its vision tower: as many positions whatever the length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from transformers import AutoModel, Gemma3nVisionConfig

from tests.speech_llm.classes import AUDIO, MEL, TEXT, VOCABULARY, Tiny, mel

SLOTS = 160


def _sound(frames: list[int]) -> dict[str, Any]:
    drawn, mask = mel(frames)
    return {"input_features": drawn.transpose(1, 2).repeat(1, 1, 4), "input_features_mask": mask.bool()}


@contextmanager
def without_vision() -> Iterator[None]:
    """Let its vision tower be none: it wants timm."""
    made = AutoModel.from_config

    def from_config(config: Any, **options: Any) -> Any:
        if isinstance(config, Gemma3nVisionConfig):
            return torch.nn.Identity()
        return made(config, **options)

    with mock.patch.object(AutoModel, "from_config", from_config):
        yield


TINY = Tiny(
    config={
        "audio_config": {
            "vocab_size": 4,
            "vocab_offset": VOCABULARY - 4,
            "input_feat_size": 4 * MEL,
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [4, 2],
            "conf_reduction_factor": 1,
        },
        "vision_config": {
            "hidden_size": 16,
            "vocab_size": 4,
            "vocab_offset": VOCABULARY - 8,
            "label_names": ["one"],
        },
        "text_config": {
            **TEXT,
            "vocab_size_per_layer_input": VOCABULARY - 8,
            "hidden_size_per_layer_input": 4,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        "audio_token_id": AUDIO,
        "image_token_id": VOCABULARY - 5,
        "audio_soft_tokens_per_image": SLOTS,
    },
    sound=_sound,
    tokens=lambda model, frames: SLOTS,
    around=without_vision,
)
