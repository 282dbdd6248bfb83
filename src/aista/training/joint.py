"""Stage 3 (paper 4.3): translation and alignment at the selected layers, trained together."""

from __future__ import annotations

from pathlib import Path

from aista.alignment import Sizes, alignment, method
from aista.config import AlignmentSettings, JointSettings
from aista.errors import ConfigError
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.selection.report import LayerReport
from aista.training.balance import balance
from aista.training.objective import SpeechTextObjective
from aista.training.run import Run, finished, train


def joint(settings: JointSettings) -> Run:
    """Fine-tune a stage-1 model with Eq. 6; ``alignment.method: none`` trains the base of the paper's tables.

    Running it again goes on where it stopped, or returns at once when it is finished.
    """
    if done := finished(Path(settings.output), settings):
        return done
    model = AistaForConditionalGeneration.from_pretrained(settings.init)
    processor = AistaProcessor.from_pretrained(settings.init)
    layers = aligned_layers(settings.alignment, model.config.text_config.num_hidden_layers)
    vocabulary = model.get_input_embeddings().num_embeddings
    sizes = Sizes(model.config.text_config.hidden_size, vocabulary, settings.seed)
    aligner = alignment(settings.alignment.method, layers, sizes, **settings.alignment.options)
    weights = balance(settings.alignment, settings.train.max_steps)
    return train(settings, SpeechTextObjective(model, aligner, weights), processor)


def aligned_layers(settings: AlignmentSettings, num_layers: int) -> tuple[int, ...]:
    """Return the layers to align: the method's own, those written down, or those a layer report chose.

    Raises:
        ConfigError: A layer does not exist in this backbone, or none was selected.
    """
    layers, fixed = settings.layers, method(settings.method).fixed_layers
    if fixed is not None:
        return fixed
    chosen = tuple(LayerReport.load(layers).selected if isinstance(layers, str) else layers)
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
