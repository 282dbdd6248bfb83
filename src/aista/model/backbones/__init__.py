"""Families of language models: what the speech LLM has to know about a backbone besides loading it.

A family is a module of this package named after transformers' ``model_type``, with one name in it:
``FAMILY``. Anything without a module of its own is treated as ``default`` (the Llama way of naming things,
which most causal LMs follow). A dotted name takes the family from a third party's package.
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

    def decoder_of(self, backbone: nn.Module) -> nn.Module:
        """Return the stack below the LM head."""
        return _follow(backbone, self.decoder)

    def blocks_of(self, backbone: nn.Module) -> nn.ModuleList:
        """Return the list of blocks, first to last."""
        return _follow(self.decoder_of(backbone), self.blocks)


def _follow(module: nn.Module, path: str) -> Any:
    try:
        return reduce(getattr, path.split("."), module) if path else module
    except AttributeError as error:
        raise ConfigError(
            f"This backbone has no part at {path!r}.",
            got=type(module).__name__,
            advice="Describe it in a family file, see docs/guides/own-backbone.md.",
        ) from error


def names() -> list[str]:
    """Return the families that have a file here."""
    return plugins.names(__name__)


def family(model_type: str) -> Family:
    """Return the family of a model type, or the one at a dotted name.

    Args:
        model_type: As in the model's ``config.json``; or ``package.module`` with a ``FAMILY`` in it.

    Raises:
        ConfigError: A dotted name leads nowhere.
    """
    kind = "backbone family"
    name = model_type if "." in model_type or model_type in names() else "default"
    return plugins.member(plugins.find(__name__, name, kind=kind), "FAMILY", kind=kind)
