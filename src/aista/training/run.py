"""What every training stage shares: start or resume, train, leave one finished folder behind.

A finished run is a model folder (``aista.load`` reads it) that also holds ``settings.yaml``, ``history.json``
(every logged figure) and, written last, ``training.json`` (steps, seconds, best validation).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from aista import processes
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.config import AlignSettings, DataSettings, JointSettings, PretrainSettings, TrainSettings
from aista.data.collate import Collator, SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import ConfigError, TrainingError
from aista.files import write_whole
from aista.model.feature_cache import cached_features
from aista.speech_llm import Batcher, SpeechLM
from aista.training.journal import PROGRESS
from aista.training.objective import OWN_WEIGHTS, SpeechTextObjective
from aista.training.preflight import before_training
from aista.training.saves import last_checkpoint, writing
from aista.training.trainer import AistaTrainer, TrainingData

FINISHED = "training.json"
StageSettings = AlignSettings | PretrainSettings | JointSettings


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


class Interrupted(TrainingError):
    """The run was stopped by a signal; its state is saved and the same command goes on."""


def finished_run(output: Path) -> Run:
    """Read the run of a folder that is finished."""
    row = json.loads((output / FINISHED).read_text())
    return Run(output, row["steps"], row["seconds"], row.get("best_token_accuracy"), row.get("best_mrr"))


def train(
    settings: StageSettings,
    objective: SpeechTextObjective,
    processor: Any,
    trainer: type[AistaTrainer] = AistaTrainer,
) -> Run:
    """Train in a claimed folder, under the settings of a stage; go on where an earlier attempt stopped.

    Under a launcher every process trains on its share of each batch; the main one writes.

    Raises:
        Interrupted: A signal stopped the run after saving it.
        TrainingError: The loss stopped being finite.
    """
    output = Path(settings.output)
    speed_up(objective.model, settings.train)
    set_seed(settings.seed)
    data = _data(settings, objective, processor)
    running = trainer(objective, settings.train, output, settings.seed, data)
    config = objective.config
    config.directions = sorted({*(config.directions or ()), *directions(data.train)})
    if isinstance(settings, JointSettings) and processes.is_main():
        before_training(objective.model, processor, data.train, objective.alignment, objective.alpha, output)
    set_seed(settings.seed + processes.rank())  # dropout: every process draws its own
    start = time.perf_counter()
    seconds_before = _seconds_so_far(output)
    checkpoint = processes.by_main(lambda: last_checkpoint(output))
    running.train(Path(checkpoint) if checkpoint else None)
    seconds = seconds_before + time.perf_counter() - start
    if processes.is_main():
        write_whole(output / "seconds", f"{seconds:.3f}")
    if running.stop.stopped:
        raise Interrupted(
            f"Stopped at step {running.state.global_step} of {settings.train.max_steps}; nothing is lost.",
            advice="Run the same command again to go on.",
        )
    running.save_model(output)
    with writing(output):
        return processes.by_main(lambda: _finish(output, running, processor, seconds))


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


def _data(settings: StageSettings, objective: SpeechTextObjective, processor: Any) -> TrainingData:
    """Return what the run reads."""
    data: DataSettings = settings.data
    limits: dict[str, Any] = {
        "max_corrupt_share": data.max_corrupt_share,
        "max_seconds": data.max_seconds or objective.config.max_samples / SAMPLE_RATE_HZ,
        "too_long": data.too_long,
    }
    store = None
    if data.features:
        paths = [*data.train, *data.validation]
        store = cached_features(objective.model, processor, paths, data.features, **limits)

    def dataset(paths: list[str]) -> SpeechDataset:
        return SpeechDataset([Manifest(path) for path in paths], features=store, **limits)

    collator = Collator(
        Batcher(processor, objective.config),
        transcripts=objective.alignment.active,
        transcript_answers=objective.alignment.needs_logits,
        prompt_pool=settings.prompt_pool,
        seed=settings.seed,
    )
    validation = dataset(data.validation) if data.validation else None
    return TrainingData(dataset(data.train), validation, collator, data.weights, data.num_workers)


def directions(dataset: SpeechDataset) -> set[str]:
    """Return what a dataset teaches, e.g. ``{"en-en", "en-zh"}``: recognition is a language into itself."""
    return {f"{row.src_lang}-{row.answer_lang}" for row in dataset.utterances() if row.task != "aac"}


def _seconds_so_far(output: Path) -> float:
    path = output / "seconds"
    return float(path.read_text()) if path.exists() else 0.0


def _finish(output: Path, trainer: AistaTrainer, processor: Any, seconds: float) -> Run:
    """Write what stands beside the model, and the mark of completeness last."""
    processor.save_pretrained(output)
    (output / OWN_WEIGHTS).unlink(missing_ok=True)  # training alone needs it
    write_whole(output / "history.json", json.dumps(trainer.state.log_history, indent=1))
    best = {f"best_{trainer.metric}": trainer.state.best_metric}
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
