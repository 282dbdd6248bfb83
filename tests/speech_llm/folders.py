"""Folders of somebody else's speech LLMs: a tiny model of ``classes`` beside its real processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, WhisperFeatureExtractor

from tests import tiny
from tests.speech_llm.classes import CLASSES, MEL

SECONDS = 6
# Processor, what makes its features, and the tokens before, for and after the sound.
WHISPERS = WhisperFeatureExtractor(feature_size=MEL, chunk_length=SECONDS, return_attention_mask=True)
AROUND = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
KNOWN: dict[str, tuple[str, Any, tuple[str, str, str]]] = {
    "audioflamingo3": ("AudioFlamingo3Processor", WHISPERS, ("", "<sound>", "")),
    "moss_transcribe_diarize": (
        "MossTranscribeDiarizeProcessor",
        transformers.MossTranscribeDiarizeFeatureExtractor(feature_size=MEL, chunk_length=SECONDS),
        AROUND,
    ),
    "musicflamingo": ("MusicFlamingoProcessor", WHISPERS, ("<|sound_bos|>", "<sound>", "<|sound_eos|>")),
    "qwen3_asr": (
        "Qwen3ASRProcessor",
        transformers.Qwen3ASRFeatureExtractor(feature_size=MEL, chunk_length=SECONDS),
        AROUND,
    ),
    "vibevoice_asr": (
        "VibeVoiceAsrProcessor",
        transformers.VibeVoiceAcousticTokenizerFeatureExtractor(),
        ("<|object_ref_start|>", "<|box_start|>", "<|object_ref_end|>"),
    ),
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}SOUND{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def saved(name: str, folder: Path) -> Path:
    """Save a model of this class and its processor, as a repository holds them."""
    kind, extractor, (before, sign, after) = KNOWN[name]
    named = {"audio_bos_token": before, "audio_token": sign, "audio_eos_token": after}
    named = {key: token for key, token in named.items() if token}
    tokens = AutoTokenizer.from_pretrained(tiny.tokenizer(folder), extra_special_tokens=named)
    # Music Flamingo's processor puts its own tokens around the sound.
    shown = sign if name == "musicflamingo" else before + sign + after
    made = getattr(transformers, kind)(extractor, tokens, chat_template=TEMPLATE.replace("SOUND", shown))
    made.save_pretrained(folder)
    drawn = CLASSES[name]
    ids = {"pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id}
    config: dict[str, Any] = {
        **drawn.config,
        **(ids if name == "qwen3_asr" else {}),  # which has them beside its parts too
        "audio_token_id": tokens.convert_tokens_to_ids(sign),
        "text_config": drawn.config["text_config"] | ids | {"vocab_size": len(tokens)},
    }
    if name == "vibevoice_asr":  # its processor counts 3,200 samples a token
        for part in ("acoustic_tokenizer_encoder_config", "semantic_tokenizer_encoder_config"):
            config[part] = config[part] | {"downsampling_ratios": [10, 16, 20]}
        config["acoustic_tokenizer_chunk_size"] = 3_200 * 64
    replace(drawn, config=config).model(name).save_pretrained(folder)
    return folder
