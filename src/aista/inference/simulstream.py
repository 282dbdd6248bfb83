"""Our streams in simulstream (``pip install '.[streaming]'``): for its server, web page and inference.

A configuration for it::

    type: aista.inference.simulstream.AistaProcessor
    model: aista:model        # a folder, or nothing for the model that is shipped
    source_language: en
    target_language: zh
    speech_chunk_size: 1.0    # seconds

Source: the interface ``SpeechProcessor`` of simulstream 1.0 (hlt-mt/simulstream, Apache-2.0).
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
from simulstream.server.speech_processors import SpeechProcessor
from simulstream.server.speech_processors.incremental_output import IncrementalOutput

from aista.inference.streaming import Stream
from aista.inference.translating import SpeechTranslator
from aista.inference.translator import load


class AistaProcessor(SpeechProcessor):
    """One stream of a client of simulstream; all streams share the model of ``load_model``."""

    _translator: SpeechTranslator | None = None
    _at_the_model = threading.Lock()  # the server asks its processors from threads

    @classmethod
    def load_model(cls, config: SimpleNamespace) -> None:
        """Load the model that the configuration names, once."""
        if cls._translator is None:
            cls._translator = load(getattr(config, "model", None), device=getattr(config, "device", None))

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__(config)
        self.source = getattr(config, "source_language", "en")
        self.target = getattr(config, "target_language", "zh")
        self._stream: Stream | None = None

    def set_source_language(self, language: str) -> None:
        """Set what is spoken, by ISO code."""
        self.source = language

    def set_target_language(self, language: str) -> None:
        """Set what to translate into, by ISO code."""
        self.target = language

    def process_chunk(self, waveform: Any) -> IncrementalOutput:
        """Hear a chunk (n,), float32 at 16 kHz."""
        with self._at_the_model:
            return _output(self._open().push(np.asarray(waveform, dtype=np.float32)).text)

    def end_of_stream(self) -> IncrementalOutput:
        """Say what is left."""
        with self._at_the_model:
            return _output(self._open().finish().text)

    def tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces of text as they were given out."""
        return "".join(tokens)

    def clear(self) -> None:
        """Forget the stream."""
        self._stream = None

    def _open(self) -> Stream:
        if self._stream is None:
            if self._translator is None:
                self.load_model(self.config)
            assert self._translator is not None
            seconds = self.speech_chunk_size
            self._stream = Stream(self._translator, self.target, source=self.source, chunk_seconds=seconds)
        return self._stream


def _output(text: str) -> IncrementalOutput:
    return IncrementalOutput([text] if text else [], text, [], "")
