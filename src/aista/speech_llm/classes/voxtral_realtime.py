"""Voxtral Realtime: sound is added to every position of the text."""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(refusal="sound is added to every position, so no position is speech alone")
