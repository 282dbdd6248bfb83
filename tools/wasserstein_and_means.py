"""The Wasserstein distance, which draws right pairs together, with what keeps wrong ones away."""

from __future__ import annotations

from torch import Tensor

from aista.alignment import PairedStates, retrieval, wasserstein
from aista.alignment.base import Alignment


class Method(Alignment):
    """The cosine cost of Eq. 1, and ``negatives`` times InfoNCE over the cosines of the means.

    Args:
        layers: Layers to align.
        negatives: Weight of InfoNCE. With .25 and ``alpha`` .5 both stand to the cross-entropy as they did
            when each was tried alone (alpha .5 and .8).
    """

    over_batch = True

    def __init__(self, layers: tuple[int, ...], negatives: float = 0.25) -> None:
        super().__init__(layers)
        self.transport = wasserstein.Method(layers, scale="cosine")
        self.retrieval = retrieval.Method(layers, similarity="mean")
        self.negatives = negatives

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``wasserstein_and_means_<layer>`` of each pair, (B,)."""
        near, apart = self.transport.pair_losses(states), self.retrieval.pair_losses(states)
        self.report = self.retrieval.report
        return {
            f"wasserstein_and_means_{layer}": near[f"wasserstein_{layer}"]
            + self.negatives * apart[f"retrieval_{layer}"]
            for layer in self.layers
        }
