"""Phi-3 and Phi-4: query, key and value are one fused projection."""

from aista.model.backbones import Family

FAMILY = Family(lora_targets=("qkv_proj",))
