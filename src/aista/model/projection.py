"""From the Q-Former's width to the backbone's: where speech tokens get their direction and their length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: ``free``: what the linear layer gives (the paper, SALMONN); ``embeddings``: as long as token embeddings.
TOKEN_SCALES = ("free", "embeddings")
_ROWS = 16_384


class Projection(nn.Linear):
    """A linear layer; with a length given, its outputs keep their direction and get that length.

    Args:
        in_features, out_features: As of ``nn.Linear``.
        length: Of every output; None: what the linear layer gives.

    Gradient: with a length, its part along the output is gone: training turns the tokens and cannot stretch
        them.
    """

    def __init__(self, in_features: int, out_features: int, length: float | None = None) -> None:
        super().__init__(in_features, out_features)
        self.length = length

    def forward(self, states: Tensor) -> Tensor:
        """Project (..., in) to (..., out)."""
        projected = super().forward(states)
        return projected if self.length is None else F.normalize(projected, dim=-1) * self.length


@torch.no_grad()
def embedding_length(embeddings: nn.Module) -> float:
    """Return the median length of a backbone's token embeddings, as they enter its first block.

    The median, because tables hold rows that no tokenizer reaches: zeros, or what they were drawn as.
    """
    count: int = embeddings.num_embeddings  # type: ignore[assignment]
    device = next(embeddings.parameters()).device
    pieces = torch.arange(count, device=device).split(_ROWS)
    return float(torch.cat([embeddings(ids).float().norm(dim=-1) for ids in pieces]).median())
