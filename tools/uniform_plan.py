"""A control for alignment by transport: every speech token is drawn to every token of the text alike."""

from __future__ import annotations

from torch import Tensor

from aista.alignment import PairedStates
from aista.alignment.base import Alignment
from aista.ot.loss import unit_length


class Method(Alignment):
    """The mean cosine cost of all token pairs: what Eq. 1 is under the plan a b^T instead of the best one."""

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``uniform_plan_<layer>`` of each pair, (B,)."""
        losses = {}
        for layer in self.layers:
            sides = []
            for side, mask in ((states.speech, states.speech_mask), (states.text, states.text_mask)):
                units = unit_length(side[layer], mask).masked_fill(~mask[..., None], 0.0)
                sides.append(units.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
            losses[f"uniform_plan_{layer}"] = 2 - 2 * (sides[0] * sides[1].detach()).sum(1)
        return losses
