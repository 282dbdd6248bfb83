"""The tensors of a batch: its sound on the way to the speech tokens, and numbered positions in it.

Positions are taken out and put back without asking an accelerator how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from aista.errors import ModelInputError


@dataclass(frozen=True)
class SpeechInputs:
    """The sound of B recordings: what the encoders take, or what they gave before.

    Attributes:
        num_samples: Length of every recording at 16 kHz. It stays on the host: from it follow the numbers of
            windows and speech tokens, so nothing has to ask an accelerator for them. None: every window
            counts.
        input_features: (B, mel bins, 2 * positions) log-mel, for the speech encoder.
        fbank: (B, T, 128) filterbank for BEATs, and ``fbank_mask`` (B, T) bool.
        speech_features: (B, F, D) what ``encode_audio`` gave before, in place of the other tensors.
    """

    num_samples: tuple[int, ...] | None = None
    input_features: Tensor | None = None
    fbank: Tensor | None = None
    fbank_mask: Tensor | None = None
    speech_features: Tensor | None = None

    def __post_init__(self) -> None:
        if self.num_samples is not None:
            object.__setattr__(self, "num_samples", tuple(int(n) for n in self.num_samples))

    @classmethod
    def pop(cls, options: dict[str, Any]) -> SpeechInputs | None:
        """Take the fields out of a call's keyword arguments; None where there is no sound among them."""
        found = cls(**{name: options.pop(name, None) for name in NAMES})
        return found if found.size else None

    @property
    def size(self) -> int:
        """B; 0 where there is no sound."""
        given = self.speech_features if self.speech_features is not None else self.input_features
        return 0 if given is None else given.shape[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are there, by name: what ``pop`` takes."""
        return {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}

    def to(self, device: torch.device | str) -> SpeechInputs:
        """Return the same with its tensors on a device."""
        named = self.to_dict()
        moved: dict[str, Any] = {k: v.to(device) for k, v in named.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


NAMES = tuple(field.name for field in fields(SpeechInputs))


def require_placeholders(found: Tensor, expected: list[int]) -> None:
    """Demand that every row with sound has a placeholder for each of its speech tokens.

    Args:
        found: (B,) placeholders of every row, on the CPU.
        expected: Speech tokens of every row with sound, in their order; rows without have no placeholder.

    Raises:
        ModelInputError: There is sound without placeholders, or the reverse, or their numbers differ.
    """
    if not expected and not found.any():
        return
    if not expected or not found.any():
        raise ModelInputError(
            "There is audio but no <Speech> slot for it." if expected else "The <Speech> slot has no audio.",
            advice="Build the batch with the processor of this model.",
        )
    if found[found > 0].tolist() != expected:
        raise ModelInputError(
            "The <Speech> slots do not have the length of the speech.",
            got=f"{found.tolist()} placeholders",
            expected=f"{expected} speech tokens",
            advice="Processor and model must agree in speech_tokens.",
        )


def positions(mask: Tensor, count: int | None = None) -> Tensor:
    """Return where a mask holds, as numbers into its flattened form: (n,) int64, in order.

    Args:
        mask: Bool, any shape.
        count: How often it holds; without it the device is asked.
    """
    if count is None:
        return mask.flatten().nonzero()[:, 0]
    return torch.nonzero_static(mask.flatten(), size=count)[:, 0]


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """Bring numbers (n,) that the host knows to a device, without waiting for it."""
    made = torch.tensor(values, dtype=torch.int64)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)


def take(states: Tensor, where: Tensor) -> Tensor:
    """Take the numbered positions out of (B, T, ...): (n, ...)."""
    return states.flatten(0, 1).index_select(0, where)


def put(states: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """Return a copy of (B, T, d) with (n, d) at the numbered positions."""
    return states.flatten(0, 1).index_copy(0, where, values.to(states.dtype)).unflatten(0, states.shape[:2])
