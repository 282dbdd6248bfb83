"""Stage 1 (paper 4.1): teach the adapters to hear, on speech recognition and audio captioning."""

from __future__ import annotations

from pathlib import Path

from aista.config import AlignSettings, ModelSettings, PretrainSettings
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.run_folder import claim, inputs_of
from aista.training.aligning import aligned
from aista.training.arguments import require_reporters
from aista.training.run import FINISHED, Run, finished_run, train


def fresh_model(settings: ModelSettings, seed: int) -> tuple[AistaForConditionalGeneration, AistaProcessor]:
    """Put new, seeded adapters between frozen bases.

    Raises:
        CheckpointError: A base cannot be found or read.
    """
    model = AistaForConditionalGeneration.from_bases(
        speech_encoder=settings.speech_encoder,
        audio_encoder=settings.audio_encoder,
        backbone=settings.backbone,
        qformer=settings.qformer.model_dump(),
        lora=settings.lora.model_dump(),
        speech_tokens=settings.speech_tokens,
        speech_window_seconds=settings.speech_window_seconds,
        speech_token_scale=settings.speech_token_scale,
        template=settings.template,
        dtype=settings.dtype,
        quantization=settings.quantization,
        seed=seed,
    )
    return model, AistaProcessor.from_config(model.config)


def starting_model(
    settings: AlignSettings | PretrainSettings,
) -> tuple[AistaForConditionalGeneration, AistaProcessor]:
    """Return the model a stage starts from: a saved one (``init``), or new adapters between the bases."""
    if settings.init is not None:
        model = AistaForConditionalGeneration.from_pretrained(settings.init)
        return model, AistaProcessor.from_pretrained(settings.init)
    assert settings.model is not None  # the settings see to it
    return fresh_model(settings.model, settings.seed)


def pretrain(settings: PretrainSettings) -> Run:
    """Train LayerNorms, Q-Former, projection and LoRA with the causal LM loss on the target (Eq. 2).

    The paper aligns nothing here; ``alignment`` is for finding out what it would do.

    Running it again goes on where it stopped, or returns at once when it is finished.
    """
    output = Path(settings.output)
    require_reporters(settings.train)  # before the folder is claimed
    with claim(output, settings, lambda: inputs_of(settings), result=FINISHED) as done:
        if done:
            return finished_run(output)
        model, processor = starting_model(settings)
        objective = aligned(model, settings.alignment, seed=settings.seed)
        return train(settings, objective, processor)
