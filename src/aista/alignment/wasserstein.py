"""The alignment of AI-STA: transport distance between speech and text at inner layers (Eq. 1 in Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from aista.alignment import PairedStates, Sizes
from aista.alignment.base import Alignment, LayerMoments
from aista.errors import ConfigError
from aista.ot.loss import SCALES, WassersteinLoss
from aista.plugins import options_of


class Method(Alignment):
    """The paper's alignment: the mean distance of the pairs, at every layer.

    Args:
        layers: Layers to align.
        spread: Layer -> a number that divides its distances, instead of ``scale="text_spread"``, which
            measures it on the texts of each step. (``preflight.json`` of a run has these numbers.)
        sizes: Of the backbone; needed for ``scale="standardised"`` alone.
        options: Keyword arguments of :class:`aista.ot.loss.WassersteinLoss`. Besides its scales there is
            ``standardised``: each side by its running mean and deviation, dimension by dimension, so that no
            massive dimension decides; distances are then as large as with ``cosine``.

    With ``scale="text_spread"`` or ``"standardised"``, or with ``solver="geomloss_compat"``, a pair's loss
    depends on the whole batch.

    Raises:
        ConfigError: ``spread`` does not name every layer, is not above 0, or stands beside a ``scale``; or
            ``standardised`` has no sizes.

    Equation: 1, at each layer of Eq. 6.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        spread: Mapping[int, float] | None = None,
        sizes: Sizes | None = None,
        **options: Any,
    ) -> None:
        super().__init__(layers)
        if spread is not None:  # keys of JSON, and of the command line, are text
            spread = {int(layer): number for layer, number in spread.items()}
        self.moments: LayerMoments | None = None
        scale = options.get("scale")
        self.cost = scale if scale in ("cosine", "standardised") else "squared_euclidean"
        if scale is not None and scale not in (scales := (*SCALES, "standardised")):
            raise ConfigError(
                "Unknown scale of the Wasserstein distance.", got=scale, expected=" | ".join(scales)
            )
        if scale == "standardised":
            if sizes is None or spread is not None:
                raise ConfigError(
                    "scale='standardised' needs the backbone's sizes, and takes no spread.",
                    got=(sizes, spread),
                )
            self.moments = LayerMoments(layers, sizes.hidden_size)
            options = {**options, "scale": "raw"}
        options = options_of(WassersteinLoss, options, kind="The Wasserstein distance")
        self.distance = WassersteinLoss(**options)
        self.over_batch = self.distance.over_batch or self.moments is not None
        if spread is not None and (
            self.distance.scale != "raw" or {*layers} - {*spread} or min(spread.values()) <= 0
        ):
            raise ConfigError(
                "The fixed spreads cannot be used so.",
                got=f"spread {dict(spread)}, scale {self.distance.scale!r}, layers {list(layers)}",
                expected="a number above 0 for every layer, and scale 'raw' (the default)",
            )
        self.spread = spread

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``wasserstein_<layer>`` of each pair, (B,)."""
        # A pair without speech or text has no distance: it gets tokens of zeros, and no weight in the loss.
        empty = ~self.usable(states.speech_mask, states.text_mask, states.transcript_ids)
        speech, text = (
            {layer: side[layer].masked_fill(empty[:, None, None], 0.0) for layer in self.layers}
            for side in (states.speech, states.text)
        )
        speech_mask, text_mask = states.speech_mask.clone(), states.text_mask.clone()
        speech_mask[:, 0] |= empty
        text_mask[:, 0] |= empty
        if self.moments is not None:
            speech = {k: self.moments("speech", k, side, speech_mask) for k, side in speech.items()}
            text = {k: self.moments("text", k, side, text_mask) for k, side in text.items()}
        losses = self.distance.over_layers(speech, speech_mask, text, text_mask)
        if self.spread is not None:
            losses = {layer: values / self.spread[layer] for layer, values in losses.items()}
        return {f"wasserstein_{layer}": values for layer, values in losses.items()}
