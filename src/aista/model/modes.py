"""A model in another mode for a while: without dropout, with SALMONN's positions, with a seed of its own."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; every part returns to the mode it had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def salmonn_positions(backbone: Any, active: bool) -> Iterator[None]:
    """Let ``generate`` count positions as SALMONN's transformers 4.28 did, pads on the right included.

    At every step positions come from the whole mask, and a pad's is 1. transformers 5 counts on from the last
    column instead, which is the same only where that column is no pad.
    """
    original = backbone.prepare_inputs_for_generation

    @functools.wraps(original)
    def prepare(input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> dict[str, Any]:
        inputs = original(input_ids, attention_mask=attention_mask, **options)
        if attention_mask is None:  # there are no pads
            return inputs
        embeds = inputs.get("inputs_embeds")
        length = (inputs["input_ids"] if embeds is None else embeds).shape[1]
        positions = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
        return {**inputs, "position_ids": positions[:, -length:]}

    if active:
        backbone.prepare_inputs_for_generation = prepare
    try:
        yield
    finally:
        if active:
            del backbone.prepare_inputs_for_generation


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of its own, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
