"""Gemma 4: as many positions as there is sound."""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(projector=("embed_audio",))
