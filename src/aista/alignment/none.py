"""No alignment: the base model of the paper's tables."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aista.alignment import PairedStates
from aista.alignment.base import Alignment


class Method(Alignment):
    """Asks for no layer and returns no loss; the layers and options of other methods are ignored."""

    fixed_layers = ()
    needs_text = False

    def __init__(self, layers: tuple[int, ...] = (), **options: Any) -> None:
        super().__init__(())

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return no loss."""
        return {}
