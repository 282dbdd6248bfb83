"""The training stages: start or resume, train, leave one finished folder behind.

``align`` brings speech tokens to where the backbone's own text lies, in minutes on a CPU, before stage 1.
``pretrain`` is stage 1 (paper 4.1): it teaches the adapters to hear, on speech recognition and captioning.
``joint`` is stage 3 (paper 4.3): translation and alignment at the selected layers, trained together.

A finished run is a model folder (``aista.load`` reads it) that also holds ``settings.yaml``, ``history.json``
(every logged figure) and, written last, ``training.json`` (steps, seconds, best validation).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from aista import processes
from aista.alignment import Sizes, alignment, method
from aista.config import (
    AlignmentSettings,
    AlignSettings,
    JointSettings,
    LoraSettings,
    ModelSettings,
    PretrainSettings,
    TrainSettings,
)
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import ConfigError, Interrupted
from aista.files import write_whole
from aista.model.feature_cache import cached_features
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.run_folder import claim, inputs_of, read_selected
from aista.speech_llm import SpeechLM
from aista.speech_llm.adapter import require_trainable
from aista.speech_llm.decoder import check_layers
from aista.training.callbacks import PROGRESS
from aista.training.checkpointing import last_checkpoint, writing
from aista.training.objective import OWN_WEIGHTS, AlignObjective, SpeechTextObjective
from aista.training.optimisation import require_reporters
from aista.training.preflight import before_training
from aista.training.trainer import AistaTrainer, AlignTrainer, TrainingData

FINISHED = "training.json"
StageSettings = AlignSettings | PretrainSettings | JointSettings
BFLOAT16 = ("avx512_bf16", "amx_bf16")  # what a CPU must have to multiply it in hardware
LARGE = 100_000_000  # parameters of a backbone whose steps are long enough to speak of


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: The model folder.
        steps: Optimiser steps taken.
        seconds: Time spent training, over all resumptions.
        best_token_accuracy: Of the kept model, where there was a validation.
        best_mrr: The same of an alignment without cross-entropy.
    """

    folder: Path
    steps: int
    seconds: float
    best_token_accuracy: float | None = None
    best_mrr: float | None = None


def align(settings: AlignSettings, trainer: type[AlignTrainer] = AlignTrainer) -> Run:
    """Train the Q-Former and the projection against the frozen backbone's text side.

    They let speech find its transcript in the batch (the retrieval objective) at the embedding layer, where
    no block of the language model runs, or at chosen inner layers. The folder is a model that ``aista
    pretrain --set init=FOLDER`` and ``aista select`` take; it cannot translate yet.

    Args:
        trainer: Another one, for measurements of its own.

    Raises:
        ConfigError: There is no such layer, or the method does not take these options or needs logits.
    """

    def start() -> AlignObjective:
        speech_llm, chosen = starting_model(settings), settings.alignment
        check_layers(chosen.layers, speech_llm.num_layers)
        sizes = Sizes(speech_llm.hidden_size, speech_llm.vocabulary, settings.seed)
        aligner = alignment(chosen.method, tuple(chosen.layers), sizes, **chosen.options)
        if aligner.needs_logits or not aligner.layers:
            raise ConfigError(
                "This method looks at no hidden states: it needs a whole pass of the language model.",
                got=chosen.method,
                expected="retrieval, wasserstein, contrastive or ctc",
            )
        return AlignObjective(speech_llm, aligner)

    return _stage(settings, start, trainer)


def pretrain(settings: PretrainSettings) -> Run:
    """Train LayerNorms, Q-Former, projection and LoRA with the causal LM loss on the target (Eq. 2).

    The paper aligns nothing here; ``alignment`` is for finding out what it would do.
    """
    return _stage(settings, lambda: aligned(starting_model(settings), settings.alignment, seed=settings.seed))


def joint(settings: JointSettings) -> Run:
    """Fine-tune a stage-1 model, or any speech LLM, with Eq. 6.

    ``alignment.method: none`` trains the base of the paper's tables.
    """
    return _stage(settings, lambda: aligned(starting_model(settings), settings.alignment, seed=settings.seed))


