"""From the settings of an alignment to the objective that is trained."""

from __future__ import annotations

from typing import Any

from aista.alignment import Sizes, alignment, method
from aista.config import AlignmentSettings
from aista.errors import ConfigError
from aista.retrieval import read_selected
from aista.speech_llm import SpeechLM
from aista.training.objective import SpeechTextObjective


def aligned(model: Any, settings: AlignmentSettings, *, seed: int) -> SpeechTextObjective:
    """Return the objective of Eq. 6 for a model.

    Args:
        model: A speech LLM of transformers' contract.
        seed: Of the method's own parameters.

    Raises:
        ConfigError: There is no such method or layer, or the method does not take these options.
    """
    speech_llm = SpeechLM(model)
    layers = aligned_layers(settings, speech_llm.num_layers)
    sizes = Sizes(speech_llm.hidden_size, model.get_input_embeddings().num_embeddings, seed)
    aligner = alignment(settings.method, layers, sizes, **settings.options)
    return SpeechTextObjective(model, aligner, settings.alpha)


def aligned_layers(settings: AlignmentSettings, num_layers: int) -> tuple[int, ...]:
    """Return the layers to align: the method's own, those written down, or those a layer report chose.

    Raises:
        ConfigError: A layer does not exist in this backbone, or none was selected.
    """
    layers, fixed = settings.layers, method(settings.method).fixed_layers
    if fixed is not None:
        return fixed
    chosen = tuple(read_selected(layers) if isinstance(layers, str) else layers)
    if not chosen:
        raise ConfigError(
            "No layer to align.",
            got=f"alignment.layers: {layers}",
            advice="Lower the threshold of `aista select`, or name layers: --set alignment.layers=[0].",
        )
    if outside := [layer for layer in chosen if not 0 <= layer <= num_layers]:
        raise ConfigError(
            f"The backbone has no layer {outside}.", expected=f"0 (embedding) to {num_layers} (last block)"
        )
    return chosen
