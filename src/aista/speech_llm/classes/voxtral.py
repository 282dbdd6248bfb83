"""Voxtral: sound is filled with silence to whole multiples of 30 s, 375 positions each.

Its processor reads files through its chat template, and wants the package mistral-common, which this project
does not take: the class is tested at the level of the model.
"""

from aista.speech_llm.classes import SpeechClass

CLASS = SpeechClass(takes_files=True, padded_seconds=30.0)
