"""What every alignment method is: layers it wants to see, and losses it returns for them."""

from __future__ import annotations

from torch import Tensor, nn

from aista.alignment import PairedStates


class Alignment(nn.Module):
    """An alignment objective over hidden states of speech-text pairs.

    Args:
        layers: Layer numbers as in ``output_hidden_states``: 0 is the embedding layer.

    Equation: the second term of Eq. 6. The trainer multiplies the mean of the returned losses by 1 - alpha,
    which gives each layer of I its (1 - alpha) / |I|.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, states: PairedStates) -> dict[str, Tensor]:
        """Return scalar losses by the name they are logged under.

        Gradient: reaches the speech states alone; the text states are constants.
        """
        raise NotImplementedError
