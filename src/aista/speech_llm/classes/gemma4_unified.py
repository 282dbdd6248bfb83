"""Gemma 4 without an encoder: what embeds the sound is its projector."""

from aista.speech_llm.classes.gemma4 import CLASS

__all__ = ["CLASS"]
