"""Objectives that draw the speech representations towards the text's: one method a file, found by its name.

A method is a module of this package (or a dotted path to a third party's) that defines ``Method``, a
subclass of :class:`aista.alignment.base.Alignment`. Nothing else has to be edited for a new one.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aista.plugins as plugins

if TYPE_CHECKING:
    from torch import Tensor

    from aista.alignment.base import Alignment
    from aista.alignment.base import gather_pairs as gather_pairs
    from aista.alignment.base import joint_loss as joint_loss
    from aista.ot.loss import WassersteinLoss as WassersteinLoss

_HOMES = {
    "WassersteinLoss": "aista.ot.loss",
    "gather_pairs": f"{__name__}.base",
    "joint_loss": f"{__name__}.base",
}
__all__ = ["PairedStates", "Sizes", "alignment", "method", "names", *_HOMES]


@dataclass(frozen=True)
class PairedStates:
    """What a method sees of one batch of speech-text pairs: only what it asked for.

    Real tokens may stand anywhere in their row. What stands where a mask is false is arbitrary.

    Attributes:
        speech: Layer number -> (batch, N, d) states at the speech positions, with gradient.
        speech_mask: (batch, N) bool, true where a speech token stands.
        text: Layer number -> (batch, M, d) states at the transcript positions, without gradient.
        text_mask: (batch, M) bool, true where a transcript token stands.
        transcript_ids: (batch, M) int64 token ids of the transcript.
        speech_logits: (batch, T, V) predictions of the target tokens given the speech, with gradient.
        text_logits: (batch, T, V) the same given the transcript, without gradient.
        logits_mask: (batch, T) bool, true where a target token is predicted.
    """

    speech: dict[int, Tensor]
    speech_mask: Tensor
    text: dict[int, Tensor]
    text_mask: Tensor
    transcript_ids: Tensor
    speech_logits: Tensor | None = None
    text_logits: Tensor | None = None
    logits_mask: Tensor | None = None


@dataclass(frozen=True)
class Sizes:
    """Sizes of the backbone, for a method that owns parameters.

    Attributes:
        hidden_size: Width d of its hidden states.
        vocab_size: Token ids are below it.
        seed: Of the method's own parameters.
    """

    hidden_size: int
    vocab_size: int
    seed: int = 0


def names() -> list[str]:
    """Return the name of every method in this package."""
    return plugins.names(__name__, hidden=("base",))


def method(name: str) -> type[Alignment]:
    """Return the class of a method.

    Args:
        name: Module name in this package, or the dotted path of a third party's module.

    Raises:
        ConfigError: No such method.
    """
    kind = "alignment method"
    return plugins.member(plugins.find(__name__, name, kind=kind, hidden=("base",)), "Method", kind=kind)


def alignment(name: str, layers: tuple[int, ...], sizes: Sizes | None = None, **options: Any) -> Alignment:
    """Build a method by name for the given layers.

    Args:
        name: As for :func:`method`.
        layers: Layers to align; a method with ``fixed_layers`` works at those.
        sizes: Of the backbone; handed on to methods whose ``__init__`` has a parameter of that name.
        options: Keyword arguments of the method.

    Its parameters are drawn from ``sizes.seed`` and leave the random state of the CPU untouched (a GPU's is
    seeded alike).

    Raises:
        ConfigError: No such method, it does not take these options, or it needs sizes and there are none.
    """
    import torch

    cls = method(name)
    given = cls.fixed_layers if cls.fixed_layers is not None else tuple(layers)
    options = plugins.options_of(cls, options, kind=f"The alignment method {name!r}")
    if "sizes" in inspect.signature(cls).parameters:
        options["sizes"] = sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sizes.seed if sizes else 0)
        return cls(given, **options)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
