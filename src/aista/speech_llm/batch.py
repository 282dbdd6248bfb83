"""One batch of token sequences in which speech, or a text in its place, stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aista.errors import ModelInputError
from aista.model.inputs import numbers

IGNORED = -100  # a label that the loss skips
SIDES = ("right", "left", "between")


@dataclass(frozen=True)
class Row:
    """One sequence: prompt ids, the span in them (``start`` to ``stop - 1``), and the target ids.

    Attributes:
        holes: Places inside the span that are no speech: a class may put time stamps there.
    """

    prompt: list[int]
    start: int
    stop: int
    target: list[int]
    holes: tuple[int, ...] = ()

    @property
    def span(self) -> list[bool]:
        """Of every place of the prompt, whether speech stands there, or the text in its place."""
        inside = range(self.start, self.stop)
        return [place in inside and place not in self.holes for place in range(len(self.prompt))]


@dataclass(frozen=True)
class Batch:
    """B sequences of at most T positions.

    The numbers are the host's: with them a training step never asks an accelerator for one.

    Attributes:
        input_ids: (B, T) int64, with the model's placeholder at every speech token.
        attention_mask: (B, T) int64, 1 where real.
        span: (B, T) bool, where speech stands, or the text in its place.
        widest_span: Most positions of a span.
        labels: (B, T) int64, -100 outside the targets; None: nothing is to be predicted.
        num_targets: Labels that are predicted, in the whole batch.
        right_padded: No real token follows a pad, so causal attention needs no mask.
        sound: What else the model's ``forward`` takes, by name.
        heard: The rows that the sound belongs to, in its order; in the others a text stands in the slot.
    """

    input_ids: Tensor
    attention_mask: Tensor
    span: Tensor
    widest_span: int
    labels: Tensor | None
    num_targets: int
    right_padded: bool
    sound: dict[str, Any]
    heard: tuple[int, ...]

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Row],
        pad: int,
        side: str,
        sound: dict[str, Any] | None = None,
        heard: Sequence[int] | None = None,
    ) -> Batch:
        """Pad sequences.

        Args:
            pad: Id that fills rows.
            side: ``right`` or ``left``, or ``between``: pads stand between prompt and target, as SALMONN
                trains.
            sound: The rest of what the model takes.
            heard: The rows it belongs to; None: all of them.

        Raises:
            ModelInputError: There is no such side.
        """
        if side not in SIDES:
            raise ModelInputError("Unknown padding_side.", got=side, expected="left, right or between")
        ids = _stack([(row.prompt, row.target) for row in rows], pad, side)
        spans = [row.span for row in rows]
        nothing = [[0] * len(row.target) for row in rows]
        labels = [([IGNORED] * len(row.prompt), row.target) for row in rows]
        real = [([1] * len(row.prompt), [1] * len(row.target)) for row in rows]
        return cls(
            input_ids=ids,
            attention_mask=_stack(real, 0, side),
            span=_stack(list(zip(spans, nothing, strict=True)), 0, side).bool(),
            widest_span=max(map(sum, spans)),
            labels=_stack(labels, IGNORED, side) if any(row.target for row in rows) else None,
            num_targets=sum(len(row.target) - (not row.prompt) for row in rows if row.target),
            right_padded=side == "right",
            sound=sound or {},
            heard=tuple(range(len(rows)) if heard is None else heard) if sound else (),
        )

    @classmethod
    def of_inputs(cls, inputs: dict[str, Any], audio_token_id: int, labels: Tensor | None = None) -> Batch:
        """Make a batch of what any processor gave; the numbers are read from the tensors.

        Args:
            inputs: ``input_ids``, ``attention_mask``, and the sound.
            audio_token_id: The model's placeholder.
            labels: (B, T), if something is to be predicted.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        span = ids == audio_token_id
        sound = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        return cls(
            input_ids=ids,
            attention_mask=mask,
            span=span,
            widest_span=int(span.sum(1).max()),
            labels=labels,
            num_targets=0 if labels is None else int((labels[:, 1:] != IGNORED).sum()),
            right_padded=bool((mask[:, 1:] <= mask[:, :-1]).all()),
            sound=sound,
            heard=tuple(range(len(ids))) if sound else (),
        )

    def rows(self) -> list[Row]:
        """Return the sequences without their pads."""
        rows = []
        for ids, real, span, labels in zip(
            self.input_ids,
            self.attention_mask.bool(),
            self.span,
            self.input_ids.new_full(self.span.shape, IGNORED) if self.labels is None else self.labels,
            strict=True,
        ):
            asked = labels[real] != IGNORED
            places = span[real].nonzero()[:, 0].tolist()
            start, stop = (places[0], places[-1] + 1) if places else (0, 0)
            holes = tuple(sorted({*range(start, stop)} - {*places}))
            rows.append(Row(ids[real][~asked].tolist(), start, stop, ids[real][asked].tolist(), holes))
        return rows

    def inputs(self) -> dict[str, Any]:
        """Return what the model's ``forward`` takes; the mask only where a pad precedes a real token."""
        mask = None if self.right_padded else self.attention_mask
        return {"input_ids": self.input_ids, "attention_mask": mask, **self.sound}

    def of_heard(self, values: Tensor) -> Tensor:
        """Return those of B values (B, ...) whose rows have sound, in their order."""
        if len(self.heard) == self.size:
            return values
        return values.index_select(0, numbers(self.heard, values.device))

    @property
    def size(self) -> int:
        """B."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the same batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in memory that an accelerator copies from; data loaders ask for it."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        sound = {k: function(v) if isinstance(v, Tensor) else v for k, v in self.sound.items()}
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {k: function(v) for k, v in named.items() if isinstance(v, Tensor)}
        return replace(self, **moved, sound=sound)


def _stack(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], fill: int, side: str) -> Tensor:
    """Pad pairs of sequences, joined or (``between``) each to its own width: (B, T) int64."""
    if side == "between":
        return torch.cat(
            [_stack([(one, []) for one in column], fill, "right") for column in zip(*pairs, strict=True)], 1
        )
    rows = [torch.tensor([*first, *second], dtype=torch.int64) for first, second in pairs]
    return pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)


def take_span(states: Tensor, mask: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Take the marked positions out of a batch, moved to the front of each row.

    Args:
        states: (B, T, ...) anything by position: hidden states, token ids.
        mask: (B, T) bool, true at the positions to take.
        width: N, if the host knows it; else the device is asked.

    Returns:
        (B, N, ...) with N the most positions any row has, and its mask (B, N) bool; what is masked is
        arbitrary.
    """
    counts = mask.sum(1)
    width = int(counts.max()) if width is None else width
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    index = order.reshape(*order.shape, *[1] * (states.dim() - 2)).expand(-1, -1, *states.shape[2:])
    taken = torch.arange(width, device=mask.device)[None] < counts[:, None]
    return states.gather(1, index), taken
