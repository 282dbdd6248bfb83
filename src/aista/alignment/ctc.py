"""Token-level CTC at the embedding layer: every speech token is to name a transcript token, or nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aista.alignment import PairedStates, Sizes
from aista.alignment.base import Alignment
from aista.errors import ConfigError


class Method(Alignment):
    """CTC of the transcript, tokenised as the backbone does, on the speech states.

    Args:
        layers: Layers to align; by name always (0,).
        sizes: Width of the states, and how many token ids there are.
        per_token: Divide each pair's loss by the length of its transcript. False: the literal negative log
            likelihood.

    Attributes:
        head: Layer -> its own output layer, Linear(d, vocabulary + 1). The last class is the blank.
        report: ``ctc_too_short``, the share of the batch left out: a path needs a speech token per transcript
            token, and one more between two equal ones.

    Gradient: into the speech states and the head; the text branch is not run.
    Cost: (V + 1) d parameters a layer (545 M with Qwen2-7B), and (B, N, V + 1) float32 logits.
    Source: Graves et al. 2006; the paper's 6.3 for the place, the targets and the independent layer.
    Departs: the paper does not say how pairs are weighed; here each has the same weight.
    """

    fixed_layers = (0,)
    needs_text = False

    def __init__(
        self, layers: tuple[int, ...] = (0,), sizes: Sizes | None = None, per_token: bool = False
    ) -> None:
        super().__init__(layers)
        if sizes is None:
            raise ConfigError(
                "CTC needs the sizes of the backbone.", advice="alignment('ctc', layers, sizes=Sizes(d, V))"
            )
        self.blank, self.per_token = sizes.vocab_size, per_token
        self.head = nn.ModuleDict(
            {str(layer): nn.Linear(sizes.hidden_size, sizes.vocab_size + 1) for layer in layers}
        )

    def usable(self, speech_mask: Tensor, text_mask: Tensor, transcript_ids: Tensor) -> Tensor:
        """Say which pairs have a path: speech that is long enough for its transcript. (B,) bool."""
        needed = text_mask.sum(1) + repeats(transcript_ids, text_mask)
        return super().usable(speech_mask, text_mask, transcript_ids) & (speech_mask.sum(1) >= needed)

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``ctc_<layer>`` of each pair, (B,); 0 where there is no path."""
        heard, written = states.speech_mask.sum(1), states.text_mask.sum(1)
        ids = states.transcript_ids.masked_fill(~states.text_mask, 0)
        possible = self.usable(states.speech_mask, states.text_mask, states.transcript_ids)
        self.report = {"ctc_too_short": (~possible).float().mean()}
        losses = {}
        for layer in self.layers:
            log_probabilities = self._log_probabilities(layer, states.speech[layer], states.speech_mask)
            values = F.ctc_loss(
                log_probabilities.transpose(0, 1), ids, heard, written,
                blank=self.blank, reduction="none", zero_infinity=True,
            )  # fmt: skip
            losses[f"ctc_{layer}"] = values / written.clamp(min=1) if self.per_token else values
        return losses

    def _log_probabilities(self, layer: int, speech: Tensor, mask: Tensor) -> Tensor:
        """Return (B, N, V + 1), float32 (float64 if the head is)."""
        head: Any = self.head[str(layer)]
        with torch.autocast(speech.device.type, enabled=False):
            logits = head(speech.masked_fill(~mask[..., None], 0.0).to(head.weight.dtype))
            return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def repeats(ids: Tensor, mask: Tensor) -> Tensor:
    """Count neighbours that are equal: (B, M) -> (B,)."""
    both = mask[:, 1:] & mask[:, :-1]
    return ((ids[:, 1:] == ids[:, :-1]) & both).sum(1)
