"""Classes of speech LLMs: where one of transformers differs from the contract.

A class is a module of this package named after transformers' ``model_type``, with one name in it: ``CLASS``.
Anything without a module of its own is treated as ``SpeechClass()``: most classes follow the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.processing_utils import ProcessorMixin

from aista import plugins
from aista.errors import ConfigError


def chat(processor: Any, instruction: str) -> str:
    """Write one request with the processor's chat template: the speech, then the instruction."""
    content = [{"type": "audio"}, {"type": "text", "text": instruction}]
    message = {"role": "user", "content": content}
    return processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)


def token_in_text(processor: Any, instruction: str) -> str:
    """Write one request with the tokenizer's chat template, the audio token inside its text."""
    templated = processor if processor.chat_template else processor.tokenizer
    message = {"role": "user", "content": f"{processor.audio_token}{instruction}"}
    return templated.apply_chat_template([message], add_generation_prompt=True, tokenize=False)


def standard(processor: Any, instruction: str) -> str:
    """Write one request in the form that the processor has.

    Raises:
        ConfigError: It has no chat template.
    """
    writes_itself = type(processor).apply_chat_template is not ProcessorMixin.apply_chat_template
    if writes_itself or getattr(processor, "chat_template", None):
        return chat(processor, instruction)
    if getattr(getattr(processor, "tokenizer", None), "chat_template", None):
        return token_in_text(processor, instruction)
    raise ConfigError(
        "Nothing says how this model is asked: its processor has no chat template.",
        got=type(processor).__name__,
        expected="chat_template in the processor or in its tokenizer",
        advice="Write its form in a file of its class, see docs/guides/any-speech-llm.md.",
    )


@dataclass(frozen=True)
class SpeechClass:
    """What the adapter has to know about a class of speech LLMs beside transformers' contract.

    Attributes:
        projector: Ends of the dotted names of the modules between encoder and language model: what is trained
            beside LoRA.
        lora_targets: Names of the linear layers that LoRA adapts in the decoder.
        part: Name of the sub-configuration whose model hears, where the whole model does more.
        prompt: Writes one request, from processor and instruction.
        takes_files: The processor reads sound from files, through its chat template alone.
        longest_seconds: What is heard at once. Longer recordings are cut at quiet places, longer clips of
            training are refused: most feature extractors cut them without a word.
        padded_seconds: The processor fills sound with silence to whole multiples of so many seconds.
        stream: Which one is the hidden state, where blocks hand on several of them.
        forward_options: What ``forward`` and ``generate`` are always told.
        prepare: Called with a loaded model and its folder.
        refusal: Why this class cannot be used.
    """

    projector: tuple[str, ...] = ("multi_modal_projector", "projector")
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    part: str | None = None
    prompt: Callable[[Any, str], str] = standard
    takes_files: bool = False
    longest_seconds: float = 30.0
    padded_seconds: float | None = None
    stream: int = 0
    forward_options: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any, Path], None] | None = None
    refusal: str | None = None


def names() -> list[str]:
    """Return the classes that have a file here."""
    return plugins.names(__name__)


def speech_class(model_type: str) -> SpeechClass:
    """Return what is known about a class.

    Args:
        model_type: As in the model's ``config.json``.

    Raises:
        ConfigError: Models of this class cannot be used, and why.
    """
    if model_type not in names():
        return SpeechClass()
    kind = "class of speech LLMs"
    found: SpeechClass = plugins.member(plugins.find(__name__, model_type, kind=kind), "CLASS", kind=kind)
    if found.refusal:
        raise ConfigError(
            "A speech LLM of this class cannot be probed, aligned or trained here.",
            got=f"{model_type}: {found.refusal}",
            expected="sound that stands at placeholders of its own in a decoder's input",
        )
    return found
