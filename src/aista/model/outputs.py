"""What a forward pass gives, and the loss in it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from aista.model.spans import IGNORED


@dataclass
class AistaOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        loss: Scalar, if labels were given.
        logits: (B, T, vocabulary).
        hidden_states: {layer: (B, T, d)} for the layers asked for, numbered as ``output_hidden_states``.
        speech_mask: (B, T) bool, where the speech embeddings stand.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: dict[int, Tensor] | None = None
    speech_mask: Tensor | None = None


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Sum the cross-entropy of the targets and divide it (Equation 3).

    Args:
        logits: (B, T, V); the logits at t predict the label at t + 1.
        labels: (B, T), -100 where nothing is asked.
        num_items_in_batch: The divisor; None: the number of target tokens.
    """
    shifted = labels[:, 1:]
    asked = shifted != IGNORED
    total = F.cross_entropy(logits[:, :-1][asked].float(), shifted[asked], reduction="sum")
    divisor = asked.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return total / divisor
