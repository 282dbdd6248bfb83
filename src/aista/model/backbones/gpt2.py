"""GPT-2: query, key and value are one fused projection."""

from aista.model.backbones import Family

FAMILY = Family(decoder="transformer", blocks="h", lora_targets=("c_attn",))