def _stage(
    settings: StageSettings,
    start: Callable[[], SpeechTextObjective],
    trainer: type[AistaTrainer] = AistaTrainer,
) -> Run:
    """Train in the folder of a stage, go on where an earlier attempt stopped, or read what is finished.

    Args:
        start: Makes the objective, once the folder is claimed.

    Raises:
        Interrupted: A signal stopped the run after saving it.
        TrainingError: The loss stopped being finite.
    """
    output = Path(settings.output)
    require_reporters(settings.train)  # before the folder is claimed
    with claim(output, settings, lambda: inputs_of(settings), result=FINISHED) as done:
        if not done:
            return _train(settings, start(), trainer)
        row = json.loads((output / FINISHED).read_text())
        return Run(output, row["steps"], row["seconds"], row.get("best_token_accuracy"), row.get("best_mrr"))


def _train(settings: StageSettings, objective: SpeechTextObjective, trainer: type[AistaTrainer]) -> Run:
    """Train in a claimed folder; under a launcher every process on its share of each batch."""
    output = Path(settings.output)
    speed_up(objective.model, settings.train)
    if processes.is_main() and not isinstance(settings, AlignSettings):
        recommend_bfloat16(objective.model)
    if settings.train.pack_rows:
        objective.speech_llm.pack_rows()
    data = _data(settings, objective)
    running = trainer(objective, settings.train, output, settings.seed, data)
    speech_llm = objective.speech_llm
    # Recognition is a direction too, of a language into itself.
    taught = {f"{row.src_lang}-{row.answer_lang}" for row in data.train.utterances() if row.task != "aac"}
    speech_llm.directions = {*speech_llm.directions, *taught}
    if isinstance(settings, JointSettings) and processes.is_main():
        before_training(speech_llm, data.train, objective.alignment, objective.alpha, output)
    set_seed(settings.seed + processes.rank())  # dropout: every process draws its own
    checkpoint = processes.by_main(lambda: last_checkpoint(output))
    running.train(Path(checkpoint) if checkpoint else None)
    if running.stop.stopped:
        raise Interrupted(
            f"Stopped at step {running.state.global_step} of {settings.train.max_steps}; nothing is lost.",
            advice="Run the same command again to go on.",
        )
    running.save_model(output)
    with writing(output):
        return processes.by_main(lambda: _finish(output, running))


def speed_up(model: Any, settings: TrainSettings) -> None:
    """Apply the switches that change speed and memory, not results: attention kernels, compiled blocks.

    Raises:
        ConfigError: This backbone or machine does not have the asked attention.
    """
    if settings.attn_implementation:
        try:
            model.get_decoder().set_attn_implementation(settings.attn_implementation)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                "This attention cannot be had.", got=error, expected="sdpa, eager or flash_attention_2"
            ) from error
    if settings.compile_blocks:
        for block in SpeechLM(model).decoder.blocks:
            # The forward alone: hooks that take hidden states must stay outside what is compiled.
            block.forward = torch.compile(block.forward, dynamic=True)


def recommend_bfloat16(model: Any) -> None:
    """Say where it would be several times as fast; results differ a little, so that the user chooses."""
    decoder = model.get_decoder()
    weights = next(decoder.parameters())
    capable: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 lacks it
    is_slow = weights.device.type == "cpu" and weights.dtype == torch.float32
    if is_slow and any(map(capable.get, BFLOAT16)) and sum(map(torch.numel, decoder.parameters())) >= LARGE:
        Console(stderr=True).print(
            "The backbone is float32, and this CPU multiplies bfloat16 several times as fast: "
            "--set dtype=bfloat16 (model.dtype for new adapters) --set train.precision=bf16", soft_wrap=True,
        )  # fmt: skip


def _data(settings: StageSettings, objective: SpeechTextObjective) -> TrainingData:
    """Return what the run reads; every row is looked at before features are computed and steps taken."""
    data, speech_llm = settings.data, objective.speech_llm
    if (data.max_seconds or 0) > speech_llm.longest_seconds + 1e-6:
        raise ConfigError(
            "data.max_seconds is more than the model hears at once.",
            got=data.max_seconds,
            expected=f"at most {speech_llm.longest_seconds:g}",
            advice="Leave it out, and let data.too_long say what becomes of longer clips (skip, segment).",
        )
    limits: dict[str, Any] = {
        "max_corrupt_share": data.max_corrupt_share,
        "max_seconds": data.max_seconds or speech_llm.longest_seconds,
        "too_long": data.too_long,
    }
    datasets = [
        SpeechDataset([Manifest(path) for path in paths], **limits)
        for paths in (data.train, data.validation)
        if paths
    ]
    collator = Collator(
        speech_llm.batcher,
        transcripts=objective.alignment.active,
        transcript_answers=objective.alignment.needs_logits,
        prompt_pool=settings.prompt_pool,
        seed=settings.seed,
    )
    if processes.is_main():
        collator.check(*datasets)
    if data.features:
        paths = [*data.train, *data.validation]
        store = cached_features(speech_llm.model, speech_llm.processor, paths, data.features, **limits)
        for dataset in datasets:
            dataset.use_features(store)
    validation = datasets[1] if data.validation else None
    return TrainingData(datasets[0], validation, collator, data.weights, data.num_workers)


