"""Bases of the real classes, tiny and random, and manifests of noise: what tests of whole stages run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from aista.audio.files import write_audio
from aista.config import JointSettings, PretrainSettings
from aista.data.manifest import Utterance, write_manifest

TEXTS = (
    "A bell rings.",
    "The dog sleeps.",
    "Seven red books.",
    "We walk home.",
    "It is late.",
    "Sing again.",
)


def whisper(folder: Path, positions: int = 102) -> Path:
    """A Whisper of one layer that hears ``positions`` frames of 20 ms."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80,
        max_source_positions=positions, max_target_positions=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def tokenizer(folder: Path) -> Path:
    """Every byte a token, and the special tokens of the chat form."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=letters, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|pad|>")
    fast.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|audio_eos|>"]}
    )
    fast.save_pretrained(folder)
    return folder


def language_model(folder: Path, kind: str = "qwen2", layers: int = 3) -> Path:
    """A causal language model of a real class with the byte tokenizer."""
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 262, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512,
    }  # fmt: skip
    model = (
        Qwen2ForCausalLM(Qwen2Config(**sizes)) if kind == "qwen2" else LlamaForCausalLM(LlamaConfig(**sizes))
    )
    model.save_pretrained(folder)
    return tokenizer(folder)


def manifest(path: Path, count: int = 12, task: str = "st") -> Path:
    """Noise of 0.4 to 1.9 s with texts that belong to it."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        sound = path.parent / f"{path.stem}_{i}.wav"
        write_audio(sound, (rng.standard_normal(6_400 + 2_000 * i) * 0.1).astype(np.float32))
        target = {"tgt_lang": "zh", "translation": "好" * (1 + i % 3)} if task == "st" else {"tgt_lang": "en"}
        rows.append(Utterance(id=f"u{i}", audio=sound.name, text=TEXTS[i % 6], task=task, **target))
    write_manifest(path, rows)
    return path


def texts(path: Path, count: int = 6) -> Path:
    """Sentences with their translations, without sound."""
    rows = [
        Utterance(
            id=f"t{i}", text=TEXTS[i % 6] * (1 + i % 2), task="mt", tgt_lang="zh", translation="书" * (1 + i)
        )
        for i in range(count)
    ]
    write_manifest(path, rows)
    return path


def pretrain_settings(folder: Path, **train: object) -> PretrainSettings:
    """Stage 1 on tiny bases under ``folder``, four steps."""
    steps = {
        "max_steps": 4,
        "per_device_train_batch_size": 3,
        "save_steps": 2,
        "logging_steps": 1,
        "warmup_steps": min(2, int(str(train.get("max_steps", 2)))),
    }
    return PretrainSettings.of(
        {
            "output": str(folder / "stage1"),
            "model": {
                "speech_encoder": str(whisper(folder / "whisper")),
                "backbone": str(language_model(folder / "lm")),
                "qformer": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
            },
            "data": {"train": [str(manifest(folder / "asr.jsonl", task="asr"))]},
            "train": {**steps, "learning_rate": 1e-3, **train},
            "seed": 3,
        }
    )


def joint_settings(folder: Path, init: str, **changes: object) -> JointSettings:
    """Stage 3 on a tiny stage-1 model, four steps, validated every second one."""
    steps = {
        "max_steps": 4,
        "per_device_train_batch_size": 3,
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 1,
    }
    train = {**steps, "learning_rate": 1e-3, **changes.pop("train", {})}  # type: ignore[dict-item]
    train.setdefault("warmup_steps", min(2, train["max_steps"]))
    data = {
        "train": [str(manifest(folder / "st.jsonl"))],
        "validation": [str(manifest(folder / "dev.jsonl", count=4))],
    }
    values = {"output": str(folder / "joint"), "init": init, "data": data, "train": train, "seed": 3}
    return JointSettings.of({**values, "alignment": {"layers": [0, 1]}, **changes})
