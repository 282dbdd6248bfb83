"""Adaptive Inner Speech-Text Alignment (AI-STA) for LLM-based speech translation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AistaConfig": "aista.model.configuration",
    "AistaForConditionalGeneration": "aista.model.speech_lm",
    "AistaProcessor": "aista.model.processing",
    "AistaError": "aista.errors",
    "Translation": "aista.inference.translator",
    "Translator": "aista.inference.translator",
    "load": "aista.inference.translator",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from aista.errors import AistaError as AistaError
    from aista.inference.translator import Translation as Translation
    from aista.inference.translator import Translator as Translator
    from aista.inference.translator import load as load
    from aista.model.configuration import AistaConfig as AistaConfig
    from aista.model.processing import AistaProcessor as AistaProcessor
    from aista.model.speech_lm import AistaForConditionalGeneration as AistaForConditionalGeneration


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import aista`` alone loads no model code."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aista' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
