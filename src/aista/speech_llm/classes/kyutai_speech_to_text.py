"""Kyutai speech to text: codebooks of the sound are summed at every step."""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(refusal="sound is added to every position, so no position is speech alone")
