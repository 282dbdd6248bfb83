"""Any speech LLM behind one interface: all that selects, aligns, trains, evaluates and translates uses it."""

from aista.speech_llm.adapter import Output, SpeechLM
from aista.speech_llm.batch import IGNORED, Batch, Batcher, Content, Row, take_span

__all__ = ["IGNORED", "Batch", "Batcher", "Content", "Output", "Row", "SpeechLM", "take_span"]
