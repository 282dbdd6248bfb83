"""Qwen2.5-Omni: its thinker hears; its talker, which speaks, is left out."""

from dataclasses import replace

from aista.speech_llm.classes.qwen2_5_omni_thinker import CLASS as THINKER

CLASS = replace(THINKER, part="thinker_config")
