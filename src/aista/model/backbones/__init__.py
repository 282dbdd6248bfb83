"""Families of language models: what the speech LLM has to know about a backbone besides loading it.

Those that were tested stand in ``FAMILIES``. A file in this folder adds one, or takes its place: it is
named after transformers' ``model_type`` and defines ``FAMILY``; a dotted name takes the family from a third
party's package. Any other model is treated as ``Family()``: the Llama way of naming things, which Mistral,
Gemma, OLMo and most causal LMs follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn

from aista import plugins
from aista.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """Where the parts of a causal LM are, and how it is best addressed.

    Attributes:
        decoder: Dotted path, from the causal LM, of the stack below the LM head.
        blocks: Dotted path, from the decoder, of the list of its blocks.
        lora_targets: Names of the linear layers that LoRA adapts (the paper: query and value projections).
        template: Prompt template that suits the family (a configuration may choose another).
    """

    decoder: str = "model"
    blocks: str = "layers"
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    template: str = "plain"

    def decoder_of(self, backbone: nn.Module) -> Any:
        """Return the stack below the LM head.

        Raises:
            ConfigError: It is not there.
        """
        try:
            return reduce(getattr, self.decoder.split("."), backbone)
        except AttributeError as error:
            raise ConfigError(
                f"This backbone has no part at {self.decoder!r}.",
                got=type(backbone).__name__,
                advice="Describe it in a family file, see docs/guides/own-backbone.md.",
            ) from error


FAMILIES: dict[str, Family] = {
    "gpt2": Family(decoder="transformer", blocks="h", lora_targets=("c_attn",)),  # one fused projection
    "llama": Family(template="vicuna"),  # also Vicuna: SALMONN and the paper's first system
    "opt": Family(decoder="model.decoder"),  # one level deeper than Llama's
    "phi3": Family(lora_targets=("qkv_proj",)),  # also Phi-4: one fused projection
    "qwen2": Family(template="qwen_flat"),  # the paper's second system is a base model, which knows no roles
    "qwen3": Family(template="chatml"),
}


def names() -> list[str]:
    """Return the families that are described here, in the table or in a file."""
    return sorted({*FAMILIES, *plugins.names(__name__)})


def family(model_type: str) -> Family:
    """Return the family of a model type, or the one at a dotted name.

    Args:
        model_type: As in the model's ``config.json``; or ``package.module`` with a ``FAMILY`` in it.

    Raises:
        ConfigError: A dotted name leads nowhere.
    """
    if "." not in model_type and model_type not in plugins.names(__name__):
        return FAMILIES.get(model_type, Family())
    kind = "backbone family"
    return plugins.member(plugins.find(__name__, model_type, kind=kind), "FAMILY", kind=kind)
