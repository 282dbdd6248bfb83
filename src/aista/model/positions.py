"""Numbered positions of a batch: taken out and put back without asking an accelerator how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
