"""Objectives that draw the speech representations towards the text's: one method a file, found by its name.

A method is a module of this package (or a dotted path to a third party's) that defines ``Method``, a
subclass of :class:`Alignment`. Nothing else has to be edited for a new one.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aista.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from aista.alignment.base import Alignment
    from aista.alignment.wasserstein import WassersteinLoss as WassersteinLoss

__all__ = ["PairedStates", "WassersteinLoss", "alignment", "names"]


@dataclass(frozen=True)
class PairedStates:
    """Hidden states of one batch of speech-text pairs at the layers a method asked for.

    Attributes:
        speech: Layer number -> (batch, N, d) states at the speech positions, with gradient.
        speech_mask: (batch, N) bool, true where a speech token stands.
        text: Layer number -> (batch, M, d) states at the transcript positions, without gradient.
        text_mask: (batch, M) bool, true where a transcript token stands.
        transcript_ids: (batch, M) int64 token ids of the transcript, arbitrary where masked.
    """

    speech: dict[int, Tensor]
    speech_mask: Tensor
    text: dict[int, Tensor]
    text_mask: Tensor
    transcript_ids: Tensor


def names() -> list[str]:
    """Return the name of every method in this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def alignment(name: str, layers: tuple[int, ...], **options: Any) -> Alignment:
    """Build a method by name for the given layers.

    Raises:
        ConfigError: No such method, or it does not take these options.
    """
    dotted = name if "." in name else f"{__name__}.{name}"
    try:
        method = importlib.import_module(dotted).Method
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"No alignment method {name!r}.",
            got=str(error),
            expected=f"{', '.join(names())}, or the dotted path of a module that defines Method",
        ) from None
    try:
        return method(layers, **options)
    except TypeError as error:
        raise ConfigError(
            f"The alignment method {name!r} does not take these options.", got=str(error)
        ) from None


def __getattr__(name: str) -> Any:
    if name == "WassersteinLoss":
        return importlib.import_module("aista.alignment.wasserstein").WassersteinLoss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
