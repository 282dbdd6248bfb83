"""Distillation: what the model predicts when it hears is drawn to what it predicts when it reads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from aista.alignment import PairedStates
from aista.alignment.base import Alignment, require_positive
from aista.errors import ConfigError


class Method(Alignment):
    """KL(p(y | transcript) || p(y | speech)) at the places of the target, teacher-forced on the reference.

    Args:
        layers: Ignored: it looks at the output alone.
        teacher: ``same``: the model itself, given the transcript (LoRA on, dropout off); ``frozen``: the
            backbone without LoRA.
        temperature: Divides both sides' logits; the loss is multiplied by its square (Hinton et al. 2015).

    Gradient: into the speech branch's logits, softmax(speech) - softmax(text); the text branch is a constant.
    Cost: a whole forward pass over the transcript, question and target, without gradient.
    Source: BLSP-KD (Wang et al. 2024a) for the idea; neither its code nor its weights are public.
    Departs: BLSP-KD's adapter and partial LoRA are no part of it. Each pair weighs the same, whatever the
        length of its target.
    """

    fixed_layers = ()
    needs_text = False
    needs_logits = True

    def __init__(
        self,
        layers: tuple[int, ...] = (),
        teacher: Literal["same", "frozen"] = "same",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(())
        require_positive(temperature)
        if teacher not in ("same", "frozen"):
            raise ConfigError("Unknown teacher.", got=teacher, expected="same | frozen")
        self.frozen_teacher, self.temperature = teacher == "frozen", temperature

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``distillation`` of each pair, (B,): the mean over its target tokens."""
        student, teacher, mask = states.speech_logits, states.text_logits, states.logits_mask
        if student is None or teacher is None or mask is None:
            raise ConfigError("Distillation needs the logits of both branches.", got=None)
        with torch.autocast(student.device.type, enabled=False):
            heard = self._log_probabilities(student, mask)
            read = self._log_probabilities(teacher.detach(), mask)
            divergence = F.kl_div(heard, read, reduction="none", log_target=True).sum(-1)
            per_pair = divergence.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)
        return {"distillation": per_pair * self.temperature**2}

    def _log_probabilities(self, logits: Tensor, mask: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        real = logits.masked_fill(~mask[..., None], 0.0).to(dtype)
        return (real / self.temperature).log_softmax(-1)
