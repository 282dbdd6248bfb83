"""Retrieval as a loss: in a batch, speech is to find its own transcript, and the transcript its speech."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from aista.alignment import PairedStates, Sizes
from aista.alignment.base import Alignment
from aista.alignment.contrastive import masked_mean, same_transcript
from aista.errors import ConfigError
from aista.ot.all_pairs import all_distances, max_similarities
from aista.ot.cost import COSTS, LayerMoments, unit_length

SIMILARITIES = ("wasserstein", "maxsim", "mean")


class Method(Alignment):
    """InfoNCE over the transport distances of all pairs of a batch, in both directions, at every layer.

    It trains what layer selection measures: with W_ij the distance of speech i and transcript j, and
    l_ij = -W_ij / temperature, a pair's loss is the mean of -log softmax_j(l_ij) and -log softmax_j(l_ji) at
    j = i. It cannot be lowered by making states short.

    Args:
        layers: Layers to align.
        sizes: Of the backbone; needed for ``cost="standardised"`` alone.
        temperature: Divides the similarities; above 0.
        similarity: ``wasserstein``: minus the exact distance; or cheaper: ``maxsim``: each transcript token's
            best cosine among the speech tokens, averaged; ``mean``: the cosine of the two mean states.
        cost: Of ``wasserstein``: ``cosine``, ``standardised`` (each side by its running mean and deviation)
            or ``squared_euclidean``. The first two have the same scale: one temperature serves both.
        threads: CPU threads for the exact solver; 0 = torch's number.

    A pair with the same transcript is no negative, whoever speaks it. A batch without negatives has loss 0.

    Attributes:
        report: ``retrieval_accuracy``: the share of the batch's speech whose own transcript is the nearest.

    Equation: 1 for the distances.
    Gradient: into the speech alone. Envelope theorem: plans are constants, dW_ij/ds = 2 (a s - Z_ij t).
    Cost: B^2 exact solves a layer (about 10 us each at 10 x 12 tokens) and two products of 2 B^2 N M d
        operations.
    Source: van den Oord et al. 2018 for InfoNCE; Khattab and Zaharia 2020 for MaxSim.
    """

    over_batch = True

    def __init__(
        self,
        layers: tuple[int, ...],
        sizes: Sizes | None = None,
        *,
        temperature: float = 0.1,
        similarity: Literal["wasserstein", "maxsim", "mean"] = "wasserstein",
        cost: Literal["squared_euclidean", "cosine", "standardised"] = "cosine",
        threads: int = 0,
    ) -> None:
        super().__init__(layers)
        for name, value, known in (("similarity", similarity, SIMILARITIES), ("cost", cost, COSTS)):
            if value not in known:
                raise ConfigError(f"Unknown {name} of the retrieval objective.", got=value, expected=known)
        if not temperature > 0:
            raise ConfigError(
                "The temperature must be above 0.", got=temperature, advice="0.1 is the default."
            )
        if similarity != "wasserstein" and cost != "cosine":
            raise ConfigError(
                f"similarity={similarity!r} compares cosines: it takes no other cost.", got=f"cost={cost!r}"
            )
        self.temperature, self.similarity, self.cost, self.threads = temperature, similarity, cost, threads
        self.moments: LayerMoments | None = None
        if cost == "standardised":
            if sizes is None:
                raise ConfigError("cost='standardised' needs the backbone's sizes.", got=None)
            self.moments = LayerMoments(layers, sizes.hidden_size)

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``retrieval_<layer>`` of each pair, (B,)."""
        same = same_transcript(states.transcript_ids, states.text_mask)
        losses, hits = {}, []
        for layer in self.layers:
            scores = self.similarities(layer, states)
            losses[f"retrieval_{layer}"] = info_nce(scores / self.temperature, same)
            hits.append(nearest_is_own(scores.detach(), same))
        self.report = {"retrieval_accuracy": torch.stack(hits).mean()} if hits else {}
        return losses

    def similarities(self, layer: int, states: PairedStates) -> Tensor:
        """Return how near every speech is to every transcript of the batch: (B, B), larger is nearer."""
        speech, text = states.speech[layer], states.text[layer].detach()
        speech_mask, text_mask = states.speech_mask, states.text_mask
        with torch.autocast(speech.device.type, enabled=False):
            if self.similarity == "mean":
                sides = (masked_mean(speech, speech_mask), masked_mean(text, text_mask))
                ends = [F.normalize(side, dim=-1) for side in sides]
                return ends[0] @ ends[1].T
            if self.similarity == "maxsim":
                return max_similarities(
                    unit_length(speech, speech_mask), speech_mask, unit_length(text, text_mask), text_mask
                )
            x = self._mapped("speech", layer, speech, speech_mask)
            y = self._mapped("text", layer, text, text_mask)
            return -all_distances(x, speech_mask, y, text_mask, threads=self.threads)

    def _mapped(self, side: str, layer: int, states: Tensor, mask: Tensor) -> Tensor:
        """Bring one side's tokens to where squared distances are the chosen cost."""
        if self.cost == "squared_euclidean":
            return states
        if self.cost == "cosine":
            return unit_length(states, mask)
        assert self.moments is not None
        return self.moments(side, layer, states, mask)


def info_nce(logits: Tensor, same: Tensor) -> Tensor:
    """InfoNCE in both directions.

    Args:
        logits: (B, B), row i: how near speech i is to each text; the diagonal holds the pairs.
        same: (B, B) bool, symmetric: pairs whose texts are equal are not each other's negatives.

    Returns:
        (B,) loss of each pair, >= 0.
    """
    own = torch.arange(len(logits), device=logits.device)
    others = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    open_to = logits.masked_fill(others, float("-inf"))
    directions = [F.cross_entropy(side, own, reduction="none") for side in (open_to, open_to.T)]
    return (directions[0] + directions[1]) / 2


def nearest_is_own(scores: Tensor, same: Tensor) -> Tensor:
    """Share of the rows of (B, B) scores whose best column holds the row's own text (scalar)."""
    best = scores.argmax(1)
    return same[torch.arange(len(scores), device=scores.device), best].to(scores.dtype).mean()
