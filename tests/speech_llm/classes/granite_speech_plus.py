"""Granite Speech Plus: as Granite Speech."""

from tests.speech_llm.classes.granite_speech import TINY

__all__ = ["TINY"]
