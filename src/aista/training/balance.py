"""How cross-entropy and alignment are weighed against each other (Eq. 6): alpha fixed, annealed, measured."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aista.config import AlignmentSettings

EVERY = 10  # steps between two measurements of the gradients
KEPT = 0.8  # what a measurement leaves of the estimate before it
LEAST = 0.5  # translation keeps at least this weight, however flat the alignment becomes


class Balance(nn.Module):
    """A fixed alpha: the paper's.

    Args:
        alpha: Weight of the cross-entropy; the alignment has 1 - alpha.

    Attributes:
        looks_inside: Whether it needs the states of the embedding layer.
        varies: Whether alpha is worth a line in the log.
    """

    looks_inside = False
    varies = False

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(
        self, step: int, ce: Tensor, alignment: Tensor, speech: Tensor | None, mask: Tensor | None
    ) -> float | Tensor:
        """Return alpha for this step.

        Args:
            step: Optimiser steps done.
            ce, alignment: Scalar losses, not yet weighed.
            speech: (B, T, d) what enters the first block, if the balance looks inside.
            mask: (B, T) bool, where speech stands in it.

        Equation: 6.
        """
        return self.alpha


class Annealed(Balance):
    """Alpha goes in a straight line from ``alpha`` at step 0 to ``end`` at step ``steps``."""

    varies = True

    def __init__(self, alpha: float, end: float, steps: int) -> None:
        super().__init__(alpha)
        self.end, self.steps = end, steps

    def forward(self, step: int, *_: Tensor | None) -> float:
        """Return alpha for this step."""
        return self.alpha + (self.end - self.alpha) * min(step / self.steps, 1.0)


class GradientRatio(Balance):
    """Alpha such that, at the speech tokens, the alignment pulls ``ratio`` times as hard as the translation.

    Args:
        alpha: Stands for itself only before training, where a weight is asked for.
        ratio: |(1 - alpha) dA/ds| / |alpha dCE/ds|, norms over all speech tokens of the batch.

    Attributes:
        norms: (2,) running estimates of |dCE/ds| and |dA/ds|; kept in checkpoints.

    Cost: two backward passes down to the speech tokens every ``EVERY`` steps. Not for sharded models (FSDP,
    ZeRO): their backward hooks allow one pass a step.
    """

    looks_inside = True
    varies = True
    norms: Tensor

    def __init__(self, alpha: float, ratio: float) -> None:
        super().__init__(alpha)
        self.ratio = ratio
        self.register_buffer("norms", torch.zeros(2))

    def forward(
        self, step: int, ce: Tensor, alignment: Tensor, speech: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Return alpha for this step, between ``LEAST`` and 1."""
        if step % EVERY == 0 and speech is not None and mask is not None:
            self._measure(ce, alignment, speech, mask)
        translation, own = self.norms.clamp(min=torch.finfo(torch.float32).tiny)
        return (own / (own + self.ratio * translation)).clamp(min=LEAST)

    def _measure(self, ce: Tensor, alignment: Tensor, speech: Tensor, mask: Tensor) -> None:
        slopes = [torch.autograd.grad(loss, speech, retain_graph=True)[0] for loss in (ce, alignment)]
        found = torch.stack([slope.float().masked_fill(~mask[..., None], 0.0).norm() for slope in slopes])
        if dist.is_initialized():
            dist.all_reduce(found)
            found /= dist.get_world_size()
        first = self.norms.sum() == 0
        self.norms.copy_(torch.where(first, found, self.norms.lerp(found, 1 - KEPT)))


def balance(settings: AlignmentSettings, steps: int) -> Balance:
    """Build what the settings of an alignment say.

    Args:
        steps: Optimiser steps of the whole run.
    """
    if settings.balance == "gradient_ratio":
        return GradientRatio(settings.alpha, settings.ratio)
    if settings.alpha_end is not None:
        return Annealed(settings.alpha, settings.alpha_end, steps)
    return Balance(settings.alpha)
