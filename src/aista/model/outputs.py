"""What a forward pass gives, and the loss in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from aista.model.layout import Layout, places
from aista.model.spans import IGNORED

# Targets x vocabulary above which training computes its logits in parts: half a gibibyte in float32.
MOST_LOGITS = 2**27


@dataclass
class AistaOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        loss: Scalar, if labels were given.
        logits: (B, T, vocabulary); of the targets alone, (targets, vocabulary); or None, as was asked for.
        hidden_states: {layer: (B, T, d)} for the layers asked for, numbered as ``output_hidden_states``.
        speech_mask: (B, T) bool, where the speech embeddings stand.
        correct: Scalar int64, how many targets have the highest logit, if labels were given.
        targets: How many targets there are.
        layout: The batch in numbers.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: dict[int, Tensor] | None = None
    speech_mask: Tensor | None = None
    correct: Tensor | None = None
    targets: int | None = None
    layout: Layout | None = None


class Targets:
    """The places of a batch that predict something, and what they should predict.

    Args:
        labels: (B, T), -100 where nothing is asked; the place t predicts the label at t + 1.
        count: How many are asked.

    Attributes:
        where: (n,) the places, as numbers into B * T.
        ids: (n,) the right tokens.
    """

    def __init__(self, labels: Tensor, count: int) -> None:
        self.where = places(F.pad(labels[:, 1:] != IGNORED, (0, 1)), count)
        self.ids = labels.flatten()[self.where + 1]

    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy (Equation 3) and the number of right tokens, for logits (n, V)."""
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
