"""Gemma 3n: 188 positions whatever the length; those without sound hold an embedding of padding.

Its blocks hand on four streams; the hidden state is the active one, the first. Its vision tower wants the
package timm, which this project does not take: the class is tested without vision.
"""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(projector=("embed_audio",), padded_seconds=30.0, stream=0)