def _finish(output: Path, trainer: AistaTrainer) -> Run:
    """Write what stands beside the model, and the mark of completeness last."""
    speech_llm = trainer.trained_module.speech_llm
    if speech_llm.is_ours:  # somebody else's processor is its base's
        speech_llm.processor.save_pretrained(output)
    (output / OWN_WEIGHTS).unlink(missing_ok=True)  # training alone needs it
    write_whole(output / "history.json", json.dumps(trainer.state.log_history, indent=1))
    best = {f"best_{trainer.metric}": trainer.state.best_metric}
    seconds = trainer.clock.seconds
    run = Run(output, trainer.state.global_step, seconds, **best)
    row = {
        "steps": run.steps,
        "seconds": round(seconds, 1),
        **best,
        "padding_waste": round(trainer.sampler.padding_waste(), 4),
        "training_data": trainer.data.train.account(),
        "trained_parameters": sum(p.numel() for p in trainer.trained_module.parameters() if p.requires_grad),
        "torch": torch.__version__,
    }
    write_whole(output / FINISHED, json.dumps(row, indent=1))
    (output / PROGRESS).unlink(missing_ok=True)  # history.json has it all
    return run


def fresh_model(settings: ModelSettings, seed: int) -> tuple[AistaForConditionalGeneration, AistaProcessor]:
    """Put new, seeded adapters between frozen bases.

    Raises:
        CheckpointError: A base cannot be found or read.
    """
    model = AistaForConditionalGeneration.from_bases(**settings.model_dump(), seed=seed)
    return model, AistaProcessor.from_config(model.config)


def starting_model(settings: StageSettings) -> SpeechLM:
    """Return what a stage starts from: a saved model or any speech LLM (``init``), or adapters on bases."""
    if settings.init is not None:
        asked = settings.lora.model_dump()
        require_trainable(settings.init, asked)
        speech_llm = SpeechLM.load(settings.init, dtype=settings.dtype)
        own = speech_llm.lora
        if own is not None and asked not in (own, LoraSettings().model_dump()):
            raise ConfigError(
                "The model to start from has LoRA already, which stays as it is.",
                got=f"lora: {asked}",
                expected=f"{own}, or nothing said",
                advice="It is chosen where a model begins: model.lora of `aista align` or `aista pretrain`, "
                "or lora of the first stage on somebody else's model.",
            )
        return speech_llm.to_train(asked, settings.seed)
    assert not isinstance(settings, JointSettings) and settings.model is not None  # the settings see to it
    return SpeechLM(*fresh_model(settings.model, settings.seed))


def aligned(speech_llm: SpeechLM, settings: AlignmentSettings, *, seed: int) -> SpeechTextObjective:
    """Return the objective of Eq. 6 for a model.

    Args:
        seed: Of the method's own parameters.

    Raises:
        ConfigError: There is no such method or layer, or the method does not take these options.
    """
    layers = _aligned_layers(settings, speech_llm.num_layers)
    sizes = Sizes(speech_llm.hidden_size, speech_llm.vocabulary, seed)
    aligner = alignment(settings.method, layers, sizes, **settings.options)
    return SpeechTextObjective(speech_llm, aligner, settings.alpha)


def _aligned_layers(settings: AlignmentSettings, num_layers: int) -> tuple[int, ...]:
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
            advice="Lower the threshold of `aista select`, or name layers: --set alignment.layers=[0] (in a "
            "sweep at base scale: --set joint.alignment.layers=[0] --set evaluate.layers=[0]).",
        )
    if outside := [layer for layer in chosen if not 0 <= layer <= num_layers]:
        raise ConfigError(
            f"The backbone has no layer {outside}.", expected=f"0 (embedding) to {num_layers} (last block)"
        )
    return chosen
