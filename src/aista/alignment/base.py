"""What every alignment method is: what it wants to see of a batch, and the losses it returns for it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from aista.alignment import PairedStates


class Alignment(nn.Module):
    """An alignment objective over a batch of speech-text pairs; may own parameters, which are then trained.

    Args:
        layers: Layer numbers as in ``output_hidden_states``: 0 is the embedding layer.

    Attributes:
        fixed_layers: Layers the method always works at, whatever the settings say; None: the settings'.
        needs_text: Whether it looks at the transcripts' hidden states (else ``PairedStates.text`` is empty
            and no text branch runs for it).
        needs_logits: Whether it looks at the distributions over the target, given speech and given text.
        frozen_teacher: Whether the distribution given text comes from the backbone without LoRA.
        report: Figures of the last batch that are logged beside the losses and are no losses.

    Equation: the second term of Eq. 6. The trainer multiplies the mean of the returned losses by 1 - alpha,
    which gives each layer of I its (1 - alpha) / |I|.
    """

    fixed_layers: ClassVar[tuple[int, ...] | None] = None
    needs_text: bool = True
    needs_logits: bool = False
    frozen_teacher: bool = False

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.report: dict[str, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether there is anything to align, and so a transcript to know."""
        return bool(self.layers) or self.needs_logits

    def forward(self, states: PairedStates) -> dict[str, Tensor]:
        """Return scalar losses by the name they are logged under: ``<method>_<layer>`` or ``<method>``.

        Gradient: reaches the speech side and the method's own parameters; the text side is constant.
        """
        raise NotImplementedError
