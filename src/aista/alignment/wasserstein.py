"""The alignment loss of AI-STA: transport distance between speech and text at inner layers (Eq. 1 and 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from aista.alignment import PairedStates
from aista.alignment.base import Alignment
from aista.errors import TransportError
from aista.ot.cost import squared_euclidean
from aista.ot.exact import solve_flat, uniform_masses


class WassersteinLoss(torch.nn.Module):
    """Wasserstein loss between masked batches of clouds, differentiable in the speech side only.

    Args:
        solver: ``exact`` (Eq. 1 as written).
        threads: CPU threads for the exact solver; 0 = torch's number of threads.

    Equation: 1, the term L_Wass of Eq. 6.
    Gradient: Envelope theorem, dW/ds_i = 2 (a_i s_i - sum_j Z_ij t_j); the plan Z is a constant, the text is detached.
    Cost: Two batched products of 2 B N M d operations and B exact solves (10-300 us each).
    """

    def __init__(self, solver: str = "exact", *, threads: int = 0) -> None:
        super().__init__()
        if solver != "exact":
            raise TransportError(f"unknown solver {solver!r}", expected="exact")
        self.solver = solver
        self.threads = threads

    def forward(self, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Distance of each pair.

        Args:
            speech: (B, N, d) any float type, on any device. speech_mask: (B, N) bool, True = real token.
            text: (B, M, d). text_mask: (B, M).

        Returns:
            (B,) float32 loss per pair.

        Raises:
            TransportError: Shapes do not fit, a row has no real token, or real tokens are not finite.
        """
        check_batch(speech, speech_mask, text, text_mask)
        threads = self.threads or torch.get_num_threads()
        return _ExactTransport.apply(speech, speech_mask, text, text_mask, threads)


def check_batch(speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor) -> None:
    """Refuse shapes that do not belong together."""
    shapes = {"speech": speech.shape, "text": text.shape}
    if (
        speech.dim() != 3
        or text.dim() != 3
        or speech.shape[0] != text.shape[0]
        or speech.shape[2] != text.shape[2]
        or speech_mask.shape != speech.shape[:2]
        or text_mask.shape != text.shape[:2]
    ):
        raise TransportError(
            "speech and text batches do not fit together",
            got={k: tuple(v) for k, v in shapes.items()}
            | {"speech_mask": tuple(speech_mask.shape), "text_mask": tuple(text_mask.shape)},
            expected="speech (B, N, d), speech_mask (B, N), text (B, M, d), text_mask (B, M)",
        )


class _ExactTransport(torch.autograd.Function):
    """Exact value forward, envelope gradient backward."""

    @staticmethod
    def forward(
        ctx: Any, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor, threads: int
    ) -> Tensor:
        cost = squared_euclidean(speech.detach(), text.detach(), speech_mask, text_mask)
        values, plan = solve_masked(cost, speech_mask, text_mask, threads)
        ctx.save_for_backward(speech, text, speech_mask, text_mask, plan)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        speech, text, speech_mask, text_mask, plan = ctx.saved_tensors
        with torch.autocast(speech.device.type, enabled=False):
            x = speech.to(plan.dtype).masked_fill(~speech_mask[..., None], 0.0)
            y = text.to(plan.dtype).masked_fill(~text_mask[..., None], 0.0)
            pulled = plan.sum(2, keepdim=True) * x - torch.bmm(plan, y)
            slope = 2.0 * grad.to(plan.dtype)[:, None, None] * pulled
        return slope.to(speech.dtype), None, None, None, None


def solve_masked(cost: Tensor, row_mask: Tensor, col_mask: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """Exact values (B,) and plans (B, N, M) of padded costs with any masks; one round trip to the CPU."""
    # Real rows and columns are moved to the front, solved there, and moved back.
    rows = row_mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    cols = col_mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    packed = cost.gather(1, rows[:, :, None].expand_as(cost)).gather(2, cols[:, None, :].expand_as(cost))
    sizes = torch.stack([row_mask.sum(1), col_mask.sum(1)], 1).cpu().numpy().astype(np.int64)
    if sizes.min(initial=1) < 1:
        raise TransportError(
            f"pair {int(sizes.min(1).argmin())} has no real token on one side",
            advice="drop pairs without speech tokens or transcript from the alignment loss",
        )
    batch, num_rows, num_cols = cost.shape
    flat = np.ascontiguousarray(packed.cpu().numpy()).reshape(-1)
    offsets = np.arange(batch, dtype=np.int64) * num_rows * num_cols
    strides = np.full(batch, num_cols, dtype=np.int64)
    raw = solve_flat(flat, offsets, strides, sizes, *uniform_masses(sizes), threads=threads)
    if np.isnan(raw.values).any():
        raise TransportError(
            f"pair {int(np.isnan(raw.values).argmax())} has NaN or infinite hidden states",
            advice="lower the learning rate or look at the last gradient norm; never use float16 hidden states",
        )
    plan = torch.from_numpy(raw.plans.reshape(batch, num_rows, num_cols)).to(cost.device, cost.dtype)
    back_rows, back_cols = rows.argsort(dim=1), cols.argsort(dim=1)
    plan = plan.gather(1, back_rows[:, :, None].expand_as(plan)).gather(
        2, back_cols[:, None, :].expand_as(plan)
    )
    values = torch.from_numpy(raw.values).to(cost.device, torch.float32)
    return values, plan


class Method(Alignment):
    """The paper's alignment: the mean distance of the batch's pairs, at every layer (Eq. 6).

    Args:
        layers: Layers to align.
        options: Keyword arguments of :class:`WassersteinLoss`.
    """

    def __init__(self, layers: tuple[int, ...], **options: Any) -> None:
        super().__init__(layers)
        self.distance = WassersteinLoss(**options)

    def forward(self, states: PairedStates) -> dict[str, Tensor]:
        """Return one scalar per layer, ``wasserstein_<layer>``."""
        return {
            f"wasserstein_{layer}": self.distance(
                states.speech[layer], states.speech_mask, states.text[layer], states.text_mask
            ).mean()
            for layer in self.layers
        }
