"""Qwen3-Omni's thinker: as Qwen2.5-Omni's, with a projector of two layers."""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(projector=("audio_tower.proj1", "audio_tower.proj2"))
