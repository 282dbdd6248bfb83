"""Granite Speech Plus: as Granite Speech."""

from aista.speech_llm.classes.granite_speech import CLASS

__all__ = ["CLASS"]
