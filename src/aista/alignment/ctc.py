"""Token-level CTC at the embedding layer: every speech token is to name a transcript token, or nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aista.alignment import PairedStates, Sizes
from aista.alignment.base import Alignment, real_first, require_positive
from aista.errors import ConfigError
from aista.ot.loss import unit_length


class Method(Alignment):
    """CTC of the transcript, tokenised as the backbone does, on the speech states.

    Args:
        layers: Layers to align; by name always (0,).
        sizes: Width of the states, and how many token ids there are.
        per_token: Divide each pair's loss by the length of its transcript. False: the literal negative log
            likelihood.
        head: What a speech token is compared with. ``own``: the rows of an output layer of its own, Linear(d,
            V + 1). ``embeddings``: the backbone's embeddings of the tokens that the step's transcripts hold,
            by their cosine, and a trained vector for the blank.
        temperature: Divides these cosines.

    Attributes:
        report: ``ctc_too_short``, the share of the batch left out: a path needs a speech token per transcript
            token, and one more between two equal ones.
        cost: How a retrieval ranks what this method aligned.

    Gradient: into the speech states and the head or the vector of the blank.
    Cost: ``own``: (V + 1) d parameters (545 M with Qwen2-7B), and (B, N, V + 1) float32 logits; the text
        branch is not run. ``embeddings``: d + 1 parameters, and a column for each token of the step.
    Source: Graves et al. 2006; the paper's 6.3 for the place, the targets and the independent layer. To share
        the output layer with the embeddings: Press and Wolf 2017.
    Departs: the paper does not say how pairs are weighed; here each has the same weight.
    """

    fixed_layers = (0,)

    def __init__(
        self, layers: tuple[int, ...] = (0,), sizes: Sizes | None = None, per_token: bool = False,
        head: Literal["own", "embeddings"] = "own", temperature: float = 0.07,
    ) -> None:  # fmt: skip
        super().__init__(layers)
        require_positive(temperature)
        if sizes is None:
            raise ConfigError(
                "CTC needs the sizes of the backbone.", advice="alignment('ctc', layers, sizes=Sizes(d, V))"
            )
        if head not in ("own", "embeddings"):
            raise ConfigError("Unknown head of CTC.", got=head, expected="own or embeddings")
        self.per_token, self.temperature = per_token, temperature
        self.needs_text = self.over_batch = head == "embeddings"
        self.cost = "cosine" if self.needs_text else "squared_euclidean"
        if self.needs_text:
            self.blank_bias = nn.Parameter(torch.zeros(()))
            self.blank_vector = nn.Parameter(torch.randn(sizes.hidden_size))
        else:
            self.head = nn.Linear(sizes.hidden_size, sizes.vocab_size + 1)

    def usable(self, speech_mask: Tensor, text_mask: Tensor, transcript_ids: Tensor) -> Tensor:
        """Say which pairs have a path: speech that is long enough for its transcript. (B,) bool."""
        needed = text_mask.sum(1) + repeats(transcript_ids, text_mask)
        return super().usable(speech_mask, text_mask, transcript_ids) & (speech_mask.sum(1) >= needed)

    def forward(self, states: PairedStates, num_pairs: Tensor | float | None = None) -> dict[str, Tensor]:
        """Return the losses, as every method does, and report the share without a path."""
        possible = self.usable(states.speech_mask, states.text_mask, states.transcript_ids)
        self.report = {"ctc_too_short": (~possible).float().mean()}
        return super().forward(states, num_pairs)

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``ctc_0`` of each pair, (B,); 0 where there is no path."""
        mask = states.text_mask
        heard, written = states.speech_mask.sum(1), mask.sum(1)
        logits, tokens = self._logits(states)
        targets = states.transcript_ids.masked_fill(~mask, 0)
        if tokens is not None:
            targets[mask] = torch.searchsorted(tokens, targets[mask])
        targets = real_first(targets, mask)
        values = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1), targets, heard, written,
            blank=logits.shape[-1] - 1, reduction="none", zero_infinity=True,
        )  # fmt: skip
        return {"ctc_0": values / written.clamp(min=1) if self.per_token else values}

    @torch.no_grad()
    def read(self, states: PairedStates) -> list[list[int]]:
        """Return the token ids that the most likely path of each row names, blanks and repeats left out."""
        logits, tokens = self._logits(states)
        blank = logits.shape[-1] - 1
        real = real_first(states.speech_mask, states.speech_mask)
        rows = []
        for row in logits.argmax(-1).masked_fill(~real, blank):
            named = row.unique_consecutive()
            named = named[named != blank]
            rows.append((named if tokens is None else tokens[named]).tolist())
        return rows

    def _logits(self, states: PairedStates) -> tuple[Tensor, Tensor | None]:
        """Return (B, N, classes + 1), real tokens first, float32 (float64 if the head is), the last class the
        blank; and the token ids of the classes, in rising order, if they are not all there are."""
        speech, mask = states.speech[self.layers[0]], states.speech_mask
        speech = real_first(speech.masked_fill(~mask[..., None], 0.0), mask)
        with torch.autocast(speech.device.type, enabled=False):
            if not self.needs_text:
                logits = self.head(speech.to(self.head.weight.dtype))
                return logits.to(torch.promote_types(logits.dtype, torch.float32)), None
            read = states.text_mask
            tokens, place = states.transcript_ids[read].unique(return_inverse=True)
            blank = self.blank_vector.to(torch.promote_types(self.blank_vector.dtype, torch.float32))
            text = states.text[self.layers[0]].detach()[read].to(blank.dtype)
            table = text.new_zeros(len(tokens), text.shape[1]).index_add(0, place, text)  # equal rows
            classes = F.normalize(torch.cat([table, blank[None]]), dim=-1)
            units = unit_length(speech.to(classes.dtype))
            logits = units @ classes.T / self.temperature
            return logits + F.pad(self.blank_bias[None], (len(tokens), 0)), tokens


def repeats(ids: Tensor, mask: Tensor) -> Tensor:
    """Count neighbours that are equal: (B, M) -> (B,)."""
    ids, mask = real_first(ids, mask), real_first(mask, mask)
    both = mask[:, 1:] & mask[:, :-1]
    return ((ids[:, 1:] == ids[:, :-1]) & both).sum(1)
