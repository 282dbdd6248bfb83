"""Music Flamingo: Audio Flamingo 3 whose embeddings are turned by their time."""

from tests.speech_llm.classes.audioflamingo3 import TINY

__all__ = ["TINY"]
