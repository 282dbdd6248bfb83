"""Multi-class N-pair loss at the embedding layer: the mean of speech is to pick its own transcript's mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aista.alignment import PairedStates
from aista.alignment.base import Alignment, real_first, require_positive
from aista.ot.loss import unit_length


class Method(Alignment):
    """N-pair loss over the batch: log(1 + sum_j exp(s_i . t_j - s_i . t_i)), with masked means s and t.

    Args:
        layers: Layers to align; by name always (0,).
        temperature: Divides the inner products; 1 is the literal loss.
        normalise: Means of length 1 (cosines) instead of the literal inner products.

    A pair with the same transcript is no negative, whoever speaks it. A batch of one has no negatives: its
    loss is 0.

    Gradient: into the speech states alone, ds_i = sum_j p_ij t_j - t_i, an equal share of it to each of the
        pair's speech tokens; the means of the text are constants, as positives and as negatives.
    Cost: B^2 d operations.
    Source: Sohn 2016, multi-class N-pair loss; the paper's 6.3 for its use here.
    Departs: Sohn also penalises the length of the embeddings.
    """

    fixed_layers = (0,)
    over_batch = True

    def __init__(
        self, layers: tuple[int, ...] = (0,), temperature: float = 1.0, normalise: bool = False
    ) -> None:
        super().__init__(layers)
        require_positive(temperature)
        self.temperature, self.normalise = temperature, normalise

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``contrastive_<layer>`` of each pair, (B,)."""
        others = ~same_transcript(states.transcript_ids, states.text_mask)
        own = torch.arange(len(others), device=others.device)
        keep = others | torch.eye(len(others), dtype=torch.bool, device=others.device)
        losses = {}
        for layer in self.layers:
            with torch.autocast(others.device.type, enabled=False):
                speech = masked_mean(states.speech[layer], states.speech_mask)
                text = masked_mean(states.text[layer].detach(), states.text_mask)
                if self.normalise:
                    speech, text = unit_length(speech), unit_length(text)
                similarity = speech @ text.T / self.temperature
                losses[f"contrastive_{layer}"] = F.cross_entropy(
                    similarity.masked_fill(~keep, float("-inf")), own, reduction="none"
                )
        return losses


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the marked tokens: (B, N, d) -> (B, d), float32 (float64 if the states are)."""
    dtype = torch.promote_types(states.dtype, torch.float32)
    total = states.to(dtype).masked_fill(~mask[..., None], 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def same_transcript(ids: Tensor, mask: Tensor) -> Tensor:
    """Say which rows hold the same tokens: (B, M) -> (B, B) bool."""
    known = real_first(ids.masked_fill(~mask, -1), mask)
    return (known[:, None] == known[None]).all(-1)
