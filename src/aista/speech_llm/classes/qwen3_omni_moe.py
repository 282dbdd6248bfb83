"""Qwen3-Omni: its thinker hears; its talker, which speaks, is left out."""

from dataclasses import replace

from aista.speech_llm.classes.qwen3_omni_moe_thinker import CLASS as THINKER

CLASS = replace(THINKER, part="thinker_config")
