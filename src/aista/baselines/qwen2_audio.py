"""Qwen2-Audio in its base form, with the flat prompts of its own evaluation.

Its speech translation numbers are those of the base model (QwenLM/Qwen2-Audio issue 135). The official prompt
file is a download that is not in the repository; the wording here is the one that third-party code quotes.
"""

from __future__ import annotations

from aista.baselines import speech_llm
from aista.inference.translating import GenerationSettings

FLAT = "<|audio_bos|>{audio}<|audio_eos|>{instruction}"
PROMPTS = {
    "st": "Detect the language and translate the speech into {language}: <|{source}|>",
    "st-zh": "Detect the language and translate the speech into Mandarin: <|{source}|>",
    "asr": "Detect the language and recognize the speech: <|{source}|>",
    "aac": "Generate the caption in English:",
}


class System(speech_llm.System):
    """Qwen2-Audio-7B: greedy, at most 256 new tokens, sound in pieces of at most 30 s.

    Args:
        model: Folder or hub id.
        form: ``chat`` for the instruct model's own template.
        others: As for ``speech_llm``.

    Raises:
        CheckpointError: The weights cannot be loaded.
        ConfigError: It is another model.
    """

    own_generation = GenerationSettings(max_new_tokens=256, batch_size=8)
    prompts = PROMPTS
    kind = only_type = "qwen2_audio"
    own_form = FLAT
    own_model = "Qwen/Qwen2-Audio-7B"
