"""Retrieval and reading together: a clip is to find its transcript, and its tokens to name it in order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aista.alignment import PairedStates, Sizes, ctc, retrieval
from aista.alignment.base import Alignment
from aista.plugins import options_of


class Method(Alignment):
    """``retrieval`` and ``ctc`` with the backbone's embeddings as its output layer, at the embedding layer.

    A transport plan knows no order: it says which words are there. CTC says in which order, and finds its
    paths sooner where the words already lie where they belong.

    Args:
        layers: By name always (0,).
        sizes: Of the backbone.
        temperature: Of the cosines of CTC.
        options: Of ``retrieval``, under its names; ``retrieval_temperature`` for its temperature.

    Attributes:
        report: The two losses, and what both report.

    Gradient: the sum of both, into the speech states and the vector of the blank. A pair too short for a path
        has the retrieval loss alone.
    Source: see the two methods.
    """

    fixed_layers = (0,)
    over_batch = True

    def __init__(
        self, layers: tuple[int, ...] = (0,), sizes: Sizes | None = None, *, temperature: float = 0.07,
        retrieval_temperature: float = 0.1, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(layers)
        options = options_of(retrieval.Method, options, kind="Its retrieval")
        self.retrieval = retrieval.Method(layers, sizes, temperature=retrieval_temperature, **options)
        self.ctc = ctc.Method(layers, sizes, True, "embeddings", temperature)
        self.cost = self.retrieval.cost
        self.read = self.ctc.read

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``retrieval_ctc_0`` of each pair, (B,)."""
        (found,), (named,) = (part.pair_losses(states).values() for part in (self.retrieval, self.ctc))
        possible = self.ctc.usable(states.speech_mask, states.text_mask, states.transcript_ids)
        figures = {
            "retrieval": found.detach().mean(),
            "ctc": named.detach().mean(),
            "ctc_too_short": (~possible).float().mean(),
        }
        self.report = self.retrieval.report | figures
        return {"retrieval_ctc_0": found + named}
