"""Qwen3."""

from aista.model.backbones import Family

FAMILY = Family(template="chatml")
