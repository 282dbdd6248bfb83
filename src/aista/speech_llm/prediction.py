"""The cross-entropy of a batch's targets (Equation 2), without logits that nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aista.model.inputs import positions, take
from aista.model.speech_lm import eval_mode
from aista.speech_llm.batch import IGNORED

# Targets x vocabulary above which training computes its logits in parts: half a gibibyte in float32.
MOST_LOGITS = 2**27


class Targets:
    """The positions of a batch that predict something, and what they should predict.

    Args:
        labels: (B, T), -100 where nothing is asked; the position t predicts the label at t + 1.
        count: How many are asked.

    Attributes:
        where: (n,) the positions, as numbers into B * T.
        ids: (n,) the right tokens.
    """

    def __init__(self, labels: Tensor, count: int) -> None:
        self.where = positions(F.pad(labels[:, 1:] != IGNORED, (0, 1)), count)
        self.ids = labels.flatten()[self.where + 1]

    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy and the number of right tokens, for logits (n, V)."""
        return _score(logits, self.ids)

    def score_states(self, head: nn.Module, states: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Do the same from the states (n, d) below an LM head, keeping at most ``rows`` rows of logits.

        Cost: the head runs once more in the backward pass.
        """

        def part(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return _score(head(states), ids)

        parts = zip(states.split(rows), self.ids.split(rows), strict=True)
        scores = [checkpoint(part, *each, use_reentrant=False) for each in parts]
        total, correct = (torch.stack(column).sum() for column in zip(*scores, strict=True))
        return total, correct


def _score(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    total = F.cross_entropy(logits.float(), ids, reduction="sum")
    return total, (logits.detach().argmax(-1) == ids).sum()


@contextmanager
def head_at(model: Any, where: Tensor, see: int | None = None) -> Iterator[list[Tensor]]:
    """Let the LM head see only the numbered positions of a batch, as one row: logits become (1, n, V).

    Args:
        see: Only so many of them; their states are kept all the same.

    Yields:
        The states (n, d) below the head, once the model has run. What the model does to its logits
        afterwards (a soft cap, a scale) it does to these.
    """
    kept: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(take(args[0], where))
        return (kept[-1][None, :see], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


@torch.no_grad()
def head_is_plain(model: Any) -> bool:
    """Whether the head's output is the logits (no soft cap, no scale after it), as seen on one token."""
    first = torch.zeros(1, dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    with eval_mode(model), head_at(model, first) as states:
        logits = model(input_ids=first[None] + 3, use_cache=False).logits  # no pad, whose states are 0
    return bool(states) and torch.equal(logits, model.get_output_embeddings()(states[0][None]))
