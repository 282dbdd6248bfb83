"""Qwen2 and Qwen2.5: the paper's second system is the base Qwen2-7B, which knows no roles."""

from aista.model.backbones import Family

FAMILY = Family(template="qwen_flat")
