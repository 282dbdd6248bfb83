"""AI-STA's own model: its processor writes requests in the template of its backbone."""

from aista.speech_llm.classes import SpeechClass, chat

CLASS = SpeechClass(projector=("window_qformer",), prompt=chat)
