"""Classes of speech LLMs: where one of transformers differs from the contract.

Those that were tested stand in ``CLASSES``. A file in this folder adds one, or takes its place: it is
named after transformers' ``model_type`` and defines ``CLASS``. Any other class is treated as
``SpeechClass()``: most follow the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers.processing_utils import ProcessorMixin

from aista import plugins
from aista.errors import ConfigError
from aista.model.lora import merge


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


def _merge_own_lora(model: Any, _: Path) -> None:
    """Granite Speech switches its LoRA off where there is no sound."""
    merge(model)
    model.config.has_lora_adapter = False


def _merge_speech_lora(model: Any, folder: Path) -> None:
    """Phi-4's LoRA for speech lies in a folder of its own."""
    if (folder / "speech-lora").is_dir():
        model.load_adapter(str(folder / "speech-lora"))
        merge(model)


# Speech and text must run through the same weights, so LoRA that a checkpoint brings along for its sound
# alone is merged into the decoder for good. Voxtral's processor (mistral-common), Granite's (torchaudio) and
# Gemma 3n's vision tower (timm) want packages that this project does without: they are tested as models.
_GRANITE = SpeechClass(projector=("projector",), prompt=token_in_text, prepare=_merge_own_lora)
_GEMMA4 = SpeechClass(projector=("embed_audio",))
# A thinker hears; its position ids have three dimensions, which of sound alone count alike, and which the
# decoder counts by itself where no mask is given. The talker beside it, which speaks, is left out.
_QWEN2_5_THINKER = SpeechClass(projector=("audio_tower.proj",))
_QWEN3_THINKER = SpeechClass(projector=("audio_tower.proj1", "audio_tower.proj2"))
_ADDED = SpeechClass(refusal="sound is added to every position, so no position is speech alone")

CLASSES: dict[str, SpeechClass] = {
    # 188 positions whatever the length; those without sound hold an embedding of padding. Its blocks hand on
    # four streams; the hidden state is the active one, the first.
    "gemma3n": SpeechClass(projector=("embed_audio",), padded_seconds=30.0, stream=0),
    "gemma4": _GEMMA4,
    "gemma4_unified": _GEMMA4,  # without an encoder: what embeds the sound is its projector
    "granite_speech": _GRANITE,
    "granite_speech_plus": _GRANITE,
    "kyutai_speech_to_text": _ADDED,  # codebooks of the sound, summed at every step
    "nemotron_h_omni": SpeechClass(refusal="its get_decoder gives a language model with its head, no blocks"),
    "phi4_multimodal": SpeechClass(
        projector=("up_proj_for_speech", "down_proj_for_speech"),
        lora_targets=("qkv_proj",),  # query, key and value are one projection
        prompt=token_in_text,
        prepare=_merge_speech_lora,
    ),
    "qwen2_5_omni": replace(_QWEN2_5_THINKER, part="thinker_config"),
    "qwen2_5_omni_thinker": _QWEN2_5_THINKER,
    "qwen3_omni_moe": replace(_QWEN3_THINKER, part="thinker_config"),
    "qwen3_omni_moe_thinker": _QWEN3_THINKER,
    "vibevoice": SpeechClass(refusal="it speaks: its sound is what it answers, or a voice to imitate"),
    "vibevoice_asr": SpeechClass(forward_options={"sample": False}),  # or its encoder draws noise
    "voxtral": SpeechClass(takes_files=True, padded_seconds=30.0),  # 375 positions each
    "voxtral_realtime": _ADDED,
}


def names() -> list[str]:
    """Return the classes that are described here, in the table or in a file."""
    return sorted({*CLASSES, *plugins.names(__name__)})


def speech_class(model_type: str) -> SpeechClass:
    """Return what is known about a class.

    Args:
        model_type: As in the model's ``config.json``.

    Raises:
        ConfigError: Models of this class cannot be used, and why.
    """
    found = CLASSES.get(model_type, SpeechClass())
    if model_type in plugins.names(__name__):
        kind = "class of speech LLMs"
        found = plugins.member(plugins.find(__name__, model_type, kind=kind), "CLASS", kind=kind)
    if found.refusal:
        raise ConfigError(
            "A speech LLM of this class cannot be probed, aligned or trained here.",
            got=f"{model_type}: {found.refusal}",
            expected="sound at placeholders of its own in a decoder's input, and get_decoder with its blocks",
        )
    return found
