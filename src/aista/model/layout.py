"""A batch in numbers that the host knows: a step never has to ask the device for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aista.model.spans import IGNORED, Row


@dataclass(frozen=True)
class Layout:
    """Counts of a batch. The processor writes them down for training; elsewhere they are read from the masks.

    Attributes:
        speech_tokens: Places of speech in the whole batch.
        widest_speech: Most places of speech in a row.
        targets: Labels that are predicted, in the whole batch.
        right_padded: No real token follows a pad, so causal attention needs no mask.
        widest_transcript: Most transcript tokens in a row of the text branch; 0: there is no text branch.
    """

    speech_tokens: int = 0
    widest_speech: int = 0
    targets: int = 0
    right_padded: bool = False
    widest_transcript: int = 0

    @classmethod
    def read(
        cls, attention_mask: Tensor, speech_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Layout:
        """Count in the masks (B, T). On an accelerator this waits for it."""
        speech = [0] if speech_mask is None else speech_mask.sum(1).tolist()
        return cls(
            speech_tokens=sum(speech),
            widest_speech=max(speech),
            targets=0 if labels is None else int((labels[:, 1:] != IGNORED).sum()),
            right_padded=bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all()),
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Row], side: str) -> Layout:
        """Count in rows that are yet to be padded on a side."""
        speech = [row.slot.stop - row.slot.start for row in rows if row.speech]
        return cls(
            speech_tokens=sum(speech),
            widest_speech=max(speech, default=0),
            targets=sum(len(row.target) - (not row.prompt) for row in rows if row.target),
            right_padded=side == "right",
        )

    @classmethod
    def of(
        cls,
        given: Layout | None,
        attention_mask: Tensor,
        speech_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Layout:
        """Return what was given where reading would stop an accelerator; on the CPU the masks decide."""
        if given is not None and attention_mask.device.type != "cpu":
            return given
        return cls.read(attention_mask, speech_mask, labels)


def places(mask: Tensor, count: int | None = None) -> Tensor:
    """Return where a mask holds, as numbers into its flattened form: (n,) int64, in order.

    Args:
        mask: Bool, any shape.
        count: How often it holds; without it the device is asked.
    """
    if count is None:
        return mask.flatten().nonzero()[:, 0]
    return torch.nonzero_static(mask.flatten(), size=count)[:, 0]


def take(states: Tensor, where: Tensor) -> Tensor:
    """Take the numbered places out of (B, T, ...): (n, ...)."""
    return states.flatten(0, 1).index_select(0, where)


def put(states: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """Return a copy of (B, T, d) with (n, d) at the numbered places."""
    return states.flatten(0, 1).index_copy(0, where, values.to(states.dtype)).unflatten(0, states.shape[:2])
