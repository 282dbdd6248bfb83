"""Bases of real classes, tiny and random, and models on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from aista.model import AistaForConditionalGeneration, AistaProcessor, BeatsConfig, BeatsModel
from aista.speech_llm import Batch
from tests.tiny import tokenizer, whisper

SIZES = {"vocab_size": 262, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512}
BACKBONES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **GATED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **GATED)),
    "qwen2_tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **GATED, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **GATED, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=262, n_embd=32, n_layer=3, n_head=4, n_positions=512)
    ),
}
QFORMER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


class Bases:
    """Makes a base when it is first asked for; every base is the same in every run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> str:
        folder = self.root / name
        if not folder.exists():
            self._make(name, folder)
        return str(folder)

    def _make(self, name: str, folder: Path) -> None:
        if name.startswith("whisper"):
            whisper(folder, positions=int(name.removeprefix("whisper")))
            return
        torch.manual_seed(2)
        if name == "beats":
            sizes = {
                "hidden_size": 16,
                "patch_embed_dim": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            }
            BeatsModel(BeatsConfig(**sizes, intermediate_size=24, conv_pos_groups=4)).save_pretrained(folder)
            return
        BACKBONES[name]().save_pretrained(folder)
        tokenizer(folder)

    def model(self, backbone: str = "qwen2", positions: int = 102, beats: bool = True, **settings):
        """A model on tiny bases, and its processor. LoRA is not zero, so that it matters."""
        settings = {"qformer": QFORMER, "template": "chatml", "dtype": "float32"} | settings
        audio = self.path("beats") if beats else None
        whisper_path = self.path(f"whisper{positions}")
        model = AistaForConditionalGeneration.from_bases(whisper_path, self.path(backbone), audio, **settings)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.data.normal_(std=0.3, generator=generator)
        return model, AistaProcessor.from_config(model.config)


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def pair(bases):
    """One model and its processor, shared by tests that leave them as they are."""
    return bases.model()


def run(model, batch: Batch, **options):
    """The model itself on a batch, as anyone would call a model of transformers."""
    return model(batch.input_ids, batch.attention_mask, labels=batch.labels, **batch.sound, **options)


def noise(*seconds: float, seed: int = 0) -> list[np.ndarray]:
    """Recordings of so many seconds."""
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(round(16_000 * s))).astype(np.float32) for s in seconds]
