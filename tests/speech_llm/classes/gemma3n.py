"""Gemma 3n."""

from tests.speech_llm.classes import Tiny, mel_with, pooled

TINY = Tiny(
    config={}, sound=mel_with("input_features_mask"), tokens=pooled, skipped="its vision tower needs timm"
)
