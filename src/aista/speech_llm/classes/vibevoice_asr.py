"""VibeVoice: its encoder draws noise unless told not to; it hears 24 kHz, which sound is brought to."""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(forward_options={"sample": False})
