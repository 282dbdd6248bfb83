"""VibeVoice."""

from tests.speech_llm.classes import Tiny, mel_with, pooled

TINY = Tiny(config={}, sound=mel_with("padding_mask"), tokens=pooled, skipped="no tiny model was written yet")
