"""Qwen2.5-Omni's thinker: the encoder's last layer is the projector; positions have three dimensions.

Of sound alone all three count alike, and the decoder counts them by itself where no mask is given.
"""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(projector=("audio_tower.proj",))
